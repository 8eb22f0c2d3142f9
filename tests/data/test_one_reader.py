"""A table means the same, whichever option names the file: its labels, classes, task and order."""

import csv
import datetime
import gc
import json
import re
import shutil
from decimal import Decimal
from functools import partial
from io import StringIO
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from real_digits import encoded_digit, write_digit
from saved_models import save_ours

from modeling_vit_custom.commands.audit_data import main as audit_data
from modeling_vit_custom.commands.evaluate import main as evaluate
from modeling_vit_custom.commands.export import main as export
from modeling_vit_custom.commands.speed_table import main as speed_table
from modeling_vit_custom.common.errors import DataError
from modeling_vit_custom.data.eval_examples import load_eval_examples
from modeling_vit_custom.data.labels import label_map
from modeling_vit_custom.data.raw import RawSplit
from modeling_vit_custom.data.source import Columns, Source
from modeling_vit_custom.data.sources import read_splits
from modeling_vit_custom.data.streamed_splits import read_streamed_splits
from modeling_vit_custom.data.targets import ClassIds, MultiHot, Values
from modeling_vit_custom.data.unlabelled import read_unlabelled

# Texts of a label column: a reader that guesses types would change each of these.
TEXTS = {
    "leading zeros": ["001", "01", "1", "001"],
    "truth": ["true", "True", "FALSE", "true"],
    "missing to pandas": ["NA", "nan", "null", "None"],
    "integers": ["10", "2", "1", "10"],
    "huge integers": ["123456789012345678901", "2", "9007199254740993", "2"],
    "dates": ["2020-01-01", "2020-01-02", "01/02/2020", "2020-01-01"],
    "times": ["2020-01-01T00:00:00", "2020-01-01", "2020-01-01T00:00:00Z", "2020-01-01"],
    "spaces": [" a", "a ", "b", " b "],
    "separators": ["a|b", "b", "", "b | c"],
    "commas and quotes": ["a,b", 'say ""', "a;b", "tab\there"],
    "decimal numbers": ["1.0", "2.5", "-3e2", "1.0"],
    "decimal classes": ["1.0", "1.10", "x", "1.0"],
    "unicode": ["é", "e\u0301", "ß", "ss"],
    "numbers to some": ["1e5", "inf", "0x1", "1_000"],
}
# Typed values, in Parquet and JSON.
VALUES = {
    "integers": [10, 2, 1, 10],
    "truth": [True, False, True, False],
    "decimal numbers": [1.0, 2.5, -300.0, 0.0],
    "lists of names": [["a", "b"], ["b"], [], ["001"]],
    "lists of numbers": [[1.5, 2.0], [0.0, 1.0], [3.0, -1.0], [1.0, 1.0]],
    "text": ["001", "NA", "true", "2020-01-01"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Make an empty folder for one file, and images beside it that the file may name."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for n in range(4):
        write_digit(tmp_path / "data" / "images" / f"{n}.png", n)
    return tmp_path / "data"


def as_csv(rows: list[list[str]], separator: str = ",") -> str:
    text = StringIO()
    csv.writer(text, delimiter=separator).writerows(rows)
    return text.getvalue()


def with_images(labels: list) -> list[list]:
    return [[f"images/{n}.png", label] for n, label in enumerate(labels)]


def classes(raw: RawSplit) -> dict[int, str] | str:
    """Return the label map, or the error that prevents one."""
    try:
        return label_map(raw)
    except DataError as error:
        return str(error)


def equal(one: RawSplit, other: RawSplit) -> None:
    """Check that both hold the same examples in the same order, under the same labels."""
    assert (one.targets, classes(one)) == (other.targets, classes(other))
    assert list(map(str, one.labels)) == list(map(str, other.labels))
    assert [one.images[i] for i in range(len(one))] == [other.images[i] for i in range(len(other))]


def both_doors(file: Path, columns: Columns = Columns()) -> RawSplit | None:
    """Check that --train_dir FILE and --dataset_name FOLDER refuse with the same words, or give equal splits; return
    one."""
    try:
        by_file = read_splits(Source(file), columns)["train"]
    except DataError as error:
        with pytest.raises(DataError) as caught:
            read_splits(Source(dataset_name=str(file.parent)), columns)
        assert str(caught.value) == str(error)
        return None
    by_folder = read_splits(Source(dataset_name=str(file.parent)), columns)["train"]
    equal(by_file, by_folder)
    assert list(by_file.names) == list(by_folder.names)
    return by_folder


@pytest.mark.parametrize("labels", TEXTS.values(), ids=TEXTS.keys())
def test_text_is_the_text_it_is(folder, labels):
    (folder / "train.csv").write_text(as_csv([["image", "label"], *with_images(labels)]), encoding="utf-8")
    read = both_doors(folder / "train.csv")
    if read is not None and read.targets is ClassIds:
        assert read.labels == labels


@pytest.mark.parametrize(("name", "separator"), [("train.csv", ";"), ("train.csv", "\t"), ("train.tsv", "\t")])
def test_separators_are_found_by_both(folder, name, separator):
    rows = [["image", "label"], *with_images(["001", "NA", "a,b", "true"])]
    (folder / name).write_text(as_csv(rows, separator))
    assert both_doors(folder / name).labels == ["001", "NA", "a,b", "true"]


def test_targets_are_numbers_and_names_are_names_whatever_is_asked(folder):
    (folder / "train.csv").write_text(as_csv([["image", "label"], *with_images(["001", "2", "1e1", "-0.5"])]))
    assert both_doors(folder / "train.csv", Columns(problem_type=Values.problem_type)).labels.tolist() == [
        1,
        2,
        10,
        -0.5,
    ]
    assert both_doors(folder / "train.csv", Columns(problem_type=ClassIds.problem_type)).labels == [
        "001",
        "2",
        "1e1",
        "-0.5",
    ]


@pytest.mark.parametrize(
    ("suffix", "labels"),
    [*(("jsonl", labels) for labels in VALUES.values()), ("json", VALUES["text"]), ("parquet", VALUES["text"])],
)
def test_values_keep_their_type(folder, suffix, labels):
    file = folder / f"train.{suffix}"
    rows = [{"image": image, "label": label} for image, label in with_images(labels)]
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text(json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows)))
    assert both_doors(file) is not None


