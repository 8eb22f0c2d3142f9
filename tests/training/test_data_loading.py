"""The flags of data reach the readers, each value in its field."""

from dataclasses import fields

import pytest
from PIL import Image
from real_digits import write_class_folder, write_digit
from tiny_training import tiny_train

from modeling_vit_custom.commands.training_flags import parse_args
from modeling_vit_custom.common.errors import DataError
from modeling_vit_custom.data.source import Columns, Source
from modeling_vit_custom.training.runs.data_loading import named_data

FLAGS = {
    "train_dir": "a", "validation_dir": "b", "test_dir": "c", "dataset_name": "d", "dataset_config_name": "e",
    "dataset_revision": "f", "image_column_name": "g", "label_column_name": "h,i", "label_separator": ";",
    "problem_type": "regression", "follow_links": "true",
}  # fmt: skip


def named_by(tmp_path, **flags: str) -> tuple[Source, Columns]:
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    return named_data(*parse_args(["--output_dir", str(tmp_path), "--use_cpu", "true", *words])[1:])


def test_every_flag_has_its_field(tmp_path):
    source, columns = named_by(tmp_path, **FLAGS)
    assert source == Source("a", "b", "c", "d", "e", "f", follow_links=True)
    assert columns == Columns("g", "h,i", ";", "regression")
    without = {"cache_dir", "split"}  # no flag names a dataset's cache folder; train takes every split
    assert len(FLAGS) == len(fields(Source)) + len(fields(Columns)) - len(without)


def test_an_image_that_is_too_large_is_named_with_the_flag_that_lifts_the_limit(tmp_path):
    folder = write_class_folder(tmp_path / "d", {"0": 8, "1": 8})
    large = write_digit(folder / "0" / "scan.png", 0, 9)
    Image.open(large).resize((40, 40)).save(large)
    flags = ("--train_dir", folder, "--num_train_epochs", 1, "--max_pixels", 1599)
    with pytest.raises(DataError, match=r"scan\.png: refused .* 1,599 pixels.* Fix: shrink it, or raise --max_pixels"):
        tiny_train(tmp_path / "o", *flags)
    assert tiny_train(tmp_path / "o", *flags[:-1], 1600)["train"]["n"] > 0


def test_what_is_not_said_is_the_same_with_and_without_flags(tmp_path):
    assert named_by(tmp_path) == (Source(), Columns())


def test_a_built_in_dataset_is_written_and_read_from_there(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_vit_custom.training.runs.data_loading.write_mnist5k", lambda folder: folder)
    source, _ = named_by(tmp_path, dataset="mnist5k", data_root=str(tmp_path))
    assert source.train == str(tmp_path / "mnist5k")
