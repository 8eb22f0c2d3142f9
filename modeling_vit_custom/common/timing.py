"""Calls timed in turn, so that a machine whose speed varies treats them alike."""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import torch

Key = TypeVar("Key", bound=Hashable)
ROUNDS = 4


def finished() -> None:
    """Wait until the accelerator, if there is one, has finished its work."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def time_in_turn(calls: Mapping[Key, Callable[[], Any]], seconds: float) -> dict[Key, list[float]]:
    """Return the seconds of every run of each call: about `seconds` for each call, at least one run in each round."""
    times: dict[Key, list[float]] = {key: [] for key in calls}
    for call in calls.values():
        call()  # warm-up: one-time work of the first run
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