PARQUET = {
    "integers": VALUES["integers"],
    "lists of names": VALUES["lists of names"],
    "text": VALUES["text"],
    "dates": [datetime.date(2020, 1, day) for day in (1, 2, 1, 2)],
    "times": [datetime.datetime(2020, 1, day, 12, 30) for day in (1, 2, 1, 2)],
    "money": [Decimal("1.50"), Decimal("2.50"), Decimal("1.50"), Decimal("2.50")],
    "huge integers": [2**60 + 1, 2**53 + 1, 2, 2],
    "categories": pa.array(["b", "a", "001", "b"]).dictionary_encode(),
    "missing": ["a", None, "b", "a"],
    "missing numbers": [1.0, float("nan"), 2.0, 1.0],
}


@pytest.mark.parametrize("labels", PARQUET.values(), ids=PARQUET.keys())
def test_parquet_means_the_same_by_itself_in_a_folder_and_as_a_stream(folder, labels):
    images = [encoded_digit(n) for n in range(4)]
    pq.write_table(pa.table({"image": images, "label": labels}), folder / "train.parquet")
    results = []
    for read in (
        partial(read_splits, Source(folder / "train.parquet")),
        partial(read_splits, Source(dataset_name=str(folder))),
        partial(read_streamed_splits, Source(str(folder))),
    ):
        try:
            results.append(read()["train"])
        except DataError as error:
            results.append(re.sub(r"row 2 of .*", "", str(error)))
    if isinstance(results[0], str):
        assert results[0] == results[1] == results[2] and "column 'label'" in results[0]
    else:
        equal(results[0], results[1])
        equal(results[0], results[2])


def test_a_label_that_pandas_calls_missing_is_missing(folder):
    rows = {"image": [encoded_digit(n) for n in range(2)], "label": [1.0, float("nan")]}
    pq.write_table(pa.table(rows), folder / "train.parquet")
    for source in (Source(folder / "train.parquet"), Source(dataset_name=str(folder))):
        with pytest.raises(DataError, match="has no label for 1 example"):
            read_splits(source, Columns(problem_type=ClassIds.problem_type))


