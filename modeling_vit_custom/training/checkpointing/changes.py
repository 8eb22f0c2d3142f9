"""The settings of a training that may change when it is resumed.

Most may not: a new value would have no effect, because the checkpoint's optimizer and schedule keep the old one, or it
would change the meaning of the figures. `CHANGEABLE` lists the others: the length of the training, how a step is split
up, early stopping, the time of evaluations, and the precision.
"""

from collections.abc import Mapping
from typing import Any

LENGTH = ("num_train_epochs", "max_steps", "max_minutes")
STEP = ("per_device_train_batch_size", "gradient_accumulation_steps", "processes")  # their product must stay the same
CHANGEABLE = (
    *LENGTH, *STEP, "early_stopping_patience", "early_stopping_threshold", "eval_strategy", "eval_steps", "bf16",
    "fp16",
)  # fmt: skip


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return {setting: (value before, value now)} where both values are known and differ."""
    return {name: (before[name], now[name]) for name in now if name in before and before[name] != now[name]}


def refused_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the settings that have changed and may not: those of STEP only where the images per step change."""
    changed = changes(before, now)
    refused = [name for name in changed if name not in CHANGEABLE]
    known = all(name in each for name in STEP for each in (before, now))
    if known and images_per_step(before) != images_per_step(now):
        refused += [name for name in STEP if name in changed]
    return refused


def noted_changes(what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a list of one sentence on all settings that have changed; an empty list if there are none."""
    changed = [f"{name}, {old}, now {new}" for name, (old, new) in changes(before, now).items()]
    return [f"{what} with other settings ({'; '.join(changed)})"] if changed else []


def images_per_step(settings: Mapping[str, Any]) -> int:
    """Return the number of images per optimizer step, of all processes together."""
    batch, accumulated, processes = (int(settings[name]) for name in STEP)
    return batch * accumulated * processes


def goes_on(before: Mapping[str, Any], now: Mapping[str, Any], made: Mapping[str, Any]) -> bool:
    """Return whether a training that has ended has more to do with the settings `now`.

    made: {"steps", "epochs"} that it has done.
    """
    if now.get("max_minutes") or before.get("max_minutes"):
        return bool(now.get("max_minutes") and before.get("max_minutes")) and now["max_minutes"] > before["max_minutes"]
    if now["max_steps"] > 0:
        return now["max_steps"] > (made.get("steps") or 0)
    return now["num_train_epochs"] > (made.get("epochs") or 0)
