"""`evaluate` and `predict` read every source that training reads, under the same names."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from real_digits import encoded_digit, write_class_folder, write_digit, write_shards, write_tars
from saved_models import save_ours

from modeling_vit_custom.cli import main
from modeling_vit_custom.common.errors import DataError
from modeling_vit_custom.data.eval_examples import load_eval_examples
from modeling_vit_custom.data.source import Columns, Source
from modeling_vit_custom.data.targets import ClassIds
from modeling_vit_custom.image_decoding_vit_custom import decode_image

ID2LABEL = {0: "one", 1: "nought"}  # another order than in the data
COUNTS = (3, 4)


def as_dataset(count: int, first: int = 0) -> Dataset:
    """Return a dataset of noughts and ones in turn, starting at number `first`."""
    rows = range(first, first + count)
    return Dataset.from_dict(
        {"image": [encoded_digit(n % 2, n // 2) for n in rows], "label": [n % 2 for n in rows]},
        features=Features({"image": Image(), "label": ClassLabel(names=["nought", "one"])}),
    )


def write(kind: str, folder: Path) -> tuple[Source, Columns]:
    """Write the seven images of `as_dataset(7)` as one of the sources that training reads."""
    if kind == "shards":
        write_shards(folder, COUNTS)
        return Source(folder / "train-*.parquet"), Columns()
    if kind == "tars":
        write_tars(folder, COUNTS)
        return Source(folder / "*.tar"), Columns("png", "cls")
    if kind == "data files":
        write_shards(folder, COUNTS)
        return Source(dataset_name=str(folder)), Columns()
    if kind == "saved":
        as_dataset(7).save_to_disk(folder)
        return Source(dataset_name=str(folder)), Columns()
    if kind == "saved splits":
        DatasetDict(train=as_dataset(3, 90), test=as_dataset(7)).save_to_disk(folder)
        return Source(dataset_name=str(folder)), Columns()
    for n in range(7):
        write_digit(folder / "test" / ["nought", "one"][n % 2] / f"{n}.png", n % 2, n // 2)
    if kind == "split folders":
        write_class_folder(folder / "train", {"0": 1})
        return Source(folder), Columns()
    if kind == "table":
        lines = [f"test/{name}/{n}.png,{name}" for n in range(7) for name in [["nought", "one"][n % 2]]]
        (folder / "all.csv").write_text("\n".join(["file,digit", *lines]))
        return Source(folder / "all.csv"), Columns("file", "digit")
    return Source(folder / "test"), Columns()


@pytest.mark.filterwarnings("ignore:unclosed file", "ignore:Exception ignored in")
@pytest.mark.parametrize(
    "kind", ["folder", "split folders", "table", "shards", "tars", "data files", "saved", "saved splits"]
)
def test_every_source_gives_the_same_images_and_labels(tmp_path, kind):
    source, columns = write(kind, tmp_path)
    names = {0: "1", 1: "0"} if kind == "tars" else ID2LABEL
    examples, split = load_eval_examples(source, names, ClassIds, columns)
    assert split == {"split folders": "test", "saved splits": "test", "data files": "train", "saved": "train"}.get(kind)
    order = np.argsort([int(Path(name).stem) for name in examples.names]) if "folder" in kind else range(7)
    assert examples.targets.values[order].tolist() == [1 - n % 2 for n in range(7)]
    for n, index in enumerate(order):
        expected = decode_image(encoded_digit(n % 2, n // 2))
        assert (decode_image(examples.images[int(index)]) == expected).all()


def test_the_checkpoints_ids_are_taken(tmp_path, caplog):
    write_class_folder(tmp_path, {"0": 2, "2": 3})
    (tmp_path / "0" / "x.txt").write_text("x")
    examples, _ = load_eval_examples(tmp_path, {0: "2", 1: "1", 2: "0"}, ClassIds)
    assert [Path(name).parent.name for name in examples.names] == [["2", "1", "0"][i] for i in examples.targets.values]
    assert "x.txt" in caplog.text
    with pytest.raises(DataError, match=r"class.*2 are not in the label map"):
        load_eval_examples(tmp_path, {0: "0", 1: "1"}, ClassIds)


def test_of_several_splits_the_requested_or_the_least_seen_one_is_used(tmp_path, caplog):
    folder = tmp_path / "s"
    DatasetDict(train=as_dataset(6), validation=as_dataset(2)).save_to_disk(folder)
    source = Source(dataset_name=str(folder))
    with caplog.at_level(logging.WARNING):
        examples, split = load_eval_examples(source, ID2LABEL, ClassIds)
    assert (len(examples), split) == (2, "validation") and "measured on validation" in caplog.text
    examples, split = load_eval_examples(Source(dataset_name=str(folder), split="train"), ID2LABEL, ClassIds)
    assert (len(examples), split) == (6, "train")
    with pytest.raises(DataError, match=r"--split test: .* has train, validation"):
        load_eval_examples(Source(dataset_name=str(folder), split="test"), ID2LABEL, ClassIds)
    write_class_folder(tmp_path / "plain", {"0": 1})
    with pytest.raises(DataError, match=r"--split test: .* is not divided into splits"):
        load_eval_examples(Source(tmp_path / "plain", split="test"), ID2LABEL, ClassIds)
    for wrong in (Source(), Source(tmp_path, dataset_name="x")):
        with pytest.raises(DataError, match="--data_dir, or by --dataset_name"):
            load_eval_examples(wrong, ID2LABEL, ClassIds)


def test_a_folder_of_shards_given_as_one_of_classes_is_sent_to_its_flag(tmp_path):
    write_shards(tmp_path, COUNTS)
    with pytest.raises(DataError, match=r"train-00000\.parquet.*--dataset_name"):
        load_eval_examples(tmp_path, ID2LABEL, ClassIds)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_ours(tmp_path_factory.mktemp("models") / "ours", id2label=ID2LABEL, num_labels=2)


@pytest.fixture
def saved(tmp_path) -> Path:
    DatasetDict(train=as_dataset(4, 90), test=as_dataset(7)).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_evaluate_says_what_it_was_measured_on(model, saved, tmp_path, capsys):
    out = tmp_path / "m.json"
    assert run("evaluate", "--model", model, "--dataset-name", saved, "--output", out) == 0
    report = json.loads(out.read_text())
    assert (report["data"], report["split"], report["n"]) == (str(saved), "test", 7)
    words = ["evaluate", "--model", model, "--dataset-name", saved, "--split", "train", "--output", out]
    assert run(*words, "--problem_type", "single_label_classification") == 0
    assert json.loads(out.read_text())["n"] == 4
    assert run(*words, "--problem_type", "regression") == 2
    assert "--problem_type regression: the model is one of single_label_classification" in capsys.readouterr().err


def test_the_speeds_are_measured_on_a_dataset(saved, tmp_path, capsys):
    folder = save_ours(tmp_path / "copy", id2label=ID2LABEL, num_labels=2)
    own = ["--token_merging", "--sizes", "--formats", "--seconds", 0.05]
    assert run("speed_table", "--model", folder, "--dataset_name", saved, *own) == 0, capsys.readouterr().err
    assert json.loads((folder / "speeds.json").read_text())["rows"][0]["n"] == 7


def test_an_export_is_compared_on_a_dataset(saved, tmp_path, capsys):
    stranger = save_ours(tmp_path / "m", id2label={0: "a", 1: "b"}, num_labels=2)
    words = ["export", "--model", stranger, "--output", tmp_path / "o", "--dataset_name", saved]
    assert run(*words) == 2 and "class(es) nought, one are not in the label map" in capsys.readouterr().err


def test_audit_looks_at_a_dataset(saved, capsys):
    assert run("audit_data", "--dataset_name", saved, "--num_workers", 0) in (0, 1)
    printed = capsys.readouterr().out
    assert str(saved) in printed and "train              4 images of 2 classes" in printed
    for words in ((), (saved, "--dataset_name", saved), (saved, "--data", saved)):
        with pytest.raises(SystemExit) as done:
            run("audit_data", *words)
        assert done.value.code == 2 and "name the training data once" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["saved splits", "table", "shards"])
def test_predict_reads_tables_and_datasets(model, tmp_path, kind, capsys):
    source, columns = write(kind, tmp_path / "data")
    given = (
        ["--dataset_name", source.dataset_name, "--split", "test"] if source.dataset_name else ["--data", source.train]
    )
    if kind == "shards":
        given = ["--data", tmp_path / "data" / "train-00000.parquet"]
    given += ["--image_column_name", columns.image]
    words = ["predict", "--model", model, "--output", tmp_path / "p.jsonl", *given]
    assert run(*words) == 0, capsys.readouterr().err
    records = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    files = [write_digit(tmp_path / "files" / f"{n}.png", n % 2, n // 2) for n in range(len(records))]
    assert run("predict", "--model", model, "--output", tmp_path / "f.jsonl", *files) == 0
    alike = [json.loads(line) for line in (tmp_path / "f.jsonl").read_text().splitlines()]
    assert [one["predictions"] for one in records] == [one["predictions"] for one in alike]
    assert len(records) == (COUNTS[0] if kind == "shards" else 7)
    capsys.readouterr()
    assert run(*words) == 0 and f"{len(records)} of them from before" in capsys.readouterr().out


def test_predict_takes_all_splits_and_each_image_once(model, saved, tmp_path, capsys):
    assert run("predict", "--model", model, "--output", tmp_path / "p.jsonl", "--dataset_name", saved) == 0
    assert "11 images" in capsys.readouterr().out
    write_digit(tmp_path / "1.png", 1)
    (tmp_path / "twice.csv").write_text("image\n1.png\n1.png\n")
    assert run("predict", "--model", model, "--output", tmp_path / "t.jsonl", "--data", tmp_path / "twice.csv") == 0
    printed = capsys.readouterr().out
    assert "1 images" in printed and "1 rows name an image that another names too" in printed
    for words in ((), ("x.png", "--data", "y.csv"), ("--data", "y.csv", "--dataset_name", "z")):
        assert run("predict", "--model", model, "--output", tmp_path / "n.jsonl", *words) == 2
        assert "name the images once" in capsys.readouterr().err
    assert run("predict", "--model", model, "--output", tmp_path / "n.jsonl", "--data", tmp_path / "1.png") == 2
    assert "is no folder and no table: name single image files without --data_dir" in capsys.readouterr().err


def test_predict_reads_a_folder_and_one_of_its_splits(model, tmp_path, capsys):
    write_class_folder(tmp_path / "d" / "train", {"0": 2})
    write_class_folder(tmp_path / "d" / "val", {"0": 3})
    words = ["predict", "--model", model, "--data", tmp_path / "d", "--output"]
    for split, count in ((None, 5), ("validation", 3)):
        chosen = [] if split is None else ["--split", split]
        assert run(*words, tmp_path / f"{split}.jsonl", *chosen) == 0, capsys.readouterr().err
        assert len((tmp_path / f"{split}.jsonl").read_text().splitlines()) == count
    assert run(*words, tmp_path / "n.jsonl", "--split", "test") == 2
    assert "--split test: " in (said := capsys.readouterr().err) and "has train, validation" in said
