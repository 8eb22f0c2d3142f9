"""Data sources: every file is an example or named in a note, and labels mean what the source says."""

import csv
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from image_files import without_plugins
from loaded_splits import load_splits
from real_digits import digit_image, write_class_folder, write_digit

from modeling_vit_custom.common.errors import DataError
from modeling_vit_custom.data.sources import with_label_ids
from modeling_vit_custom.data.targets import ClassIds, MultiHot, Values


def write_csv(path: Path, header: list[str], rows: list[list]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def png_bytes(digit: int, number: int = 0) -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    digit_image(digit, number).save(buffer, format="PNG")
    return buffer.getvalue()


def test_folder_of_classes(tmp_path):
    write_class_folder(tmp_path, {"10": 8, "2": 8, "1": 4})
    splits = load_splits(tmp_path, train_val_split=0.25, seed=3)
    assert splits.problem_type == ClassIds.problem_type
    assert splits.id2label == {0: "1", 1: "2", 2: "10"}  # sorted by value, not as text (1, 10, 2)
    assert (len(splits.train), len(splits.validation), splits.test) == (15, 5, None)
    for split in (splits.train, splits.validation):
        for name, label in zip(split.names, split.targets.values, strict=True):
            assert splits.id2label[int(label)] == Path(name).parent.name
    assert not set(splits.train.names) & set(splits.validation.names)


def test_file_names_like_splits_lose_nothing(tmp_path):
    """`datasets`' imagefolder keeps 3 of these 33 images, because it takes names such as train.png for splits."""
    write_class_folder(tmp_path, {"bus 0": 10, "car 1": 10, "train 2": 10})
    for name, digit in [("bus 0/train.png", 0), ("car 1/test_tube.png", 1), ("train 2/validation.png", 2)]:
        write_digit(tmp_path / name, digit, 30)
    splits = load_splits(tmp_path)
    assert len(splits.train) + len(splits.validation) == 33
    assert list(splits.id2label.values()) == ["bus 0", "car 1", "train 2"]


def test_files_on_disk_are_all_accounted_for(tmp_path, monkeypatch):
    write_class_folder(tmp_path, {"a0": 3, "b1": 3})
    (tmp_path / "empty").mkdir()
    write_digit(tmp_path / "stray.png", 4)
    write_digit(tmp_path / "a0" / ".hidden.png", 0, 7)
    write_digit(tmp_path / "b1" / "deep" / "er" / "x.png", 1, 8)
    write_digit(tmp_path / "a0" / "UPPER.PNG", 0, 9)
    without_plugins(monkeypatch)
    for name in ("a0/phone.heic", "a0/notes.txt", "b1/no_suffix", "labels.csv"):
        (tmp_path / name).write_bytes(b"x")
    splits = load_splits(tmp_path)
    used = {*splits.train.names, *splits.validation.names}
    on_disk = {str(path) for path in tmp_path.rglob("*") if path.is_file()}
    text = " ".join(splits.notes)
    assert len(used) == 8 and str(tmp_path / "b1/deep/er/x.png") in used and str(tmp_path / "a0/UPPER.PNG") in used
    for path in on_disk - used:
        assert Path(path).name in text, f"{path} is neither an example nor named"
    assert "14 files on disk, 8 examples of 2 classes" in text
    assert "NOT READ HERE, 1 image(s) by name: a0/phone.heic. Fix: pip install pillow-heif, or convert" in text
    assert "left out of the label map: empty" in text and "empty" not in splits.id2label.values()


@pytest.mark.parametrize("names", [("train", "validation", "test"), ("Training", "val", "testing")])
def test_folder_of_splits(tmp_path, names):
    for first, (name, count) in enumerate(zip(names, (5, 3, 2), strict=True)):
        write_class_folder(tmp_path / name, {"3": count, "8": count}, first=10 * first)
    (tmp_path / "README.md").write_text("not a folder")
    splits = load_splits(tmp_path)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [10, 6, 4]
    assert splits.id2label == {0: "3", 1: "8"}


def test_classes_called_train_and_test_stay_classes(tmp_path):
    for name in ("train", "test"):
        write_digit(tmp_path / name / "0.png", 0)
        write_digit(tmp_path / name / "1.png", 1)
    assert list(load_splits(tmp_path).id2label.values()) == ["test", "train"]


def test_folders_beside_splits_are_not_guessed_about(tmp_path):
    write_class_folder(tmp_path / "train", {"0": 2, "1": 2})
    write_class_folder(tmp_path / "unlabelled", {"0": 2})
    with pytest.raises(DataError, match=r"unlabelled.*--train_dir"):
        load_splits(tmp_path)
    write_class_folder(tmp_path / "val", {"0": 2, "1": 2})
    write_class_folder(tmp_path / "valid", {"0": 2, "1": 2})
    with pytest.raises(DataError, match=r"both look like the validation split"):
        load_splits(tmp_path)


def test_separate_folders_and_class_sets(tmp_path):
    train = write_class_folder(tmp_path / "a", {"0": 3, "1": 3, "2": 3})
    validation = write_class_folder(tmp_path / "b", {"0": 1, "1": 1}, first=5)
    splits = load_splits(train, validation)
    assert any("validation has no image of class(es) 2" in note for note in splits.notes)
    write_digit(validation / "eel 7" / "0.png", 7)
    with pytest.raises(DataError, match=r"validation holds class.*eel 7"):
        load_splits(train, validation)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "no image in"),
        (lambda root: write_digit(root / "x.png", 1), "1 image\\(s\\) outside any class folder"),
        (lambda root: write_class_folder(root, {"only1": 3}), "two or more"),
        (lambda root: (root / "c").mkdir() or (root / "c" / "x.txt").write_text("hi"), "1 .txt"),
        (lambda root: write_class_folder(root, {"<b>1": 1, "0": 1}), "'<b>1'.*'<'"),
        (lambda root: write_class_folder(root, {"a\n1": 1, "0": 1}), "control characters"),
        (lambda root: write_class_folder(root, {"caf\u00e9 1": 1, "cafe\u0301 1": 1}), "same name"),
        (lambda root: write_class_folder(root, {"0": 1, "1": 1}), "no validation split"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(DataError, match=message):
        load_splits(tmp_path)


def test_links(tmp_path):
    inside = write_class_folder(tmp_path / "inside", {"0": 3, "1": 3})
    outside = write_digit(tmp_path / "outside" / "secret.png", 0, 9)
    os.symlink(inside / "0" / "0.png", inside / "0" / "again.png")
    assert len(load_splits(inside).train) == 5
    os.symlink(outside.parent, inside / "linked")
    with pytest.raises(DataError, match=r"leads out of.*--follow_links"):
        load_splits(inside)
    linked = load_splits(inside, follow_links=True)
    assert "linked" in linked.id2label.values()
    os.symlink(inside, inside / "0" / "circle")
    with pytest.raises(DataError, match=r"a folder it lies in"):
        load_splits(inside, follow_links=True)


def test_csv_keeps_text_as_it_is(tmp_path):
    for n in range(8):
        write_digit(tmp_path / "images" / f"{n}.png", n)
    rows = [[f"images/{n}.png", name] for n, name in enumerate(["NA", "None", "007", "é, b"] * 2)]
    splits = load_splits(write_csv(tmp_path / "train.csv", ["image", "label"], rows), train_val_split=0.5)
    assert set(splits.id2label.values()) == {"NA", "None", "007", "é, b"}
    by_name = dict(zip(splits.train.names, splits.train.targets.values, strict=True))
    by_name.update(zip(splits.validation.names, splits.validation.targets.values, strict=True))
    assert {name: splits.id2label[int(i)] for name, i in by_name.items()} == {
        str(tmp_path / file): label for file, label in rows
    }


def test_csv_of_another_dialect(tmp_path):
    write_class_folder(tmp_path, {"0": 4, "1": 4})
    text = "file;digit\n" + "".join(f"{d}/{n}.png;{d}\n" for d in (0, 1) for n in range(4))
    (tmp_path / "excel.csv").write_text(text, encoding="utf-8-sig")
    splits = load_splits(tmp_path / "excel.csv", image="file", label="digit")
    assert splits.id2label == {0: "0", 1: "1"} and splits.problem_type == ClassIds.problem_type


@pytest.mark.parametrize(
    ("labels", "targets", "id2label", "first"),
    [
        (["cat|dog", "dog", "", "bird|cat"], MultiHot, ["bird", "cat", "dog"], [0, 1, 1]),
        (["0.5", "1", "-2e-1", "0.75"], Values, ["label"], 0.5),
        (["10", "2", "10", "2"], ClassIds, ["2", "10"], 1),
    ],
)
def test_task_is_read_off_the_label_column(tmp_path, labels, targets, id2label, first):
    rows = []
    for n, label in enumerate(labels * 3):
        write_digit(tmp_path / f"{n}.png", n % 10)
        rows.append([f"{n}.png", label])
    table = write_csv(tmp_path / "t.csv", ["image", "label"], rows)
    splits = load_splits(table, validation=table)
    assert type(splits.train.targets) is targets and splits.problem_type == targets.problem_type
    assert list(splits.id2label.values()) == id2label
    values = splits.train.targets.values
    assert values.dtype == (np.int64 if targets is ClassIds else np.float32)
    np.testing.assert_allclose(values[0], first)
    if targets is MultiHot:
        assert values[2].sum() == 0
    if targets is not ClassIds:
        assert any(targets.problem_type in note for note in splits.notes), "the note must name the guessed task"


def test_task_can_be_named(tmp_path):
    rows = [[str(write_digit(tmp_path / f"{n}.png", n)), str(n)] for n in range(10)]
    table = write_csv(tmp_path / "t.csv", ["image", "label"], rows)
    splits = load_splits(table, validation=table, problem_type=Values.problem_type)
    np.testing.assert_array_equal(splits.train.targets.values, np.arange(10, dtype=np.float32))
    with pytest.raises(DataError, match=r"single-label, not regression"):
        load_splits(write_class_folder(tmp_path / "f", {"0": 2, "1": 2}), problem_type=Values.problem_type)


def test_several_label_columns(tmp_path):
    rows = [[str(write_digit(tmp_path / f"{n}.png", n)), n % 2, int(n > 4), n / 7] for n in range(10)]
    table = write_csv(tmp_path / "t.csv", ["image", "odd", "big", "share"], rows)
    splits = load_splits(table, validation=table, label="odd,big")
    assert splits.problem_type == MultiHot.problem_type and splits.id2label == {0: "odd", 1: "big"}
    np.testing.assert_array_equal(splits.train.targets.values, [[n % 2, n > 4] for n in range(10)])
    splits = load_splits(table, validation=table, label="share, odd")
    assert splits.problem_type == Values.problem_type and splits.train.targets.values.shape == (10, 2)
    with pytest.raises(DataError, match=r"'share' holds"):
        load_splits(table, label="share,odd", problem_type=MultiHot.problem_type)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["0.png", "a"], ["gone.png", "b"]], "1 of 2 files.*gone.png"),
        ([["0.png", "a"], ["", "b"]], "'image' is empty in row\\(s\\) 2"),
        ([["0.png", "a"], ["1.png", " "]], "no label for 1 example.*1.png"),
        ([["0.png", "a"], ["1.png", "a "]], "same name"),
        ([["0.png", "a"], ["1.png"]], "row\\(s\\) 2 have another number"),
        ([], "no rows"),
        ([["0.png", "1.5"], ["1.png", "nan"]], "two or more|not a finite number"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, rows, message):
    for n in range(2):
        write_digit(tmp_path / f"{n}.png", n)
    table = write_csv(tmp_path / "t.csv", ["image", "label"], rows)
    with pytest.raises(DataError, match=message):
        load_splits(table, problem_type=Values.problem_type if rows and rows[-1][-1] == "nan" else None)


