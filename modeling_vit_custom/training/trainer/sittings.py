"""What happened in a training, sitting by sitting: from one start of the command to its end, or to its being killed.

The sittings are kept with each checkpoint. So they are those that led to its weights: steps that were lost with a kill
are not among them, however often they were made.
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
    """Those of a training so far, this one being the last.

    began: the `time.perf_counter()` from which this one is timed.
    """

    def __init__(self, args: ViTTrainingArguments, throughput: Throughput):
        self.settings, self.throughput = settings_of(args), throughput
        self.device = hardware(args.device)["device"]
        self.began = time.perf_counter()
        self.before: list[dict[str, Any]] = []
        self.first_step = 0

    def begin(self, step: int, before: Sequence[dict[str, Any]] | None) -> None:
        """At `step`, after the sittings `before`; None, where they were not recorded."""
        self.first_step = step
        self.before = list(before if before is not None else [unrecorded(step)] if step else [])

    def until(self, step: int) -> list[dict[str, Any]]:
        """All of them, this one as far as it has come."""
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
    """What is known of the sittings of an earlier version that came to `step`."""
    return {"first_step": 0, "last_step": step, "images": None, "seconds": None}


def total(sittings: Sequence[dict[str, Any]], name: str) -> Any:
    """The sum over all sittings; None where it was not recorded in one of them."""
    values = [sitting[name] for sitting in sittings]
    return None if None in values else sum(values)
