"""Checkpoints that are whole or not there: written aside, sealed, renamed; and which one a run continues from.

RUN/checkpoint-N/               whole: its `manifest.json`, the size and SHA-256 of every file, was written last
RUN/.unfinished/checkpoint-N/   being written, or removed (`removed-checkpoint-N`); left by a run that was killed

A further state of a run, such as averaged weights, is one more file of the folder: the Trainer writes it in
`_save_optimizer_and_scheduler` and reads it in `_load_optimizer_and_scheduler`, and it is sealed like the others.
What a callback has to remember goes into trainer_state.json (transformers' `ExportableState`).
"""

import json
import os
import re
import shutil
import zipfile
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from ...common.claims import sha256_of
from ...common.json_files import write_json
from ...common.model_files import CONFIG, TRAINER_STATE, WEIGHTS
from ...weight_files_vit_custom import WeightFileError, parse_strict_json, read_header

MANIFEST, FORMAT = "manifest.json", 1
UNFINISHED = ".unfinished"
MODEL_ALONE = (CONFIG, WEIGHTS, TRAINER_STATE)  # all there is with --save_only_model
NEEDED = (*MODEL_ALONE, "scheduler.pt")
# The optimizer's state: one file, or the parts of several processes (FSDP2's, DeepSpeed's).
OPTIMIZER, OPTIMIZER_PARTS = "optimizer.pt", ("optimizer_*", "optimizer.bin", "global_step*")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read back; the message says what to do."""


# ---------- writing


def seal(folder: Path) -> int:
    """Writes the manifest of a folder, after all of its files have reached the disk; returns the bytes of all."""
    paths = sorted(path for path in folder.rglob("*") if path != folder / MANIFEST)
    files = {path.relative_to(folder).as_posix(): _described(path) for path in paths if path.is_file()}
    for path in paths:
        _sync(path)
    write_json(folder / MANIFEST, {"format": FORMAT, "files": files})
    for path in (folder / MANIFEST, folder):
        _sync(path)
    return sum(entry["size"] for entry in files.values())


def put_in_place(folder: Path, run: Path) -> Path:
    """A sealed RUN/.unfinished/checkpoint-N becomes RUN/checkpoint-N; one that is there, damaged, gives way."""
    target = run / folder.name
    if target.exists():
        discard(target)
    os.rename(folder, target)
    _sync(run)
    with suppress(OSError):
        folder.parent.rmdir()
    return target


def discard(checkpoint: Path) -> None:
    """Removes RUN/checkpoint-N, so that no half of it is ever taken for a whole one."""
    aside = checkpoint.parent / UNFINISHED / f"removed-{checkpoint.name}"
    aside.parent.mkdir(exist_ok=True)
    os.rename(checkpoint, aside)
    shutil.rmtree(aside)
    with suppress(OSError):
        aside.parent.rmdir()


def rotate(run: Path, limit: int | None, step: int, best: int | None) -> None:
    """Removes checkpoints until `limit` are left, but neither that of `step`, the newest, nor the best.

    The oldest by step go first; before them any ahead of `step`, which was damaged when the run went on from before it.
    """
    found = numbered(run)
    removable = sorted(found.keys() - {step, best}, key=lambda number: (number <= step, number))
    for number in removable[: max(0, len(found) - limit) if limit and limit > 0 else 0]:
        discard(found[number])


def remove_leftovers(run: Path) -> list[str]:
    """Removes what a killed run was writing or removing; returns a note on it."""
    path = run / UNFINISHED
    if not path.is_dir():
        return []
    names = ", ".join(sorted(child.name for child in path.iterdir())) or "nothing"
    shutil.rmtree(path)
    return [f"a run that was killed had left {names} in {path}: removed"]


# ---------- reading


def numbered(run: str | Path) -> dict[int, Path]:
    """The folders `checkpoint-N` by their N."""
    named = ((re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in Path(run).glob("checkpoint-*"))
    return {int(match[1]): path for match, path in named if match and path.is_dir()}


def find_last_checkpoint(run: str | Path) -> tuple[Path | None, list[str]]:
    """(the newest valid `checkpoint-N` or None, a note on each newer one that is not)."""
    notes: list[str] = []
    for _, path in sorted(numbered(run).items(), reverse=True):
        if (defect := checkpoint_defect(path)) is None:
            return path, notes
        notes.append(f"{path} cannot be continued from ({defect}) and is passed over")
    return None, notes


def checkpoint_defect(path: str | Path, to_go_on: bool = True) -> str | None:
    """What is wrong with a checkpoint, or None where every file is what was written and all that is needed is there.

    to_go_on: whether a run is to go on from it; otherwise its model is enough (--save_only_model).
    """
    path = Path(path)
    if not (path / MANIFEST).is_file():
        return f"{MANIFEST} is missing: it was not written to its end, or by a version before manifests"
    try:
        manifest = parse_strict_json((path / MANIFEST).read_bytes(), path / MANIFEST)
        state = path / TRAINER_STATE
        if defect := _damage(path, manifest) or unsealed_defect(path, to_go_on):
            return defect
        parse_strict_json(state.read_bytes(), state)
    except (WeightFileError, OSError) as error:
        return str(error)
    return None


def unsealed_defect(path: str | Path, to_go_on: bool = True) -> str | None:
    """What can be seen to be wrong without a manifest: files that are missing, empty or cut off, or None."""
    path = Path(path)
    for name in NEEDED if to_go_on else MODEL_ALONE:
        if not (path / name).is_file() or (path / name).stat().st_size == 0:
            return f"{name} is missing or empty"
    try:
        json.loads((path / TRAINER_STATE).read_text(encoding="utf-8"))
        read_header(path / WEIGHTS)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        return f"trainer_state.json: {error}"
    except WeightFileError as error:
        return str(error)
    return _state_defect(path) if to_go_on else None


def _state_defect(path: Path) -> str | None:
    """The same of what a run needs beside the model to go on."""
    whole = path / OPTIMIZER
    in_parts = not whole.exists() and any(next(path.glob(part), None) for part in OPTIMIZER_PARTS)
    if not in_parts and (not whole.is_file() or whole.stat().st_size == 0):
        return f"{OPTIMIZER} is missing or empty"
    generators = sorted(path.glob("rng_state*.pth"))
    if not generators:
        return "rng_state.pth is missing"
    states = [*([] if in_parts else [whole]), path / "scheduler.pt", *generators]
    try:
        for state in states:
            with zipfile.ZipFile(state) as archive:
                if (member := archive.testzip()) is not None:
                    return f"{state.name}: {member} is damaged"
    except (zipfile.BadZipFile, EOFError) as error:
        return f"{state.name}: {error}"
    return None


def _damage(path: Path, manifest: dict[str, Any]) -> str | None:
    """The first file that is not as the manifest says."""
    files = manifest.get("files")
    if manifest.get("format") != FORMAT or not isinstance(files, dict):
        return f"{MANIFEST} is none that this version writes"
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if not isinstance(expected, dict) or _described(file) != expected:
            return f"{name} is not what was saved: its size or SHA-256 differs"
    return None


def _described(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": sha256_of(path)}


def _sync(path: Path) -> None:
    """A file's bytes, or a folder's names where the system can do that, reach the disk."""
    with suppress(OSError) if path.is_dir() else nullcontext():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


KEPT = "ResumingTrainer"  # where trainer_state.json keeps what Trainer itself would forget