def test_missing_column_lists_the_columns(tmp_path):
    table = write_csv(tmp_path / "t.csv", ["file", "class"], [["x.png", "a"]])
    with pytest.raises(DataError, match=r"no column 'image', its columns are file, class.*--image_column_name"):
        load_splits(table)


def test_parquet_with_bytes_dicts_and_paths(tmp_path):
    write_class_folder(tmp_path, {"0": 4, "1": 4})
    data = [png_bytes(d, n) for d in (0, 1) for n in range(4)]
    paths = [f"{d}/{n}.png" for d in (0, 1) for n in range(4)]
    labels = pa.array([0, 0, 0, 0, 1, 1, 1, 1])
    columns = {
        "bytes": pa.array(data),
        "dict": pa.array([{"bytes": b, "path": None} for b in data]),
        "path": pa.array(paths),
        "dict_path": pa.array(
            [{"bytes": None, "path": p} for p in paths],
            pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        ),
    }
    for name, column in columns.items():
        pq.write_table(pa.table({"image": column, "label": labels}), tmp_path / f"{name}.parquet")
        splits = load_splits(tmp_path / f"{name}.parquet", validation=tmp_path / f"{name}.parquet")
        assert splits.id2label == {0: "0", 1: "1"}
        found = [splits.train.images[i] for i in range(8)]
        assert [f if isinstance(f, bytes) else Path(f).read_bytes() for f in found] == data, name


