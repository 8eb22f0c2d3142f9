"""Which checkpoint a run continues from, and whether it is one: files of a killed or full-disk save are passed over."""

import json
import re
from pathlib import Path

from ..weight_files_vit_custom import WeightFileError, read_header

NEEDED = ("config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")


def find_last_checkpoint(output_dir: str | Path) -> tuple[Path | None, list[str]]:
    """(the newest usable `checkpoint-N` or None, a note on each newer one that is not usable)."""
    found = [
        (int(match[1]), path)
        for path in Path(output_dir).glob("checkpoint-*")
        if path.is_dir() and (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    ]
    notes: list[str] = []
    for _, path in sorted(found, reverse=True):
        if (defect := checkpoint_defect(path)) is None:
            return path, notes
        notes.append(f"{path} is incomplete ({defect}) and is passed over")
    return None, notes


def checkpoint_defect(path: str | Path) -> str | None:
    """What makes a checkpoint folder unusable for resuming, or None."""
    path = Path(path)
    for name in NEEDED:
        if not (path / name).is_file() or (path / name).stat().st_size == 0:
            return f"{name} is missing or empty"
    if not any(file.stat().st_size for file in path.glob("rng_state*.pth")):
        return "rng_state.pth is missing or empty"
    try:
        json.loads((path / "trainer_state.json").read_text())
        read_header(path / "model.safetensors")
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        return f"trainer_state.json: {error}"
    except WeightFileError as error:
        return str(error)
    return None
