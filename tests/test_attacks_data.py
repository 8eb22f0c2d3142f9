"""Hostile data and trainings: links and paths that lead out, archives, pickles, tokens, escape sequences."""

import csv
import json
import pickle
import shutil
import tarfile
from functools import partial
from io import BytesIO
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from attack_behaviours import TOKEN, counting_server, files_holding
from attacks import WEIGHTS, one_nan, weights
from loaded_splits import load_splits
from real_digits import encoded_digit, write_class_folder, write_digit, write_shards, write_tars
from saved_models import save_ours, save_resnet
from tiny_training import tiny_train, tiny_trainer

from modeling_vit_custom import ViTCustomImageProcessor
from modeling_vit_custom.commands.evaluate import main as evaluate
from modeling_vit_custom.commands.predict import main as predict
from modeling_vit_custom.common.errors import DataError, UsageError
from modeling_vit_custom.common.text import printable
from modeling_vit_custom.data.folders import read_class_folder
from modeling_vit_custom.data.hub_datasets import load_dataset_splits
from modeling_vit_custom.data.source import Columns, Source
from modeling_vit_custom.data.streamed_splits import read_streamed_splits
from modeling_vit_custom.data.unlabelled import read_unlabelled
from modeling_vit_custom.training.checkpointing.checkpoints import seal

ESCAPE = "\x1b[2J\x1b]0;owned\x07"


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    return write_class_folder(tmp_path_factory.mktemp("digits"), {"0": 12, "1": 12})


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory) -> Path:
    """Train with a checkpoint after each of two epochs; return the folder."""
    output_dir = tmp_path_factory.mktemp("runs") / "run"
    tiny_train(output_dir, "--train_dir", digits, "--num_train_epochs", 2)
    return output_dir


# ---------- data that leads elsewhere


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_out_of_the_data_is_refused_and_can_be_allowed(digits, tmp_path, what):
    root = Path(shutil.copytree(digits, tmp_path / "data"))
    outside = write_digit(tmp_path / "elsewhere" / "private.png", 3)
    (root / "0" / "link.png").symlink_to(outside) if what == "file" else (root / "2").symlink_to(outside.parent)
    with pytest.raises(DataError, match="link that leads out"):
        read_class_folder(root, "train")
    assert len(read_class_folder(root, "train", follow_links=True)) == 25


@pytest.mark.parametrize("suffix", ["csv", "parquet", "parquet of dicts"])
@pytest.mark.parametrize("way", ["absolute", "climbing", "link"])
def test_a_table_names_files_below_itself_only(tmp_path, suffix, way):
    outside = write_digit(tmp_path / "private.png", 3)
    table = tmp_path / "data" / f"train.{suffix[:7]}"
    inside = write_digit(table.parent / "images" / "0.png", 0)
    (table.parent / "link.png").symlink_to(outside)
    named = {"absolute": str(outside), "climbing": "images/../../private.png", "link": "link.png"}[way]
    rows = [("images/0.png", "a"), (str(inside), "b"), (named, "b"), ("images/0.png", "a")]
    if suffix == "csv":
        with open(table, "w", newline="") as file:
            csv.writer(file).writerows([("image", "label"), *rows])
    else:
        cells = [{"bytes": None, "path": path} if suffix.endswith("dicts") else path for path, _ in rows]
        pq.write_table(pa.table({"image": cells, "label": [label for _, label in rows]}), table)
    with pytest.raises(DataError, match="1 of 4 files of column 'image' lie outside its folder"):
        load_splits(table, validation=table)
    assert len(load_splits(table, validation=table, follow_links=True).train) == 4


