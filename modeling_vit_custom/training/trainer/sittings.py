"""The record of a training by sittings. A sitting runs from one start of the command until it ends or is killed.

Each checkpoint stores the sittings that led to its weights. Steps that were lost when the run was killed are not
counted, however often they were made.
"""

import time
from collections.abc import Sequence
from typing import Any

from ...common.environment import hardware
from ..arguments.settings import settings_of
from ..arguments.training_arguments import ViTTrainingArguments
from ..checkpointing.changes import CHANGEABLE
from .throughput import Throughput


class Sittings:
    """The sittings of a training so far; the current one is the last.

    began: the `time.perf_counter()` at the start of the current one.
    """

    def __init__(self, args: ViTTrainingArguments, throughput: Throughput):
        self.settings, self.throughput = settings_of(args), throughput
        self.device = hardware(args.device)["device"]
        self.began = time.perf_counter()
        self.before: list[dict[str, Any]] = []
        self.first_step = 0

    def begin(self, step: int, before: Sequence[dict[str, Any]] | None) -> None:
        """Start the current sitting at `step`, after the sittings `before` (None: not recorded)."""
        self.first_step = step
        self.before = list(before if before is not None else [unrecorded(step)] if step else [])

    def until(self, step: int) -> list[dict[str, Any]]:
        """Return all sittings, the current one up to `step`."""
        this = {
            "first_step": self.first_step,
            "last_step": step,
            "images": self.throughput.images,
            "seconds": round(time.perf_counter() - self.began, 3),
            "device": self.device,
            **{name: self.settings[name] for name in CHANGEABLE if name in self.settings},
        }
        return [*self.before, this]


def unrecorded(step: int) -> dict[str, Any]:
    """Return one entry for all sittings up to `step` of a package version that recorded none."""
    return {"first_step": 0, "last_step": step, "images": None, "seconds": None}


def total(sittings: Sequence[dict[str, Any]], name: str) -> Any:
    """Return the sum of field `name` over all sittings; None if one of them did not record it."""
    values = [sitting[name] for sitting in sittings]
    return None if None in values else sum(values)
