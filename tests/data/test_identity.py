"""Images that changed under the same names are noticed when a training resumes or a prediction continues."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from real_digits import encoded_digit, write_class_folder, write_digit, write_shards
from saved_models import save_ours
from tiny_training import command, tiny_train

from modeling_vit_custom.commands.predict import main as predict
from modeling_vit_custom.commands.pretrain import main as pretrain
from modeling_vit_custom.commands.training_flags import parse_args
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.common.model_files import IMAGES
from modeling_vit_custom.data import identity
from modeling_vit_custom.data.examples import LazySelection
from modeling_vit_custom.data.fingerprint import images_fingerprint
from modeling_vit_custom.data.identity import changed, identify, read_identities, write_identities
from modeling_vit_custom.data.source import Source
from modeling_vit_custom.data.sources import read_splits
from modeling_vit_custom.publishing.staging import plan_staging
from modeling_vit_custom.training.checkpointing.images import check_images
from modeling_vit_custom.training.runs.data_loading import load_data


@pytest.fixture
def files(tmp_path) -> list[str]:
    return [str(write_digit(tmp_path / "images" / f"{n}.png", n % 10, n)) for n in range(12)]


def overwrite(path: str | Path, content: bytes, same_size: bool = True, same_time: bool = False) -> None:
    """Write other content under the same name; to keep the size, fill up after the PNG's end."""
    before = os.stat(path)
    if same_size:
        content = content[: before.st_size].ljust(before.st_size, b"\0")
    Path(path).write_bytes(content)
    time = before.st_mtime_ns if same_time else before.st_mtime_ns + 10**9
    os.utime(path, ns=(time, time))


# ---------- what counts as changed


def test_nothing_has_changed_where_nothing_has(files):
    assert changed(identify(files), identify(files)) == ([], 0)


@pytest.mark.parametrize("same_size", [True, False])
@pytest.mark.parametrize("same_time", [True, False])
def test_an_overwritten_file_has_changed(files, same_size, same_time):
    before = identify(files)
    overwrite(files[7], encoded_digit(3, 9), same_size, same_time)
    assert changed(before, identify(files)) == ([7], 0)


def test_two_files_that_were_swapped_have_changed(files):
    before = identify(files)
    os.rename(files[1], files[1] + "x")
    os.rename(files[2], files[1])
    os.rename(files[1] + "x", files[2])
    assert changed(before, identify(files))[0] == [1, 2]


def test_a_copy_with_other_times_is_the_same(files, tmp_path):
    before = identify(files)
    shutil.copytree(tmp_path / "images", tmp_path / "copy", copy_function=shutil.copyfile)
    copied = [str(tmp_path / "copy" / Path(file).name) for file in files]
    assert changed(before, identify(copied)) == ([], 12)


def test_a_file_that_is_gone_or_back_has_changed(files):
    before = identify(files)
    os.remove(files[0])
    gone = identify(files)
    assert changed(before, gone) == changed(gone, before) == ([0], 0)


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    found = identify([str(tmp_path / "pipe.png"), str(tmp_path), "http://127.0.0.1:9/x.png", "/dev/zero"])
    assert found["size"].tolist() == [-1] * 4 and not found["content"].any()


def test_unread_files_are_compared_by_time_unless_a_touched_file_is_equal(files, monkeypatch):
    monkeypatch.setattr(identity, "CONTENT", 3)  # the content of files 0, 5 and 11
    before = identify(files)
    assert np.flatnonzero(before["content"]).tolist() == [0, 5, 11]
    overwrite(files[3], encoded_digit(1, 5))
    assert changed(before, identify(files)) == ([3], 0)
    os.utime(files[5])
    assert changed(before, identify(files)) == ([], 2), "a touched file with equal content shows that times say nothing"
    overwrite(files[11], encoded_digit(1, 5), same_time=True)
    assert changed(before, identify(files))[0] == [11]