def write_data(folder: Path, kind: str, cells: list[str]) -> None:
    """Write a dataset whose images are the files named by `cells`, labelled a and b in turn."""
    labels = ["ab"[i % 2] for i in range(len(cells))]
    rows = list(zip(cells, labels, strict=True))
    dicts = [{"bytes": None, "path": cell} for cell in cells]
    if kind == "csv":
        (folder / "train.csv").write_text("image,label\n" + "".join(f"{cell},{label}\n" for cell, label in rows))
    elif kind == "imagefolder":
        lines = [json.dumps({"file_name": cell, "label": label}) for cell, label in rows]
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    elif kind.startswith("parquet"):
        features = {"image": {"_type": "Image"}, "label": {"dtype": "string", "_type": "Value"}}
        declared = {"huggingface": json.dumps({"info": {"features": features}})} if kind == "parquet of Images" else {}
        table = pa.table({"image": dicts, "label": labels}).replace_schema_metadata(declared)
        pq.write_table(table, folder / "train.parquet")
    elif kind == "arrow":
        table = pa.table({"image": cells, "label": labels})
        with pa.OSFile(str(folder / "train.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    else:
        datasets.Dataset.from_dict(
            {"image": {"saved": cells, "saved dicts": dicts}[kind], "label": labels}
        ).save_to_disk(folder)


KINDS = ("csv", "imagefolder", "parquet of dicts", "parquet of Images", "arrow", "saved", "saved dicts")


@pytest.fixture
def private(tmp_path, monkeypatch) -> Path:
    """Write DIR/data with two images, and a third image outside it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_digit(tmp_path / "private.png", 3)
    for n in range(2):
        write_digit(tmp_path / "data" / "images" / f"{n}.png", n)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_a_dataset_names_files_below_itself_only(private, kind):
    inside = ["images/0.png", "images/1.png", str(private / "data" / "images" / "0.png")]
    outside = [str(private / "private.png"), "images/../../private.png"]
    read = partial(load_splits, dataset_name=str(private / "data"), train_val_split=0.4)
    write_data(private / "data", kind, inside + outside)
    with pytest.raises(DataError, match="2 of 5 files of column 'image' lie outside its folder"):
        read()
    with pytest.raises(DataError, match="2 of 5 files of column 'image' lie outside its folder"):
        read_unlabelled(Source(dataset_name=str(private / "data")))
    splits = read(follow_links=True)
    found = [Path(image).resolve() for part in (splits.train, splits.validation) for image in part.images]
    assert sorted(path.name for path in found) == ["0.png", "0.png", "1.png", "private.png", "private.png"]


@pytest.mark.parametrize("kind", ["csv", "parquet of Images", "saved"])
@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9/x.png", "hf://datasets/a/b/c.png", "zip://x.png::s3://a/b.zip"]
)
def test_an_address_in_a_dataset_is_never_fetched(private, kind, address):
    write_data(private / "data", kind, ["images/0.png", address])
    with pytest.raises(DataError, match="1 of 2 files of column 'image' are addresses, which are not fetched"):
        load_splits(dataset_name=str(private / "data"), follow_links=True)


@pytest.mark.parametrize("kind", ["csv", "parquet of Images", "saved"])
def test_a_link_out_of_a_dataset_is_refused_and_can_be_allowed(private, kind):
    write_data(private / "data", kind, ["images/0.png", "images/1.png", "link.png"])
    (private / "data" / "link.png").symlink_to(private / "private.png")
    read = partial(load_splits, dataset_name=str(private / "data"), train_val_split=0.4)
    with pytest.raises(DataError, match="link that leads out"):
        read()
    assert len(read(follow_links=True).train) == 2


def test_a_stream_opens_files_of_its_own_only(private, monkeypatch):
    write_data(private / "data", "imagefolder", ["images/0.png", "images/1.png"])
    assert len(read_streamed_splits(Source(str(private / "data")))["train"]) == 2
    (private / "data" / "images" / "1.png").unlink()
    (private / "data" / "images" / "1.png").symlink_to(private / "private.png")
    with pytest.raises(DataError, match="link that leads out"):
        read_streamed_splits(Source(str(private / "data")))
    monkeypatch.chdir(private)
    assert len(read_streamed_splits(Source("data", follow_links=True))["train"]) == 2
    (private / "data" / "images" / "1.png").unlink()
    write_data(private / "data", "imagefolder", ["images/0.png", "images/../../private.png"])
    with pytest.raises(DataError, match=r"private\.png"):
        read_streamed_splits(Source("data"))


def test_a_shard_that_a_pattern_finds_is_no_link_out_of_its_folder(private):
    shards = write_shards(private / "elsewhere", (2, 2))
    (private / "data" / "train-0.parquet").symlink_to(shards / "train-00000.parquet")
    with pytest.raises(DataError, match="link that leads out"):
        read_streamed_splits(Source(str(private / "data" / "*.parquet")))
    assert len(read_streamed_splits(Source(str(private / "data" / "*.parquet"), follow_links=True))["train"]) == 2


def test_members_of_a_tar_are_written_nowhere(private):
    write_tars(private / "shards", (2,))
    odd = {"../../escaped": 0, "/abs": 1}
    with tarfile.open(private / "shards" / "train-odd.tar", "w") as archive:
        for name, digit in odd.items():
            for suffix, content in (("png", encoded_digit(digit)), ("cls", str(digit).encode())):
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(content)
                archive.addfile(member, BytesIO(content))
    before = sorted(private.rglob("*"))
    raw = read_streamed_splits(Source(str(private / "shards" / "train-odd.tar")), Columns("png", "cls"))["train"]
    assert [raw.images[i] for i in range(2)] == [encoded_digit(0), encoded_digit(1)]
    assert [path for path in sorted(private.rglob("*")) if path.suffix in (".png", ".cls")] == [
        path for path in before if path.suffix in (".png", ".cls")
    ]
    assert not Path("/abs.png").exists()


def test_archives_are_never_unpacked(digits, tmp_path):
    for name in ("data.zip", "data.tar.gz"):
        (tmp_path / name).write_bytes(b"PK\x03\x04")
        with pytest.raises(DataError, match="archive is never unpacked"):
            load_splits(tmp_path / name)
    root = Path(shutil.copytree(digits, tmp_path / "data"))
    with tarfile.open(root / "0" / "more.tar", "w") as archive:
        archive.add(root / "1" / "0.png", "../../escaped.png")
    assert any("more.tar" in note for note in read_class_folder(root, "train").notes)
    assert not (tmp_path / "escaped.png").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b"image,label\n" + b"x" * 1_000_000),
        ("t.csv", b"image,label\n\xff\xfe,a\n"),
        ("t.parquet", b"PAR1 no table PAR1"),
        ("t.parquet", b""),
    ],
)
def test_files_that_are_no_tables_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"t\.(csv|parquet) cannot be read as a table"):
        load_splits(tmp_path / name)


def test_a_dataset_script_is_never_run(digits, tmp_path):
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (folder / "train.csv").write_text("image,label\na.png,0\n")
    try:
        load_dataset_splits(Source(dataset_name=str(folder)), Columns())
    except Exception as error:
        assert "script" in str(error).lower()
    assert not (tmp_path / "ran").exists()


def test_no_address_is_ever_fetched(tmp_path):
    model = save_ours(tmp_path / "model")
    table = tmp_path / "t.csv"
    with counting_server() as (url, asked):
        table.write_text(f"image,label\n{url},0\n")
        with pytest.raises(ValueError, match="private"):
            ViTCustomImageProcessor()(url)
        with pytest.raises(DataError, match="are addresses, which are not fetched"):
            load_splits(table)
        assert predict(["--model", str(model), url, "--output", str(tmp_path / "p.jsonl")]) == 1
        assert not asked


# ---------- trainings


class Run:
    """Writes a file when it is unpickled."""

    def __init__(self, proof: Path):
        self.proof = str(proof)

    def __reduce__(self):
        return open, (self.proof, "w")


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_resuming_runs_no_pickle(run, digits, tmp_path, name):
    output_dir, proof = Path(shutil.copytree(run, tmp_path / "run")), tmp_path / "ran"
    for checkpoint in output_dir.glob("checkpoint-*"):
        torch.save(Run(proof), checkpoint / name)
        seal(checkpoint)
    with pytest.raises(pickle.UnpicklingError, match=r"weights_only|Weights only"):
        tiny_train(output_dir, "--train_dir", digits, "--num_train_epochs", 3)
    assert not proof.exists()


@pytest.mark.parametrize("change", ["lacks", "holds, unknown here"])
def test_resuming_from_other_weights_is_refused(run, digits, tmp_path, change):
    output_dir = Path(shutil.copytree(run, tmp_path / "run"))
    for checkpoint in output_dir.glob("checkpoint-*"):
        if change == "lacks":
            weights(lambda w: {name: tensor for name, tensor in w.items() if "fc1" not in name})(checkpoint)
        else:
            weights(lambda w: {**w, "extra.weight": torch.zeros(3)})(checkpoint)
        seal(checkpoint)
    with pytest.raises(UsageError, match=f"the checkpoint {change}"):
        tiny_train(output_dir, "--train_dir", digits, "--num_train_epochs", 3)


def test_a_checkpoint_that_is_named_is_checked(run, digits, tmp_path):
    checkpoint = Path(shutil.copytree(max(run.glob("checkpoint-*")), tmp_path / "checkpoint-9"))
    (checkpoint / WEIGHTS).write_bytes((checkpoint / WEIGHTS).read_bytes()[:-4])
    resume = ("--train_dir", digits, "--resume_from_checkpoint", checkpoint)
    with pytest.raises(UsageError, match=r"checkpoint-9 cannot be used: model.safetensors is not what was saved"):
        tiny_train(tmp_path / "o", *resume)
    seal(checkpoint)
    with pytest.raises(UsageError, match=r"checkpoint-9 cannot be used: .*its tensors end at"):
        tiny_train(tmp_path / "o", *resume)


@pytest.mark.parametrize("attack", [one_nan, lambda w: {name: t for name, t in w.items() if "fc1" not in name}])
def test_fine_tuning_a_broken_checkpoint_is_refused(run, digits, tmp_path, attack):
    model = Path(shutil.copytree(run, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoint-*")))
    weights(attack)(model)
    with pytest.raises(UsageError, match=r"--model_name_or_path .*(NaN or infinite|Missing: )"):
        tiny_train(tmp_path / "o", "--train_dir", digits, model=["--model_name_or_path", str(model)])


def test_broken_weights_are_never_saved(digits, tmp_path):
    trainer, _ = tiny_trainer(tmp_path / "o", "--train_dir", digits)
    with torch.no_grad():
        trainer.model.vit.layernorm.weight[0] = torch.inf
    with pytest.raises(FloatingPointError, match=r"not saved: vit\.layernorm\.weight"):
        trainer.save_model()
    assert not (tmp_path / "o" / WEIGHTS).exists()


def test_a_token_is_written_nowhere(digits, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    tiny_train(tmp_path / "o", "--train_dir", digits, "--num_train_epochs", 1, "--report_to", "none")
    names = {path.name for path in (tmp_path / "o").rglob("*")}
    assert len(names) > 15 and "training_args.bin" not in names and not files_holding(tmp_path / "o", TOKEN)
    printed = capfd.readouterr()
    assert TOKEN not in printed.out + printed.err
    with pytest.raises(UsageError, match="set HF_TOKEN"):
        tiny_train(tmp_path / "p", "--train_dir", digits, "--hub_token", TOKEN)


# ---------- what is printed


def test_printable_spells_out_what_steers_a_terminal():
    assert printable(f"a{ESCAPE}b\nc") == "a\\x1b[2J\\x1b]0;owned\\x07b\nc"
    assert printable("photo\u202egpj.exe \udcff é 数") == "photo\\u202egpj.exe \\udcff é 数"


def test_file_names_steer_no_terminal(tmp_path, capfd):
    """A class folder, a note, an error and a prediction print file names with escape sequences as text."""
    model = save_ours(tmp_path / "model")
    photos = write_class_folder(tmp_path / "photos", {"0": 2, "1": 2})
    (photos / "0" / f"{ESCAPE}.txt").write_text("no image")
    write_digit(photos / "0" / f"{ESCAPE}.png", 0)
    output = ["--output", str(tmp_path / "out.json")]
    evaluate(["--model", str(model), "--data_dir", str(photos), *output])
    predict(["--model", str(model), str(photos), "--output", str(tmp_path / "p.jsonl")])
    assert predict(["--model", f"./no{ESCAPE}", str(photos)]) == 2
    printed = capfd.readouterr()
    assert "\x1b]0" not in printed.out + printed.err and "\x1b" not in (tmp_path / "p.jsonl").read_text()
    assert "\\x1b]0;owned" in printed.err


def test_labels_of_other_models_steer_neither_terminal_nor_picture(tmp_path, capfd):
    """transformers' own models take any label; JSON and the picture's names hold it escaped."""
    model = save_resnet(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["id2label"]["0"], config["label2id"] = f"{ESCAPE}$\\frac{{<b>", None
    (model / "config.json").write_text(json.dumps(config))
    photo = write_digit(tmp_path / "0.png", 0)
    assert predict(["--model", str(model), str(photo), "--top_k", "10", "--output", str(tmp_path / "p.jsonl")]) == 0
    line = (tmp_path / "p.jsonl").read_text()
    assert "\x1b" not in line and ESCAPE in "".join(entry["label"] for entry in json.loads(line)["predictions"])
    photos = write_class_folder(tmp_path / "photos", {"1": 2, "2": 2})
    assert evaluate(["--model", str(model), "--data_dir", str(photos), "--output", str(tmp_path / "m.json")]) == 0
    assert (tmp_path / "confusion_matrix.png").stat().st_size and "\x1b" not in (tmp_path / "m.json").read_text()
    assert "\x1b]0" not in "".join(capfd.readouterr())