def test_declared_class_names_are_those_of_a_file_named_by_itself(folder):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["wolf", "dog"])})
    rows = {"image": [{"bytes": encoded_digit(n), "path": None} for n in range(4)], "label": [0, 1, 1, 0]}
    file = folder / "train.parquet"
    datasets.Dataset.from_dict(rows, features).to_parquet(file)
    by_file = read_splits(Source(file))["train"]
    assert label_map(by_file) == {0: "wolf", 1: "dog"}
    equal(by_file, read_splits(Source(dataset_name=str(folder)))["train"])
    assert load_eval_examples(file, {0: "dog", 1: "wolf"}, ClassIds)[0].targets.values.tolist() == [1, 0, 0, 1]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_metadata_of_an_imagefolder_is_read_as_it_is_written(folder):
    labels = ["001", "NA", "true", "10"]
    rows = [[f"./{n}.png", label] for n, label in enumerate(labels)]
    metadata = folder / "images" / "metadata.csv"
    metadata.write_text(as_csv([["file_name", "label"], *rows]))
    by_folder = read_splits(Source(dataset_name=str(folder)))["train"]
    equal(by_folder, read_splits(Source(metadata), Columns("file_name"))["train"])
    assert by_folder.labels == labels == read_streamed_splits(Source(str(folder)))["train"].labels
    gc.collect()  # `datasets` leaves the file open


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_an_image_folder_with_metadata_is_read_by_train_dir(tmp_path, suffix):
    names = [f"images/{n}.png" for n in range(4)]
    for n, name in enumerate(names):
        write_digit(tmp_path / "d" / name, n % 2, n)
    write_digit(tmp_path / "d" / "extra.png", 0, 9)
    rows = [{"file_name": name, "label": "ab"[n % 2]} for n, name in enumerate(names)]
    text = (
        "\n".join(map(json.dumps, rows)) if suffix == "jsonl" else as_csv([[*rows[0]], *(row.values() for row in rows)])
    )
    (tmp_path / "d" / f"metadata.{suffix}").write_text(text)
    raw = read_splits(Source(tmp_path / "d"))["train"]
    assert raw.labels == list("abab") and raw.images == [str(tmp_path / "d" / name) for name in names]
    assert any("NOT USED, 1 image(s) in no row of metadata" in note and "extra.png" in note for note in raw.notes)
    assert any("whatever folders are called" in note for note in raw.notes), "the folder images must not become a class"
    assert load_eval_examples(tmp_path / "d", {0: "a", 1: "b"}, ClassIds)[0].targets.values.tolist() == [0, 1, 0, 1]
    for split in ("train", "val"):
        shutil.copytree(tmp_path / "d", tmp_path / "s" / split)
    assert {split: len(part) for split, part in read_splits(Source(tmp_path / "s")).items()} == {
        "train": 4,
        "validation": 4,
    }


def test_metadata_that_is_not_of_the_labels(tmp_path):
    """Class folders stay classes beside a table of other things; without them, the error names what the table lacks."""
    write_digit(tmp_path / "d" / "0" / "a.png", 0)
    for text in ("file_name,caption\n0/a.png,nought\n", "a,b\n1,2\n", "a,b\n1\n"):
        (tmp_path / "d" / "metadata.csv").write_text(text)
        assert read_splits(Source(tmp_path / "d"))["train"].labels == ["0"]
    (tmp_path / "d" / "0" / "a.png").rename(tmp_path / "d" / "a.png")
    (tmp_path / "d" / "metadata.csv").write_text("file_name,caption\na.png,nought\n")
    with pytest.raises(DataError, match=r"metadata\.csv has no column 'label', its columns are file_name, caption"):
        read_splits(Source(tmp_path / "d"))
    (tmp_path / "d" / "metadata.csv").write_text("file_name,label\na.png,x\ngone.png,x\n")
    with pytest.raises(DataError, match=r"1 of 2 files of column 'file_name' do not exist.*gone\.png"):
        read_splits(Source(tmp_path / "d"))
    for split in ("train", "test"):
        write_digit(tmp_path / "d" / split / "0.png", 0)
    (tmp_path / "d" / "metadata.csv").write_text("file_name,label\ntrain/0.png,x\ntest/0.png,x\n")
    with pytest.raises(DataError, match=r"several splits \(test, train\)"):
        read_splits(Source(tmp_path / "d"))
    (tmp_path / "d" / "metadata.jsonl").write_text('{"file_name": "a.png", "label": "x"}')
    with pytest.raises(DataError, match="both name images"):
        read_splits(Source(tmp_path / "d"))


def test_files_of_one_split_are_read_one_after_the_other(folder):
    for part, numbers in enumerate(((0, 1), (2, 3))):
        rows = [[f"images/{n}.png", f"0{n}"] for n in numbers]
        (folder / f"train-{part}.csv").write_text(as_csv([["image", "label"], *rows]))
    (folder / "test.csv").write_text(as_csv([["image", "label"], ["images/0.png", "03"]]))
    raw = read_splits(Source(dataset_name=str(folder)))
    assert raw["train"].labels == ["00", "01", "02", "03"] and raw["test"].labels == ["03"]
    assert [Path(image).name for image in raw["train"].images] == ["0.png", "1.png", "2.png", "3.png"]
    assert len(read_unlabelled(Source(dataset_name=str(folder)))["train"]) == 4


