"""Atomic checkpoints: written aside, sealed with a manifest, renamed; and the search for the one to continue from.

RUN/checkpoint-N/               complete: `manifest.json`, with size and SHA-256 of every file, was written last
RUN/.unfinished/checkpoint-N/   being written, or removed (`removed-checkpoint-N`); left by a run that was killed

Further state of a run, such as averaged weights, is one more file of the folder: the Trainer writes it in
`_save_optimizer_and_scheduler` and reads it in `_load_optimizer_and_scheduler`, and it is sealed like the others.
The state of callbacks goes into trainer_state.json (transformers' `ExportableState`).
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
MODEL_ALONE = (CONFIG, WEIGHTS, TRAINER_STATE)  # all files that --save_only_model writes
NEEDED = (*MODEL_ALONE, "scheduler.pt")
# The optimizer's state: one file, or the parts of several processes (FSDP2's, DeepSpeed's).
OPTIMIZER, OPTIMIZER_PARTS = "optimizer.pt", ("optimizer_*", "optimizer.bin", "global_step*")
# What a run needs to go on, beside the model: optimizer, schedule, scaler, random numbers, trained weights.
STATE = (
    OPTIMIZER, *OPTIMIZER_PARTS, "scheduler.pt", "scaler.pt", "rng_state*.pth", "training_weights.safetensors",
    "pytorch_model_fsdp_*",
)  # fmt: skip


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read back; the message says what to do."""


# ---------- writing


def seal(folder: Path) -> int:
    """Write the manifest of a folder once all its files have reached the disk; return the bytes of all files."""
    paths = sorted(path for path in folder.rglob("*") if path != folder / MANIFEST)
    files = {path.relative_to(folder).as_posix(): _described(path) for path in paths if path.is_file()}
    for path in paths:
        _sync(path)
    write_json(folder / MANIFEST, {"format": FORMAT, "files": files})
    for path in (folder / MANIFEST, folder):
        _sync(path)
    return sum(entry["size"] for entry in files.values())


def put_in_place(folder: Path, run: Path) -> Path:
    """Rename a sealed RUN/.unfinished/checkpoint-N to RUN/checkpoint-N; replace a damaged one of that name."""
    target = run / folder.name
    if target.exists():
        discard(target)
    os.rename(folder, target)
    _sync(run)
    with suppress(OSError):
        folder.parent.rmdir()
    return target


def discard(checkpoint: Path) -> None:
    """Remove RUN/checkpoint-N, moved aside first so that a half-removed one is never taken for complete."""
    aside = checkpoint.parent / UNFINISHED / f"removed-{checkpoint.name}"
    aside.parent.mkdir(exist_ok=True)
    os.rename(checkpoint, aside)
    shutil.rmtree(aside)
    with suppress(OSError):
        aside.parent.rmdir()


def rotate(run: Path, limit: int | None, step: int, best: int | None) -> None:
    """Remove checkpoints until `limit` are left, but never those of `step` (the newest) and `best`.

    Checkpoints beyond `step` go first: they were damaged when the run resumed from an earlier one. Then the oldest go.
    """
    found = numbered(run)
    removable = sorted(found.keys() - {step, best}, key=lambda number: (number <= step, number))
    for number in removable[: max(0, len(found) - limit) if limit and limit > 0 else 0]:
        discard(found[number])


def drop_state(checkpoint: Path) -> int:
    """Remove from RUN/checkpoint-N the files from which a run goes on, and seal the model that is left.

    The folder is made aside, of links where the disk has them, and put in place whole. Returns the bytes removed.
    """
    run, aside = checkpoint.parent, checkpoint.parent / UNFINISHED / checkpoint.name
    shutil.rmtree(aside, ignore_errors=True)
    state = {path for pattern in STATE for path in checkpoint.glob(pattern)}
    if not state:
        return 0
    before = size_of(checkpoint)
    for path in checkpoint.rglob("*"):
        if path.is_file() and path.name != MANIFEST and not state & {path, *path.parents}:
            copy = aside / path.relative_to(checkpoint)
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, copy)
            except OSError:
                shutil.copy2(path, copy)
    seal(aside)
    return before - size_of(put_in_place(aside, run))


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def remove_leftovers(run: Path) -> list[str]:
    """Remove what a killed run was writing or removing; return a note on it, or an empty list."""
    path = run / UNFINISHED
    if not path.is_dir():
        return []
    names = ", ".join(sorted(child.name for child in path.iterdir())) or "nothing"
    shutil.rmtree(path)
    return [f"a run that was killed had left {names} in {path}: removed"]


# ---------- reading


def numbered(run: str | Path) -> dict[int, Path]:
    """Return the folders `checkpoint-N` of a run by their N."""
    named = ((re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in Path(run).glob("checkpoint-*"))
    return {int(match[1]): path for match, path in named if match and path.is_dir()}


def find_last_checkpoint(run: str | Path) -> tuple[Path | None, list[str]]:
    """Return (the newest valid `checkpoint-N` or None, a note on each newer one that is not valid)."""
    notes: list[str] = []
    for _, path in sorted(numbered(run).items(), reverse=True):
        if (defect := checkpoint_defect(path)) is None:
            return path, notes
        notes.append(f"{path} cannot be continued from ({defect}) and is passed over")
    return None, notes


def checkpoint_defect(path: str | Path, to_go_on: bool = True) -> str | None:
    """Return what is wrong with a checkpoint; None if every file is as it was written and no needed file is missing.

    to_go_on: whether a run is to resume from it; otherwise its model is enough (--save_only_model).
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
    """Return what is visibly wrong without a manifest: a file that is missing, empty or cut off; None if nothing is."""
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
    """`unsealed_defect` of the files that a run needs in addition to the model to resume."""
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
    """The first file that differs from the manifest, in words; None if there is none."""
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
    """Flush a file's bytes to the disk, or a folder's names where the system supports it."""
    with suppress(OSError) if path.is_dir() else nullcontext():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


STATE_KEY = "ResumingTrainer"  # the key in trainer_state.json for what Trainer itself does not save
