"""A record counts only for the weights it names, after any overwriting and any kill."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from saved_models import save_ours

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.common.claims import (
    ClaimError,
    check_claims,
    digest_of,
    put_model,
    stamped,
    unfinished,
    weights_digest,
    write_stamped,
)
from modeling_vit_custom.common.json_files import write_json
from modeling_vit_custom.training.runs.records import begin_records, end_records


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return two saved models of one architecture."""
    root = tmp_path_factory.mktemp("models")
    return save_ours(root / "old", seed=0), save_ours(root / "new", seed=1)


@pytest.fixture
def folder(models, tmp_path):
    """Return a copy of the first model with every record of an ended run."""
    folder = Path(shutil.copytree(models[0], tmp_path / "run"))
    begin_records(folder, {"training": {"learning_rate": 1}}, {"source": "elsewhere"})
    (folder / "training.png").write_bytes(b"curves")
    (folder / "speeds.png").write_bytes(b"bars")
    end_records(folder, {"test": {"accuracy": 1.0}})
    write_stamped(folder / "speeds.json", {"rows": []}, ["speeds.png"])
    write_stamped(folder / "golden.json", {"images": []})
    return folder


RECORDS = {"metrics.json", "training_args.json", "conversion.json", "speeds.json", "golden.json"}


def test_the_digest_is_what_sha256sum_prints(models, tmp_path):
    printed = subprocess.run(["sha256sum", models[0] / "model.safetensors"], capture_output=True, text=True).stdout
    assert weights_digest(models[0]) == digest_of(str(models[0])) == printed.split()[0]
    ViTCustomForImageClassification.from_pretrained(models[0]).save_pretrained(tmp_path / "s", max_shard_size="20KB")
    assert len(list((tmp_path / "s").glob("model-*.safetensors"))) > 2
    command = "sha256sum model-*.safetensors | sha256sum"
    printed = subprocess.run(command, cwd=tmp_path / "s", shell=True, capture_output=True, text=True).stdout
    assert weights_digest(tmp_path / "s") == printed.split()[0]
    assert weights_digest(tmp_path) is None


def test_all_records_of_a_run_that_has_ended_are_held(folder):
    assert set(check_claims(folder)[0]) == RECORDS and check_claims(folder)[1] == []


def test_a_model_saved_over_it_by_hand_is_noticed(folder, models):
    ViTCustomForImageClassification.from_pretrained(models[1]).save_pretrained(folder)
    for name in RECORDS:
        with pytest.raises(ClaimError, match=f"{name} is of weights with SHA-256 .*put its weights back, or remove it"):
            check_claims(folder, [name])
    ViTCustomForImageClassification.from_pretrained(models[0]).save_pretrained(folder)
    assert set(check_claims(folder)[0]) == RECORDS, "the weights are the same bits again"


@pytest.mark.parametrize("picture", ["training.png", "speeds.png"])
def test_a_picture_of_something_else_is_noticed(folder, picture):
    (folder / picture).write_bytes(b"another")
    with pytest.raises(ClaimError, match=f"{picture} is not the one that .* was written with"):
        check_claims(folder)


def test_records_without_a_stamp_are_named_and_those_under_way_are_refused(folder):
    write_json(folder / "metrics.json", {"test": {"accuracy": 1.0}})
    assert check_claims(folder)[1] == ["metrics.json"]
    write_json(folder / "training_args.json", unfinished({}))
    with pytest.raises(ClaimError, match=r"training_args.json is of a training that has not ended"):
        check_claims(folder)


def test_other_weights_take_their_records_with_them_and_the_same_keep_them(folder, models, tmp_path):
    same, other = (Path(shutil.copytree(model, tmp_path / "aside" / model.name)) for model in models)
    put_model(same, folder)
    assert set(check_claims(folder)[0]) == RECORDS and not same.exists()
    put_model(other, folder)
    assert not RECORDS & {path.name for path in folder.iterdir()}
    assert not (folder / "training.png").exists() and weights_digest(folder) == weights_digest(models[1])


def again(folder: Path, other: Path) -> None:
    """Write what a second training writes in the folder, without training."""
    begin_records(folder, {"training": {"learning_rate": 2}}, {"source": "the second"})
    put_model(other, folder)
    (folder / "training.png").write_bytes(b"other curves")
    end_records(folder, {"test": {"accuracy": 0.5}})


def killed_at(call: int, folder: Path, other: Path) -> bool:
    """Run `again` in a process and kill it before its `call`-th rename or removal; return whether it was killed."""
    child = os.fork()
    if child == 0:
        count = 0

        def counted(whole):
            def change(*args, **kwargs):
                nonlocal count
                count += 1
                if count == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return whole(*args, **kwargs)

            return change

        os.replace, os.unlink, os.rmdir = counted(os.replace), counted(os.unlink), counted(os.rmdir)
        again(folder, other)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_kill_leaves_no_record_beside_weights_that_are_not_its_own(folder, models, tmp_path):
    old, new = (weights_digest(model) for model in models)
    seen, call, killed = [], 0, True
    while killed:
        call += 1
        run, aside = tmp_path / f"run{call}", tmp_path / f"aside{call}"
        shutil.copytree(folder, run)
        shutil.copytree(models[1], aside)
        killed = killed_at(call, run, aside)
        digest = weights_digest(run)
        accuracy = json.loads(text)["test"]["accuracy"] if (text := read(run / "metrics.json")) else None
        assert digest in (old, new, None)
        assert accuracy in (None, 1.0) if digest == old else accuracy in (None, 0.5)
        if digest:  # the folder holds a whole model, with its configuration
            expected = load_file(models[digest == new] / "model.safetensors")
            loaded = ViTCustomForImageClassification.from_pretrained(run).state_dict()
            assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
        try:
            check_claims(run)
            seen.append(digest)
            rate = json.loads(read(run / "training_args.json"))["training"]["learning_rate"]
            assert (digest, rate) in ((old, 1), (new, 2)), "the record of a run lies beside weights of another"
        except ClaimError as error:
            assert "training_args.json is of a training that has not ended" in str(error) or "of weights" in str(error)
    assert call > 15 and seen[0] == old and seen[-1] == new


def read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def test_a_stamp_is_of_the_bytes(models, tmp_path):
    copy = Path(shutil.copytree(models[0], tmp_path / "m"))
    (copy / "a.png").write_bytes(b"a")
    record = stamped({"n": 1}, copy, ["a.png", "b.png"])
    assert record["files"] == {"a.png": hashlib.sha256(b"a").hexdigest()}
    assert record["weights"] == {"sha256": hashlib.sha256((copy / "model.safetensors").read_bytes()).hexdigest()}