def test_parquet_label_types(tmp_path):
    image = pa.array([png_bytes(n) for n in range(4)])
    for column, targets in [
        (pa.array([0.5, 1.0, 2.0, 3.0]), Values),
        (pa.array([["x", "y"], [], ["y"], ["x"]]), MultiHot),
        (pa.array([[0.5, 1.0], [0.25, 1.0], [0.1, 0.0], [0.0, 2.0]]), Values),
        (pa.array([True, False, True, False]), ClassIds),
    ]:
        pq.write_table(pa.table({"image": image, "label": column}), tmp_path / "t.parquet")
        splits = load_splits(tmp_path / "t.parquet", validation=tmp_path / "t.parquet")
        assert splits.problem_type == targets.problem_type


def digit_dataset(names: list[str], rows: int = 12) -> Dataset:
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    data = {"image": [digit_image(i % 3, i) for i in range(rows)], "label": [i % 3 for i in range(rows)]}
    return Dataset.from_dict(data, features=features)


def test_datasets_from_disk(tmp_path):
    DatasetDict(
        train=digit_dataset(["zero", "one", "two"]), test=digit_dataset(["zero", "one", "two"], 6)
    ).save_to_disk(tmp_path / "saved")
    splits = load_splits(dataset_name=str(tmp_path / "saved"), train_val_split=0.25)
    assert splits.id2label == {0: "zero", 1: "one", 2: "two"}  # a declared order is kept
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (9, 3, 6)
    assert isinstance(splits.test.images[0], bytes)  # undecoded
    np.testing.assert_array_equal(splits.test.targets.values, [0, 1, 2, 0, 1, 2])


