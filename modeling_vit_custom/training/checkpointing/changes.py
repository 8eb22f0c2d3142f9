"""Which settings of a training may change when it goes on.

A run is made with one set of settings. Most are kept in the checkpoint's optimizer and schedule, where a new value has
no effect, or decide what the figures mean. How long it trains may change, and how a step is split up.
"""

from collections.abc import Mapping
from typing import Any

LENGTH = ("num_train_epochs", "max_steps", "max_minutes")
STEP = ("per_device_train_batch_size", "gradient_accumulation_steps", "processes")  # their product must stay
CHANGEABLE = (
    *LENGTH, *STEP, "early_stopping_patience", "early_stopping_threshold", "eval_strategy", "eval_steps", "bf16",
    "fp16",
)  # fmt: skip


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Setting: (its value before, its value now) where both are known and differ."""
    return {name: (before[name], now[name]) for name in now if name in before and before[name] != now[name]}


def refused_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that have changed and may not; those of a step where they make it one of other images."""
    changed = changes(before, now)
    refused = [name for name in changed if name not in CHANGEABLE]
    known = all(name in each for name in STEP for each in (before, now))
    if known and images_per_step(before) != images_per_step(now):
        refused += [name for name in STEP if name in changed]
    return refused


def noted_changes(what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A sentence on all that has changed, if anything has."""
    changed = [f"{name}, {old}, now {new}" for name, (old, new) in changes(before, now).items()]
    return [f"{what} with other settings ({'; '.join(changed)})"] if changed else []


def images_per_step(settings: Mapping[str, Any]) -> int:
    """Of all processes together."""
    batch, accumulated, processes = (int(settings[name]) for name in STEP)
    return batch * accumulated * processes


def goes_on(before: Mapping[str, Any], now: Mapping[str, Any], made: Mapping[str, Any]) -> bool:
    """Whether a training that has ended has more to do now. made: {"steps", "epochs"}, what it came to."""
    if now.get("max_minutes") or before.get("max_minutes"):
        return bool(now.get("max_minutes") and before.get("max_minutes")) and now["max_minutes"] > before["max_minutes"]
    if now["max_steps"] > 0:
        return now["max_steps"] > (made.get("steps") or 0)
    return now["num_train_epochs"] > (made.get("epochs") or 0)