NAMED = ("--image_column_name", "file", "--label_column_name", "tags", "--label_separator", ";")


@pytest.fixture
def named_otherwise(folder) -> Path:
    """Write a table of multi-label images with other column names than the usual ones."""
    rows = [[f"images/{n}.png", tags] for n, tags in enumerate(("a;b", "b", "a", "a ; b"))]
    (folder / "all.csv").write_text(as_csv([["file", "tags"], *rows]))
    return folder / "all.csv"


def test_columns_are_named_in_the_same_way_everywhere(named_otherwise, tmp_path, capsys):
    labels = {"id2label": {0: "a", 1: "b"}, "num_labels": 2, "problem_type": MultiHot.problem_type}
    model, table = str(save_ours(tmp_path / "model", **labels)), str(named_otherwise)
    out = ("--model", model, "--data_dir", table, "--output", str(tmp_path / "m.json"))
    for spelling in (NAMED, ("--image_column", "file", "--label_column", "tags", "--label_separator", ";")):
        assert evaluate([*out, *spelling]) == 0
        assert json.loads((tmp_path / "m.json").read_text())["n"] == 4
    assert audit_data([table, *NAMED, "--num_workers", "0"]) in (0, 1)
    assert "4 images" in capsys.readouterr().out.replace("4 train", "4 images")
    single = str(save_ours(tmp_path / "single"))
    arguments = ["--model", single, "--data_dir", table, *NAMED]
    for command in (speed_table, export):
        assert command([*arguments, *(() if command is speed_table else ("--output", str(tmp_path / "out")))]) == 2
        assert "a;b" in capsys.readouterr().err  # the model does not know these class names, so the columns were read


@pytest.mark.parametrize("command", ["evaluate", "export", "speed_table"])
def test_links_are_followed_where_that_is_asked(folder, tmp_path, capsys, command):
    write_digit(tmp_path / "private.png", 3)
    (folder / "all.csv").write_text("image,label\n../private.png,x\n")
    arguments = ["--model", str(save_ours(tmp_path / "model")), "--data_dir", str(folder / "all.csv")]
    arguments += [] if command == "speed_table" else ["--output", str(tmp_path / "out")]
    run = {"evaluate": evaluate, "export": export, "speed_table": speed_table}[command]
    assert run(arguments) and "lie outside its folder" in capsys.readouterr().err
    assert run([*arguments, "--follow_links"]) and "class(es) x are not in the label map" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,label\nimages/0.png,é\n".encode("latin-1"), "cannot be read as a table.*utf-8"),
        ("image,label\nimages/0.png,a\n".encode("utf-16"), "cannot be read as a table.*utf-8"),
        (b"image,label\nimages/0.png,a,b\n", r"row\(s\) 1 have another number of cells"),
        (b"image,label\nimages/0.png\n", r"row\(s\) 1 have another number of cells"),
        (b"image,label,label\nimages/0.png,a,b\n", "names a column twice"),
        (b"image,label\nimages/0.png,\n", "has no label for 1 example"),
        (b"image,label\n", "has no rows"),
    ],
)
def test_what_one_flag_refuses_the_other_refuses_too(folder, content, message):
    (folder / "train.csv").write_bytes(content)
    for source in (Source(folder / "train.csv"), Source(dataset_name=str(folder))):
        with pytest.raises(DataError, match=message):
            read_splits(source)


def test_a_mark_of_byte_order_is_no_part_of_a_name(folder):
    (folder / "train.csv").write_text("\ufeff" + as_csv([["image", "label"], *with_images(["a", "b", "a", "b"])]))
    both_doors(folder / "train.csv")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": 5, "label": "a"}', "holds 5 in row 1, which is no path"),
        ('["images/0.png", "a"]', r"row\(s\) 1, 2 are no JSON objects"),
        ('{"image": "images/0.png"', "cannot be read as a table"),
        ('{"image": null, "label": "a"}', r"is empty in row\(s\) 1"),
        ('{"image": "images/0.png", "label": NaN}', "not a finite number"),
    ],
)
def test_json_that_is_no_table(folder, line, message):
    (folder / "train.jsonl").write_text(line + "\n")
    for source in (Source(folder / "train.jsonl"), Source(dataset_name=str(folder))):
        with pytest.raises(DataError, match=message):
            read_splits(source)
