"""Calls timed in turn, so that a machine whose speed varies treats them alike."""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import torch

Key = TypeVar("Key", bound=Hashable)
ROUNDS = 4


def finished() -> None:
    """Waits for what an accelerator was told to do, where there is one."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def time_in_turn(calls: Mapping[Key, Callable[[], Any]], seconds: float) -> dict[Key, list[float]]:
    """Seconds that each call took, every time: about `seconds` for each, at least once in each of some rounds."""
    times: dict[Key, list[float]] = {key: [] for key in calls}
    for call in calls.values():
        call()  # what only the first one does
    finished()
    for _ in range(ROUNDS):
        for key, call in calls.items():
            until = time.perf_counter() + seconds / ROUNDS
            while True:
                began = time.perf_counter()
                call()
                finished()
                times[key].append(time.perf_counter() - began)
                if time.perf_counter() > until:
                    break
    return times
