"""The start of a run: its output folder, a run that has ended there, the checkpoint to resume from."""

import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME

from ...common.claims import STAMP, ClaimError, named_weights, read_record, weights_digest
from ...common.errors import UsageError
from ...common.model_files import IMAGES, LOCK, LOCK_OWNER, METRICS, RUN_FILE, SEARCH, TRAIN_LOG, TRAINER_STATE
from ...common.outputs import KINDS, kind_of
from ...common.processes import Processes
from .changes import changes, goes_on, noted_changes, refused_changes
from .checkpoints import (
    MANIFEST,
    STATE_KEY,
    checkpoint_defect,
    discard,
    find_last_checkpoint,
    numbered,
    remove_leftovers,
    unsealed_defect,
)

ANOTHER = "Name another --output_dir, or pass --resume_from_checkpoint false to train again in this one"
DESCRIBED = ("examples", "labels", "fingerprint", "teacher", "masks")  # recorded of a run, but not values of flags


def check_output_dir(output_dir: str | Path) -> None:
    """Check that the folder is new, empty, or an earlier run's, and create it. Raises UsageError otherwise.

    Raises UsageError also where it cannot be created or written.
    """
    path = Path(output_dir)
    if path.exists() and not path.is_dir():
        raise UsageError(f"--output_dir {path} is a file: name a folder.")
    there = {child.name: kind_of(child) for child in path.iterdir()} if path.is_dir() else {}
    for name, kind in there.items():
        if kind not in (None, KINDS[stat.S_IFDIR]):
            raise UsageError(f"--output_dir {path} holds {name}, which is {kind}: remove it, or name another folder.")
    # left by a run killed before its first record
    strangers = there.keys() - {LOCK, LOCK_OWNER, IMAGES, SEARCH, TRAIN_LOG}
    if strangers and not (path / RUN_FILE).is_file():
        raise UsageError(
            f"--output_dir {path} is not empty and holds no earlier run ({RUN_FILE} is missing): name a new folder."
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output_dir {path} cannot be made: {error.strerror}.") from error
    if not os.access(path, os.W_OK):
        raise UsageError(f"--output_dir {path} cannot be written.")


def may_go_on(output_dir: str | Path, resume: str, processes: Processes) -> bool:
    """Return whether there seems to be a run to resume, or one that has ended; the first process looks, for all."""
    if resume != "true":
        return resume != "false"
    folder = Path(output_dir)
    return processes.from_first(
        lambda: bool(numbered(folder)) or all((folder / n).is_file() for n in (RUN_FILE, METRICS))
    )


def ended_run(
    output_dir: str | Path, resume: str, run: Mapping[str, Any], processes: Processes
) -> dict[str, Any] | None:
    """Return the content of metrics.json if this same run has ended in the output folder, else None.

    The first process looks, for all of them. Raises UsageError where another run has ended there, unless this one goes
    on from it, and where the weights are no longer that run's.
    """
    return processes.from_first(lambda: _ended_run(Path(output_dir), run)) if resume == "true" else None


def _ended_run(folder: Path, run: Mapping[str, Any]) -> dict[str, Any] | None:
    earlier, metrics = read_record(folder / RUN_FILE), read_record(folder / METRICS)
    if not _has_ended(folder, earlier, metrics):
        return None
    before = _earlier(folder)["training"]
    now = {**run["training"], "processes": before.get("processes")}  # their number may differ now
    _check_same_run(folder, {**run, "training": now})
    if (changed := changes(before, now)) == {}:
        if metrics.get("test", {}).get("n") != run.get("test", {}).get("examples") or (
            STAMP in earlier and earlier.get("test") != run.get("test")
        ):
            raise UsageError(
                f"{folder} holds a run that has ended, and was measured on another test set: measure its model on this "
                f"one with `vit-custom evaluate --model {folder}`. {ANOTHER}."
            )
        return metrics
    train = metrics.get("train", {})
    made = {"steps": train.get("steps", _newest_step(folder)), "epochs": train.get("epochs", train.get("epoch"))}
    if not goes_on(before, now, made):
        raise _other_settings(folder, sorted(changed), before, now, ", has ended, and would have nothing more to do")
    if not numbered(folder):
        raise UsageError(
            f"{folder} holds a run that has ended, and no checkpoint to continue from: --keep_checkpoints last would "
            f"have kept it. To train its weights further, give them as --model_name_or_path {folder}. {ANOTHER}."
        )
    return None


def _has_ended(folder: Path, earlier: Mapping[str, Any], metrics: Mapping[str, Any]) -> bool:
    if not earlier or "train" not in metrics or (digest := weights_digest(folder)) is None:
        return False
    if STAMP not in earlier:  # of an earlier version: its newest checkpoint shows how far it came
        state = read_record(folder / f"checkpoint-{_newest_step(folder)}" / TRAINER_STATE_NAME)
        return STAMP not in metrics and 0 < state.get("max_steps", 0) <= state.get("global_step", 0)
    try:
        named, measured = named_weights(earlier), named_weights(metrics)
    except ClaimError as error:
        raise UsageError(f"{folder}, {RUN_FILE} or {METRICS}: {error}. {ANOTHER}.") from error
    if named is None:
        return False
    if named != digest:
        raise UsageError(
            f"{folder} holds other weights than those that {RUN_FILE} names: they were changed since the run ended, "
            f"and would be lost. Move them elsewhere. {ANOTHER}."
        )
    return measured == digest


def _newest_step(folder: Path) -> int:
    return max(numbered(folder), default=0)


def find_resume_checkpoint(
    output_dir: str | Path, resume: str, run: Mapping[str, Any], processes: Processes
) -> tuple[str | None, list[str]]:
    """Return (the checkpoint to continue from, or None to start afresh; warnings). The first process looks, for all.

    resume: the value of --resume_from_checkpoint. "true" (default): the newest valid checkpoint of the output folder.
    "false": none, and earlier checkpoints there are removed. Otherwise: the checkpoint to use.
    Raises UsageError if there are checkpoints but none is valid, and if the named one is damaged or older than others.
    Raises it also if settings that may not change differ, and with "true" if data or model do.
    """
    return processes.from_first(lambda: _find_start(Path(output_dir), resume, run, processes.count))


def _find_start(path: Path, resume: str, run: Mapping[str, Any], processes: int) -> tuple[str | None, list[str]]:
    notes = remove_leftovers(path)
    if resume == "false":
        for old in numbered(path).values():
            notes.append(f"removing {old} of an earlier run")
            discard(old)
        checkpoint = None
    elif resume == "true":
        checkpoint, passed_over = find_last_checkpoint(path)
        notes += passed_over
        if checkpoint is None and passed_over:
            raise UsageError(
                f"no checkpoint can be continued from: {'; '.join(passed_over)}. Name one by --resume_from_checkpoint "
                "if it is of an earlier version, or pass --resume_from_checkpoint false to remove all and train again."
            )
        if checkpoint is not None:
            notes += _check_same_run(path, run)
    else:
        checkpoint = Path(resume)
        notes += _check_named(checkpoint, path) + _check_settings(checkpoint, run["training"])
    if checkpoint is None:
        return None, notes
    if (before := len(list(checkpoint.glob("rng_state*.pth")))) != processes:
        notes.append(
            f"{checkpoint} is of {before} process(es), now there are {processes}: the training goes on, "
            "but not bit for bit as it would have"
        )
    return str(checkpoint), notes


def _check_named(checkpoint: Path, path: Path) -> list[str]:
    """Warnings on the checkpoint that --resume_from_checkpoint names. Raises UsageError where it cannot be used."""
    if not checkpoint.is_dir():
        raise UsageError(f"--resume_from_checkpoint {checkpoint} is not a folder.")
    notes = []
    defect = checkpoint_defect(checkpoint)
    if not (checkpoint / MANIFEST).exists() and (defect := unsealed_defect(checkpoint)) is None:
        notes.append(
            f"{checkpoint} has no {MANIFEST}, being of an earlier version: nobody knows if its bytes are right"
        )
    if defect is not None:
        raise UsageError(f"--resume_from_checkpoint {checkpoint} cannot be used: {defect}.")
    step = json.loads((checkpoint / TRAINER_STATE).read_text(encoding="utf-8"))["global_step"]
    if newer := [str(other) for number, other in sorted(numbered(path).items()) if number > step]:
        raise UsageError(
            f"--resume_from_checkpoint {checkpoint} is at step {step}, and {', '.join(newer)} would be taken for its "
            "continuation: remove them, name another --output_dir, or go on from the newest without that flag."
        )
    return notes


def _check_same_run(path: Path, run: Mapping[str, Any]) -> list[str]:
    """Warnings on settings that have changed. Raises UsageError for those that may not change."""
    earlier = _earlier(path)
    now = json.loads(json.dumps(run))
    before = {**earlier["model"], **earlier["data"], "seed": earlier["training"].get("seed")}
    after = {**now["model"], **now["data"], "seed": now["training"]["seed"]}
    changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    changed += [name for name in refused_changes(earlier["training"], now["training"]) if name not in changed]
    if changed:
        raise _other_settings(path, changed, before | earlier["training"], after | now["training"])
    return noted_changes(f"{path} was begun", earlier["training"], now["training"])


def _earlier(folder: Path) -> dict[str, Any]:
    """The record of the run that is to be resumed. Raises UsageError where it is damaged."""
    earlier = read_record(folder / RUN_FILE)
    if not all(isinstance(earlier.get(part), dict) for part in ("model", "data", "training")):
        raise UsageError(f"{folder} holds a run whose {RUN_FILE} is damaged: nobody knows what it was. {ANOTHER}.")
    return earlier


def _check_settings(checkpoint: Path, now: Mapping[str, Any]) -> list[str]:
    """`_check_same_run` for a named checkpoint: compares with its own record of settings (older versions have none)."""
    kept = read_record(checkpoint / TRAINER_STATE_NAME).get("stateful_callbacks", {}).get(STATE_KEY, {})
    before = kept.get("settings", {})
    if refused := refused_changes(before, now):
        raise _other_settings(checkpoint, refused, before, now)
    return noted_changes(f"{checkpoint} was made", before, now)


def _other_settings(
    folder: Path, names: Sequence[str], before: Mapping[str, Any], now: Mapping[str, Any], state: str = ""
) -> UsageError:
    """An error that names all changed settings, and the values of those that are flags."""
    values = [
        f"--{name} {before.get(name, 'not given')} there, {now.get(name, 'not given')} now"
        for name in names
        if name not in DESCRIBED and (name in before or name in now)
    ]
    detail = f": {'; '.join(values)}" if values else ""
    return UsageError(f"{folder} holds a run with other settings ({', '.join(names)}){state}{detail}. {ANOTHER}.")