def test_a_large_file_is_read_in_pieces(tmp_path):
    size = 3 * identity.PIECES * identity.PIECE
    content = np.random.default_rng(0).integers(256, size=size, dtype=np.uint8)
    (tmp_path / "large.bmp").write_bytes(content.tobytes())
    before = identify([str(tmp_path / "large.bmp")])
    for place in (0, size - 1, size // 2):
        other = content.copy()
        other[place : place + 4 * identity.PIECE] ^= 1
        overwrite(tmp_path / "large.bmp", other.tobytes(), same_time=True)
        assert changed(before, identify([str(tmp_path / "large.bmp")]))[0] == [0]


def write_rows(path: Path, kind: str, digits: list[int]) -> dict:
    rows = {"image": [encoded_digit(n % 2, n) for n in digits], "label": ["ab"[n % 2] for n in range(len(digits))]}
    if kind == "parquet":
        pq.write_table(pa.table(rows), path / "train.parquet")
        return {"train": path / "train.parquet"}
    Dataset.from_dict(rows).save_to_disk(path / "saved")
    return {"dataset_name": str(path / "saved")}


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_rows_of_a_file_are_identified_by_their_content(tmp_path, kind):
    images = read_splits(Source(**write_rows(tmp_path, kind, [0, 1, 2, 3])))["train"].images
    before, cached = identify(images), images_fingerprint(images)
    shutil.rmtree(tmp_path / "saved", ignore_errors=True)
    images = read_splits(Source(**write_rows(tmp_path, kind, [0, 1, 5, 3])))["train"].images
    assert changed(before, identify(images)) == ([2], 0)
    assert changed(before[[3, 1]], identify(LazySelection(images, [3, 1]))) == ([], 0)
    assert images_fingerprint(images) != cached, "the cached views must not be used for these images"


def test_a_record_that_is_damaged_says_nothing(files, tmp_path):
    write_identities(tmp_path / "i.npz", {"train": identify(files)})
    whole = (tmp_path / "i.npz").read_bytes()
    np.testing.assert_array_equal(read_identities(tmp_path / "i.npz")["train"], identify(files))
    for damaged in (b"", whole[:-40], whole[:60] + b"\xff" * 60 + whole[120:], b"no zip"):
        (tmp_path / "i.npz").write_bytes(damaged)
        assert read_identities(tmp_path / "i.npz") is None
    assert read_identities(tmp_path / "none.npz") is None


# ---------- a training that resumes

STEPS = ("--save_strategy", "epoch", "--eval_strategy", "epoch", "--audit", "off", "--num_train_epochs")


@pytest.fixture
def data(tmp_path) -> Path:
    for split, count in {"train": 8, "validation": 2, "test": 2}.items():
        write_class_folder(tmp_path / "data" / split, {"0": count, "1": count})
    return tmp_path / "data"


def look(output_dir: Path, data: Path, run: Path | None = None) -> None:
    """Check the images as a training does before it begins or resumes."""
    _, data_args, training_args = parse_args(command(output_dir, "--train_dir", data, "--audit", "off"))
    output_dir.mkdir(exist_ok=True)
    check_images(output_dir, load_data(data_args, training_args), run, training_args.processes)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_training_resumes_only_with_the_images_it_began_with(data, tmp_path, split, caplog):
    run = tmp_path / "run"
    look(run, data)
    look(run, data, run)
    record = (run / IMAGES).read_bytes()
    overwrite(data / split / "0" / "0.png", encoded_digit(1, 7))
    with pytest.raises(UsageError, match=rf"1 of \d+ {split} files have changed since .*0\.png.*Put back"):
        look(run, data, run)
    assert (run / IMAGES).read_bytes() == record and not caplog.text
    look(tmp_path / "other", data, run)
    assert f"1 of {len(list(data.glob(f'{split}/*/*')))} {split} files have changed" in caplog.text


def test_classes_swapped_under_the_same_names_are_noticed(data, tmp_path):
    look(tmp_path / "run", data)
    zero, one = data / "train" / "0", data / "train" / "1"
    zero.rename(tmp_path / "x")
    one.rename(zero)
    (tmp_path / "x").rename(one)
    with pytest.raises(UsageError, match="16 of 16 train files have changed"):
        look(tmp_path / "run", data, tmp_path / "run")


def test_a_copy_of_the_data_and_another_test_set_are_no_reason_to_stop(data, tmp_path, caplog):
    look(tmp_path / "run", data)
    shutil.copytree(data, tmp_path / "copy", copy_function=shutil.copyfile)
    overwrite(tmp_path / "copy" / "test" / "0" / "0.png", encoded_digit(1, 7))
    look(tmp_path / "run", tmp_path / "copy", tmp_path / "run")
    assert "train: 16 files have another time of change than before, and the same content" in caplog.text
    assert "1 of 4 test files have changed" in caplog.text
    write_digit(tmp_path / "copy" / "test" / "0" / "more.png", 0, 30)
    look(tmp_path / "run", tmp_path / "copy", tmp_path / "run")


def test_a_run_of_an_earlier_version_resumes_and_that_is_said(data, tmp_path, caplog):
    look(tmp_path / "run", data, tmp_path / "run")
    assert f"has no {IMAGES} (an earlier version wrote none)" in caplog.text and (tmp_path / "run" / IMAGES).is_file()


def test_the_whole_command(data, tmp_path):
    tiny_train(tmp_path / "run", "--train_dir", data, *STEPS, 1)
    files = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "run").glob("*.*")}
    overwrite(data / "train" / "0" / "0.png", encoded_digit(1, 7))
    with pytest.raises(UsageError, match="1 of 16 train files have changed"):
        tiny_train(tmp_path / "run", "--train_dir", data, *STEPS, 1)  # this run has ended
    with pytest.raises(UsageError, match="1 of 16 train files have changed"):
        tiny_train(tmp_path / "run", "--train_dir", data, *STEPS, 2)
    assert files == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}, "a file was rewritten"
    plan = plan_staging(tmp_path / "run")
    assert IMAGES not in plan.copied and "trained on" in plan.left_out[IMAGES]
    assert str(tmp_path).encode() not in (tmp_path / "run" / IMAGES).read_bytes()