def test_alphabetical_class_label_is_put_in_natural_order(tmp_path):
    digit_dataset(["1", "10", "2"]).save_to_disk(tmp_path / "saved")
    splits = load_splits(dataset_name=str(tmp_path / "saved"))
    assert splits.id2label == {0: "1", 1: "2", 2: "10"}


def test_datasets_multi_label_and_unlabelled(tmp_path):
    features = Features(
        {"img": Image(), "tags": List(ClassLabel(names=["b", "a"])), "label": ClassLabel(names=["x", "y"])}
    )
    data = {"img": [digit_image(n) for n in range(4)], "tags": [[0], [0, 1], [], [1]], "label": [0, 1, -1, 0]}
    Dataset.from_dict(data, features=features).save_to_disk(tmp_path / "d")
    splits = load_splits(dataset_name=str(tmp_path / "d"), image="img", label="tags", train_val_split=0.5)
    assert splits.problem_type == MultiHot.problem_type and splits.id2label == {0: "b", 1: "a"}
    with pytest.raises(DataError, match=r"class id -1 at row 3"):
        load_splits(dataset_name=str(tmp_path / "d"), image="img")
    with pytest.raises(DataError, match=r"no column 'image'"):
        load_splits(dataset_name=str(tmp_path / "d"))


def test_local_folder_of_parquet_files_as_dataset(tmp_path):
    dataset = Dataset.from_dict(
        {"image": [png_bytes(n % 2, n) for n in range(8)], "label": [float(n) for n in range(8)]}
    )
    (tmp_path / "d").mkdir()
    dataset.cast_column("label", Value("float32")).to_parquet(tmp_path / "d" / "train-00000.parquet")
    splits = load_splits(dataset_name=str(tmp_path / "d"), cache_dir=str(tmp_path / "cache"))
    assert splits.problem_type == Values.problem_type


def test_image_folder_given_as_dataset_is_sent_to_train_dir(tmp_path):
    write_class_folder(tmp_path, {"0": 2, "1": 2})
    with pytest.raises(DataError, match="--train_dir"):
        load_splits(dataset_name=str(tmp_path))
    with pytest.raises(DataError, match="--train_dir"):
        load_splits(dataset_name="imagefolder")


def test_caps_keep_the_label_map_and_the_shares(tmp_path):
    write_class_folder(tmp_path, {"0": 20, "1": 10, "2": 10})
    splits = load_splits(tmp_path, max_train_samples=8, max_eval_samples=2, train_val_split=0.2)
    assert len(splits.id2label) == 3 and len(splits.validation) == 2
    np.testing.assert_array_equal(np.bincount(splits.train.targets.values), [4, 2, 2])
    with pytest.raises(DataError, match=r"positive number"):
        load_splits(tmp_path, max_train_samples=0)


def test_relabelling_to_a_checkpoints_ids(tmp_path):
    write_class_folder(tmp_path, {"0": 4, "1": 4, "2": 4})
    splits = load_splits(tmp_path)
    moved = with_label_ids(splits, {0: "2", 1: "0", 2: "1"})
    for before, after in [(splits.train, moved.train), (splits.validation, moved.validation)]:
        assert [splits.id2label[i] for i in before.targets.values] == [moved.id2label[i] for i in after.targets.values]


def test_one_source_of_training_data(tmp_path):
    with pytest.raises(DataError, match=r"name the training data once"):
        load_splits()
    with pytest.raises(DataError, match=r"name the training data once"):
        load_splits("a", dataset_name="b")
