"""A checkpoint is whole or absent, and a run resumes only from a whole one."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from real_digits import write_class_folder
from safetensors.torch import save_file
from tiny_training import tiny_train

from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.training.checkpointing import checkpoints, disk
from modeling_vit_custom.training.checkpointing.checkpoints import (
    MANIFEST,
    UNFINISHED,
    CheckpointError,
    checkpoint_defect,
    find_last_checkpoint,
    numbered,
    put_in_place,
    remove_leftovers,
    rotate,
    seal,
)
from modeling_vit_custom.training.trainer import resuming


def write_checkpoint(path: Path, sealed: bool = True) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    save_file({"weight": torch.zeros(64)}, path / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"a": 1}, path / name)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": 1}))
    if sealed:
        seal(path)
    return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_class_folder(tmp_path_factory.mktemp("digits"), {"0": 16, "1": 16})


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    """Train with checkpoints 2, 4 and 6; return the folder."""
    output_dir = tmp_path_factory.mktemp("runs") / "run"
    tiny_train(output_dir, "--train_dir", digits, "--max_steps", 6, *BY_STEP, "--save_total_limit", 5)
    return output_dir


BY_STEP = ("--eval_strategy", "steps", "--eval_steps", 2, "--save_strategy", "steps", "--save_steps", 2)


def test_newest_by_step_not_by_name_or_time(tmp_path):
    for step in (90, 100, 9):
        write_checkpoint(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-best").mkdir()
    assert find_last_checkpoint(tmp_path) == (tmp_path / "checkpoint-100", [])
    assert find_last_checkpoint(tmp_path / "nothing") == (None, [])


def test_every_damage_to_every_file_is_noticed_and_named(run, tmp_path):
    newer = max(numbered(run).values(), key=lambda path: int(path.name[11:]))
    files = [path.relative_to(newer) for path in newer.rglob("*") if path.is_file()]
    assert len(files) > 15 and {MANIFEST, "optimizer.pt", "modeling_vit_custom.py"} <= set(map(str, files))
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    for file in files:
        spoilt, good = copy / newer.name / file, (newer / file).read_bytes()
        middle = len(good) // 2
        flipped = good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]
        cut = good[:middle] if file.name == MANIFEST else good[:-1]  # a manifest may lose its last newline
        for damage in (None, b"", cut, bytes(len(good)), flipped):
            if damage is None:
                spoilt.unlink()
            else:
                spoilt.write_bytes(damage)
            found, notes = find_last_checkpoint(copy)
            assert found == copy / "checkpoint-4", (file, damage)
            assert len(notes) == 1 and newer.name in notes[0] and (file.name in notes[0] or file.name == MANIFEST)
        spoilt.write_bytes(good)
    assert find_last_checkpoint(copy) == (copy / newer.name, [])


@pytest.mark.parametrize("name", checkpoints.NEEDED)
def test_a_sealed_folder_that_lacks_a_file_is_not_a_checkpoint(tmp_path, name):
    path = write_checkpoint(tmp_path / "checkpoint-5", sealed=False)
    (path / name).unlink()
    seal(path)
    assert name in checkpoint_defect(path)


def test_a_state_that_is_not_strict_json_is_a_defect(tmp_path):
    path = write_checkpoint(tmp_path / "checkpoint-5", sealed=False)
    (path / "trainer_state.json").write_text('{"global_step": 5, "best_metric": NaN}')
    seal(path)
    assert "NaN" in checkpoint_defect(path)


def test_saved_states_are_strict_json_and_name_folders_that_are_there(run):
    for step, path in numbered(run).items():
        state = json.loads((path / "trainer_state.json").read_text(), parse_constant=lambda name: pytest.fail(name))
        assert state["global_step"] == step and UNFINISHED not in json.dumps(state)
        assert state["best_model_checkpoint"] == str(run / f"checkpoint-{state['best_global_step']}")
        assert state["best_global_step"] <= step and checkpoint_defect(path) is None
    assert not (run / UNFINISHED).exists() and not (run / ".lock").exists()


def test_putting_in_place_replaces_a_damaged_one_and_nothing_stays_aside(tmp_path):
    write_checkpoint(tmp_path / "checkpoint-5", sealed=False)
    folder = write_checkpoint(tmp_path / UNFINISHED / "checkpoint-5")
    assert put_in_place(folder, tmp_path) == tmp_path / "checkpoint-5"
    assert checkpoint_defect(tmp_path / "checkpoint-5") is None
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_rotation_is_by_step_and_spares_the_newest_and_the_best(tmp_path):
    """The times of the folders have the opposite order, and checkpoint-40 is a damaged one ahead of the run."""
    for age, step in enumerate((30, 20, 10, 5, 40)):
        os.utime(write_checkpoint(tmp_path / f"checkpoint-{step}"), (1e9 - 1e6 * age,) * 2)
    rotate(tmp_path, None, step=30, best=5)
    assert len(numbered(tmp_path)) == 5
    rotate(tmp_path, 3, step=30, best=5)
    assert sorted(numbered(tmp_path)) == [5, 20, 30]
    for limit in (2, 1):
        rotate(tmp_path, limit, step=30, best=5)
        assert sorted(numbered(tmp_path)) == [5, 30]
    rotate(tmp_path, 1, step=30, best=None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-30"]


def test_leftovers_are_named_and_removed(tmp_path):
    write_checkpoint(tmp_path / UNFINISHED / "checkpoint-5", sealed=False)
    notes = remove_leftovers(tmp_path)
    assert len(notes) == 1 and "checkpoint-5" in notes[0] and not list(tmp_path.iterdir())
    assert remove_leftovers(tmp_path) == []


# ---------- the checkpoint from which a run resumes


def resume(run: Path, tmp_path: Path, digits: Path, *flags) -> tuple[Path, dict]:
    """Copy the run, change it by `flags[0]`, and continue it with the other flags; return (the folder, its metrics)."""
    prepare, *rest = flags
    copy = Path(shutil.copytree(run, tmp_path / "copy", dirs_exist_ok=True))
    prepare(copy)
    return copy, tiny_train(
        copy, "--train_dir", digits, "--max_steps", 6, *BY_STEP, "--save_total_limit", 5, *rest, "--logging_steps", 1
    )


def test_without_a_valid_checkpoint_a_run_does_not_restart_unasked(run, digits, tmp_path):
    def spoil(copy):
        (copy / "model.safetensors").unlink()  # as if it had been killed before its end
        for path in numbered(copy).values():
            (path / "optimizer.pt").write_bytes(b"")

    with pytest.raises(UsageError, match=r"no checkpoint can be continued from: .*checkpoint-6.*checkpoint-4.*false"):
        resume(run, tmp_path, digits, spoil)
    assert sorted(numbered(tmp_path / "copy")) == [2, 4, 6]


def test_a_checkpoint_of_an_earlier_version_is_taken_when_it_is_named(run, digits, tmp_path, caplog):
    def unsealed(copy):
        (copy / "model.safetensors").unlink(missing_ok=True)  # as if it had been killed before its end
        for path in numbered(copy).values():
            (path / MANIFEST).unlink()

    with pytest.raises(UsageError, match=r"manifest.json is missing.*Name one by --resume_from_checkpoint"):
        resume(run, tmp_path, digits, unsealed)
    last = tmp_path / "copy" / "checkpoint-6"
    _, metrics = resume(run, tmp_path, digits, unsealed, "--resume_from_checkpoint", last)
    assert metrics["train"]["resumed"] and "of an earlier version" in caplog.text
    os.truncate(last / "optimizer.pt", 1000)
    with pytest.raises(UsageError, match=r"checkpoint-6 cannot be used: optimizer.pt"):
        tiny_train(tmp_path / "copy", "--train_dir", digits, "--resume_from_checkpoint", last)


def test_an_older_checkpoint_is_not_continued_beside_newer_ones(run, digits, tmp_path):
    with pytest.raises(UsageError, match=r"is at step 2, and .*checkpoint-4, .*checkpoint-6 would be taken"):
        resume(run, tmp_path, digits, lambda copy: None, "--resume_from_checkpoint", run / "checkpoint-2")


def test_a_moved_run_finds_its_best_and_a_lost_best_is_said(run, digits, tmp_path, caplog):
    best = json.loads((run / "metrics.json").read_text())["best"]["step"]
    moved, metrics = resume(run, tmp_path, digits, lambda copy: None)
    assert metrics["best"]["step"] == best and metrics["train"]["train_loss"] > 0
    names = [(path / "model.safetensors").read_bytes() for path in (moved, moved / f"checkpoint-{best}")]
    assert names[0] == names[1]
    if best == 6:
        pytest.skip("the best is the last")
    (moved / f"checkpoint-{best}" / "model.safetensors").write_bytes(b"")
    (moved / "model.safetensors").unlink()  # as if it had been killed before its end
    metrics = tiny_train(moved, "--train_dir", digits, "--max_steps", 6, *BY_STEP)
    assert metrics["best"]["step"] is None and "the best is now sought again" in caplog.text


# ---------- states that must not be saved


def test_metrics_that_are_no_numbers_become_null(digits, tmp_path, monkeypatch):
    from modeling_vit_custom.training.trainer import assembly

    monkeypatch.setattr(assembly, "TrainerMetrics", lambda *_: lambda _: {"accuracy": 0.5, "odd": float("nan")})
    tiny_train(tmp_path / "o", "--train_dir", digits, "--max_steps", 2, *BY_STEP)
    path = tmp_path / "o" / "checkpoint-2"
    assert '"eval_odd": null' in (path / "trainer_state.json").read_text() and checkpoint_defect(path) is None


def test_states_of_the_optimizer_that_are_no_numbers_are_not_saved(digits, tmp_path, monkeypatch):
    def spoil(trainer, *rest):
        next(iter(trainer.optimizer.state.values()))["exp_avg"].view(-1)[0] = torch.inf
        whole(trainer, *rest)

    whole = resuming.ResumingTrainer._save_optimizer_and_scheduler
    monkeypatch.setattr(resuming.ResumingTrainer, "_save_optimizer_and_scheduler", spoil)
    with pytest.raises(FloatingPointError, match=r"states of the optimizer at step 2, not saved: exp_avg"):
        tiny_train(tmp_path / "o", "--train_dir", digits, "--max_steps", 2, *BY_STEP)
    assert not numbered(tmp_path / "o") and not (tmp_path / "o" / UNFINISHED).exists()


def test_a_disk_without_room_for_two_is_refused_before_the_first_step(digits, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage._replace(free=2_000_000))
    with pytest.raises(CheckpointError, match=r"before step 1: 2,[\d,]+ bytes are needed and 2,000,000 are available"):
        tiny_train(tmp_path / "o", "--train_dir", digits, "--max_steps", 2, *BY_STEP)
    assert not numbered(tmp_path / "o")
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage._replace(free=2_000_000_000))
    tiny_train(tmp_path / "o", "--train_dir", digits, "--max_steps", 2, *BY_STEP)
    assert sorted(numbered(tmp_path / "o")) == [2]