@pytest.mark.slow
def test_the_whole_command_resumes_with_a_copy_and_restarts_when_asked(data, tmp_path):
    tiny_train(tmp_path / "run", "--train_dir", data, *STEPS, 1)
    shutil.copytree(data, tmp_path / "copy", copy_function=shutil.copyfile)
    assert tiny_train(tmp_path / "run", "--train_dir", tmp_path / "copy", *STEPS, 2)["train"]["resumed"]
    overwrite(data / "train" / "0" / "0.png", encoded_digit(1, 7))
    again = tiny_train(tmp_path / "run", "--train_dir", data, *STEPS, 2, "--resume_from_checkpoint", "false")
    assert not again["train"]["resumed"]
    look(tmp_path / "run", data, tmp_path / "run")


@pytest.mark.slow
def test_shards_written_again_under_the_same_names_and_sizes_are_noticed(tmp_path):
    shards = write_shards(tmp_path / "shards", (10, 10))
    flags = ("--train_dir", shards, "--streaming", "true", "--shuffle_buffer", 4)
    tiny_train(tmp_path / "run", *flags, *STEPS, 1)
    content = bytearray((shards / "train-00001.parquet").read_bytes())
    content[len(content) // 3] ^= 1
    overwrite(shards / "train-00001.parquet", bytes(content))
    with pytest.raises(UsageError, match=r"1 of 2 train files have changed.*train-00001\.parquet"):
        tiny_train(tmp_path / "run", *flags, *STEPS, 2)


@pytest.mark.slow
def test_pretraining_notices_it_too(tmp_path, capsys):
    write_class_folder(tmp_path / "data", {"0": 10, "1": 10})
    flags = [
        "--train_dir", str(tmp_path / "data"), "--output_dir", str(tmp_path / "run"), "--variant", "nano/4",
        "--image_size", "8", "--mask_patch_size", "4", "--use_cpu", "true", "--report_to", "none", "--audit", "off",
        "--keep_checkpoints", "last",
    ]  # fmt: skip
    assert pretrain([*flags, "--num_train_epochs", "1"]) == 0
    overwrite(tmp_path / "data" / "0" / "0.png", encoded_digit(1, 7))
    assert pretrain([*flags, "--num_train_epochs", "2"]) == 2
    assert "files have changed" in capsys.readouterr().err


# ---------- a prediction that continues


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save_ours(tmp_path_factory.mktemp("model")))


