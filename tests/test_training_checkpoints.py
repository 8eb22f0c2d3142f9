"""The checkpoint a run continues from is one that can be continued from."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modeling_vit_custom.training.checkpoints import checkpoint_defect, find_last_checkpoint


def write_checkpoint(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    save_file({"weight": torch.zeros(64)}, path / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"a": 1}, path / name)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": 1}))
    return path


def test_newest_by_step_not_by_name_or_time(tmp_path):
    for step in (90, 100, 9):
        write_checkpoint(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-best").mkdir()
    assert find_last_checkpoint(tmp_path) == (tmp_path / "checkpoint-100", [])
    assert find_last_checkpoint(tmp_path / "nothing") == (None, [])


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth"]
)
@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_incomplete_checkpoints_are_passed_over_by_name(tmp_path, name, damage):
    write_checkpoint(tmp_path / "checkpoint-5")
    newer = write_checkpoint(tmp_path / "checkpoint-10")
    if damage == "missing":
        (newer / name).unlink()
    else:
        (newer / name).write_bytes(b"")
    found, notes = find_last_checkpoint(tmp_path)
    assert found == tmp_path / "checkpoint-5"
    assert len(notes) == 1 and "checkpoint-10" in notes[0] and name in notes[0]


@pytest.mark.parametrize("name", ["model.safetensors", "trainer_state.json"])
def test_truncated_files_are_noticed(tmp_path, name):
    path = write_checkpoint(tmp_path / "checkpoint-5")
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[:-5])
    assert name in checkpoint_defect(path)
