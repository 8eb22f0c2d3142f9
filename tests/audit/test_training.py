"""The audit before training stops a run whose result would be silently wrong, unless the user turns it off."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from audit_folders import put
from image_files import encode, without_plugins
from real_digits import digit_image, write_class_folder, write_digit
from tiny_training import command, tiny_train

from modeling_vit_custom.audit.duplicates import same_bytes
from modeling_vit_custom.audit.gate import audit_before_training, format_finding
from modeling_vit_custom.commands.train import main
from modeling_vit_custom.common.errors import DataError
from modeling_vit_custom.data.source import Source
from modeling_vit_custom.data.sources import read_splits


@pytest.fixture
def folder(tmp_path):
    """Return a folder with 24 training, 4 validation and 4 test images of two digits."""
    root = tmp_path / "digits"
    for split, (count, first) in {"train": (12, 0), "validation": (2, 20), "test": (2, 30)}.items():
        write_class_folder(root / split, {"0": count, "1": count}, first)
    return root


def copy(source, target):
    put(target, source.read_bytes())


SILENTLY_WRONG = {
    "two labels": (
        lambda root: copy(root / "train/0/3.png", root / "train/1/copy.png"),
        r"more than once, with different labels: 1 .*3\.png \[train, 0\] = .*copy\.png \[train, 1\]",
    ),
    "a leak": (
        lambda root: copy(root / "train/0/3.png", root / "test/0/copy.png"),
        r"images of test that also lie in another split \(20\.0% of 5\): 1",
    ),
    "unread photographs": (
        lambda root: put(root / "train/0/phone.heic", b"\0" * 30),
        r"images that would be left out .*1 \.heic",
    ),
    "an image by another name": (
        lambda root: put(root / "train/0/IMG_7", encode(digit_image(0, 40), "JPEG")),
        r"images that would be left out .*1 no suffix",
    ),
}


@pytest.mark.parametrize("fault", SILENTLY_WRONG)
def test_what_would_be_silently_wrong_is_refused(folder, fault, monkeypatch):
    without_plugins(monkeypatch)
    assert audit_before_training(read_splits(Source(folder)), "refuse") == []
    make, message = SILENTLY_WRONG[fault]
    make(folder)
    raw = read_splits(Source(folder))
    with pytest.raises(DataError, match=message) as refused:
        audit_before_training(raw, "refuse")
    assert "--audit warn" in str(refused.value) and "audit_data" in str(refused.value)
    assert [format_finding(one).startswith("ERROR, ") for one in audit_before_training(raw, "warn")] == [True]
    assert audit_before_training(raw, "off") == []


def test_splits_taken_for_classes_are_refused(tmp_path):
    for n in range(4):
        write_digit(tmp_path / "train" / f"{n}.png", n)
        write_digit(tmp_path / "test" / f"{n}.png", n, 1)
    with pytest.raises(DataError, match="called as splits are, and no others"):
        audit_before_training(read_splits(Source(tmp_path)), "refuse")


def test_the_rest_is_said(folder):
    (folder / "train" / "empty").mkdir()
    put(folder / "train" / "more.zip", b"PK")
    for n in range(12):
        write_digit(folder / "train" / "1 " / f"{n}.png", 7, n)
    (folder / "train" / "1 ").rename(folder / "train" / "1_")
    sentences = [format_finding(one) for one in audit_before_training(read_splits(Source(folder)), "refuse")]
    assert all(sentence.startswith("WARNING, ") for sentence in sentences)
    for words in ("archives", "'1' and '1_'", "without any image", "a held-out split lacks"):
        assert sum(words in sentence for sentence in sentences) == 1, words


def test_copies_in_a_train_that_is_divided_here(folder):
    copy(folder / "train/0/3.png", folder / "train/0/copy.png")
    assert audit_before_training(read_splits(Source(folder)), "refuse") == [], "validation is a split of its own"
    with pytest.raises(DataError, match="validation will be drawn from it"):
        audit_before_training(read_splits(Source(folder / "train")), "refuse")


def test_equal_files_are_distinguished_from_similar_ones(tmp_path):
    """The files are equal in size and at both ends but not in the middle; one file is missing."""
    start, end = b"s" * 5000, b"e" * 5000
    contents = [start + b"one" + end, start + b"two" + end, start + b"one" + end, b"short", b"short", b"other"]
    files = [str(put(tmp_path / f"{i}", content)) for i, content in enumerate(contents)]
    assert sorted(same_bytes([*files, str(tmp_path / "gone")])) == [[0, 2], [3, 4]]
    assert sorted(same_bytes(contents)) == [[0, 2], [3, 4]]
    assert same_bytes([np.zeros((2, 2)), np.zeros((2, 2))]) == []


def test_encoded_images_of_a_table(tmp_path):
    encoded = [encode(digit_image(i % 2, i), "PNG") for i in range(8)]
    rows = {"image": [*encoded, encoded[0]], "label": [*("no" if i % 2 else "yes" for i in range(8)), "no"]}
    pq.write_table(pa.table(rows), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"row 1 of .* \[train, yes\] = row 9 of .* \[train, no\]"):
        audit_before_training(read_splits(Source(tmp_path / "train.parquet")), "refuse")


def test_the_command_refuses_before_any_work_and_continues_when_asked(folder, tmp_path, capsys):
    copy(folder / "train/0/3.png", folder / "train/1/copy.png")
    flags = ("--train_dir", folder, "--num_train_epochs", 1)
    assert main(command(tmp_path / "o", *flags)) == 2
    assert "the result would be silently wrong" in capsys.readouterr().err
    assert list((tmp_path / "o").iterdir()) == []
    metrics = tiny_train(tmp_path / "o", *flags, "--audit", "warn")
    assert metrics["train"]["n"] == 25
    assert "ERROR, images that occur more than once" in capsys.readouterr().out
