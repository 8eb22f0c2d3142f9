"""Images without labels: all images of a folder at any depth, each lost one reported, labels never read."""

import csv

import datasets
import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value
from real_digits import digit_image, encoded_digit, write_class_folder, write_digit

from modeling_vit_custom.audit.gate import audit_before_training
from modeling_vit_custom.common.errors import DataError
from modeling_vit_custom.data.source import Columns, Source
from modeling_vit_custom.data.sources import assemble
from modeling_vit_custom.data.targets import NoTargets
from modeling_vit_custom.data.unlabelled import read_unlabelled


def test_every_image_of_a_folder_however_deep(tmp_path):
    paths = [
        write_digit(tmp_path / name, 3, n)
        for n, name in enumerate(["2.png", "10.png", "a/1.png", "a/b/c/d.PNG", "test/7.png", "test.png"])
    ]
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    raw = read_unlabelled(Source(tmp_path))
    assert set(raw) == {"train"} and sorted(raw["train"].images) == sorted(map(str, paths))
    first, second = raw["train"].notes
    assert "8 files on disk, 6 images" in first and "(a 2, test 1)" in first
    assert "NOT USED, 2 file(s)" in second and "a/notes.txt" in second and ".hidden.png" in second
    splits = assemble(raw, 0.34, None, None, seed=0)
    assert splits.id2label == {} and isinstance(splits.train.targets, NoTargets) and splits.test is None
    assert sorted(splits.train.names + splits.validation.names) == sorted(map(str, paths))
    assert (len(splits.train), len(splits.validation)) == (4, 2)
    again = assemble(raw, 0.34, None, None, seed=0)
    assert again.validation.names == splits.validation.names


def test_splits_are_kept_apart_and_the_test_set_is_left_alone(tmp_path):
    for split, count in {"train": 5, "val": 3, "test": 2}.items():
        write_class_folder(tmp_path / "all" / split, {"0": count, "1": count})
    splits = assemble(read_unlabelled(Source(tmp_path / "all")), 0.5, 7, 4, seed=0)
    assert (len(splits.train), len(splits.validation)) == (7, 4)
    assert all("/val/" in name for name in splits.validation.names)
    assert any("test: 4 images NOT USED" in note for note in splits.notes)
    other = write_class_folder(tmp_path / "other", {"8": 6})
    assert len(read_unlabelled(Source(tmp_path / "all", other))["validation"]) == 6


def test_a_table_and_a_dataset_need_no_labels(tmp_path):
    rows = [[str(write_digit(tmp_path / f"{n}.png", 1, n))] for n in range(4)]
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file"], *rows])
    assert read_unlabelled(Source(tmp_path / "t.csv"), Columns("file"))["train"].images == [row[0] for row in rows]
    with pytest.raises(DataError, match=r"has no column 'image', its columns are file. .*--image_column_name"):
        read_unlabelled(Source(tmp_path / "t.csv"))
    images = {"image": [digit_image(1, n) for n in range(4)], "label": [None] * 4}  # the labels are not even read
    saved = Dataset.from_dict(images, features=Features({"image": Image(), "label": Value("string")}))
    DatasetDict(train=saved, test=saved).save_to_disk(tmp_path / "saved")
    raw = read_unlabelled(Source(dataset_name=str(tmp_path / "saved")))
    assert set(raw) == {"train"} and raw["train"].images[2][:4] == b"\x89PNG"


def test_a_dataset_is_kept_where_that_is_asked(tmp_path, monkeypatch):
    """Guards --cache_dir: reading labelled data used it, but reading images without labels did not."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "usual")
    (tmp_path / "d").mkdir()
    Dataset.from_dict({"image": [encoded_digit(1, n) for n in range(4)]}).to_parquet(tmp_path / "d" / "train.parquet")
    raw = read_unlabelled(Source(dataset_name=str(tmp_path / "d"), cache_dir=str(tmp_path / "asked")))
    assert len(raw["train"]) == 4
    assert list((tmp_path / "asked").rglob("*.arrow")) and not list((tmp_path / "usual").rglob("*.arrow"))


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(DataError, match="nothing is not a folder"):
        read_unlabelled(Source(tmp_path / "nothing"))
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match=r"no image among the 1 file\(s\)"):
        read_unlabelled(Source(tmp_path))
    write_digit(tmp_path / "one.png", 1)
    with pytest.raises(DataError, match="no validation split"):
        assemble(read_unlabelled(Source(tmp_path)), 0.1, None, None, seed=0)


def test_copies_stop_nothing_and_images_lost_for_their_names_do(tmp_path):
    for n in range(10):
        write_digit(tmp_path / "d" / f"{n}.png", 1, n)
    write_digit(tmp_path / "d" / "copy.png", 1, 0)
    raw = read_unlabelled(Source(tmp_path / "d"))
    (leak,) = audit_before_training(raw, "refuse", tolerated=("leak",))
    assert (leak.code, leak.severity) == ("leak", "warning") and "copy.png [train]" in leak.examples[0].text
    (tmp_path / "d" / "9.png").rename(tmp_path / "d" / "9.image")
    with pytest.raises(DataError, match=r"left out for how their names end.*9\.image"):
        audit_before_training(read_unlabelled(Source(tmp_path / "d")), "refuse", tolerated=("leak",))