def predicted(model: str, output: Path, files: list[str], *flags: str) -> dict[str, dict]:
    assert predict(["--model", model, *files, "--output", str(output), *flags]) == 0
    return {record["path"]: record for record in map(json.loads, output.read_text().splitlines())}


def test_changed_images_are_predicted_again(model, files, tmp_path, capsys):
    before = predicted(model, tmp_path / "p.jsonl", files[:8])
    assert before == predicted(model, tmp_path / "p.jsonl", files[:8])
    assert "8 of them from before" in capsys.readouterr().out
    for place in (2, 5):
        overwrite(files[place], encoded_digit(9 - place, 50), same_size=False)
    after = predicted(model, tmp_path / "p.jsonl", files)  # and some more files
    printed = capsys.readouterr().out
    assert "2 images have changed since, and are predicted again" in printed and "6 of them from before" in printed
    assert list(after) == files and after == predicted(model, tmp_path / "fresh.jsonl", files)
    assert {path for path in before if before[path] != after[path]} == {files[2], files[5]}


def test_what_a_killed_run_left_of_changed_images_is_not_kept(model, files, tmp_path):
    whole = predicted(model, tmp_path / "p.jsonl", files)
    lines = (tmp_path / "p.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "p.jsonl").write_text("".join(lines[:4]))
    (tmp_path / "p.jsonl.part-0000").write_text("".join(lines[2:6]) + lines[6][:20])
    overwrite(files[3], encoded_digit(8, 50), same_size=False)
    again = predicted(model, tmp_path / "p.jsonl", files)
    assert {path for path in files if whole[path] != again[path]} == {files[3]}
    assert not list(tmp_path.glob("p.jsonl.part-*"))


def test_files_copied_and_touched_are_not_predicted_again(model, files, tmp_path, capsys):
    predicted(model, tmp_path / "p.jsonl", files)
    for file in files:
        os.utime(file)
    predicted(model, tmp_path / "p.jsonl", files)
    assert "12 of them from before" in capsys.readouterr().out


def test_lines_of_an_earlier_version_are_kept_and_that_is_said(model, files, tmp_path, capsys):
    predicted(model, tmp_path / "p.jsonl", files)
    (tmp_path / "p.jsonl.images.npz").unlink()
    predicted(model, tmp_path / "p.jsonl", files)
    printed = capsys.readouterr().out
    assert "12 images predicted before are kept unlooked at" in printed and "12 of them from before" in printed
    overwrite(files[0], encoded_digit(8, 50), same_size=False)
    predicted(model, tmp_path / "p.jsonl", files)
    assert "1 images have changed" in capsys.readouterr().out


def test_overwrite_starts_afresh_with_the_record_too(model, files, tmp_path):
    predicted(model, tmp_path / "p.jsonl", files[:3])
    predicted(model, tmp_path / "p.jsonl", files[3:], "--overwrite")
    assert read_identities(tmp_path / "p.jsonl.images.npz")["images"].shape == (9,)
