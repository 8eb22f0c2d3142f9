"""The speed of a training, and the share of its time that it waits for data."""

import time
from collections.abc import Iterator
from typing import Any

from transformers import TrainerCallback


class Throughput(TrainerCallback):
    """Callback that times each step, from the request for its batches until it is done; validation is left out."""

    def __init__(self, processes: int = 1):
        self.processes = processes
        self.total, self.recent = _Sums(), _Sums()
        self.asked = 0.0

    def timed(self, batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the batches unchanged; count the time until each arrives as waiting."""
        self.asked = time.perf_counter()
        while True:
            asked = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.recent.waited += time.perf_counter() - asked
            self.recent.images += self.processes * len(batch["pixel_values"])
            yield batch

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.recent.seconds += time.perf_counter() - self.asked

    def take(self) -> dict[str, float]:
        """Return the rates (see `overall`) of the steps since the last call."""
        measured = self.recent.rates()
        self.total, self.recent = self.total + self.recent, _Sums()
        return measured

    def overall(self) -> dict[str, float]:
        """Return the rates of all steps: {"data_wait": share of the time, "images_per_second": of all processes}."""
        return (self.total + self.recent).rates()

    @property
    def seconds(self) -> float:
        """Seconds of all steps so far."""
        return (self.total + self.recent).seconds

    @property
    def images(self) -> int:
        """Number of images that all processes together have received."""
        return (self.total + self.recent).images

    def sentence(self) -> str:
        """Return the rates of all steps as a sentence for the screen."""
        rates = {"data_wait": 0.0, "images_per_second": 0.0} | self.overall()
        return f"training: {rates['images_per_second']:,.0f} images/s, {rates['data_wait']:.1%} of the time waiting"


class _Sums:
    def __init__(self, seconds: float = 0.0, waited: float = 0.0, images: int = 0):
        self.seconds, self.waited, self.images = seconds, waited, images

    def __add__(self, other: "_Sums") -> "_Sums":
        return _Sums(self.seconds + other.seconds, self.waited + other.waited, self.images + other.images)

    def rates(self) -> dict[str, float]:
        if not self.seconds:
            return {}
        return {
            "data_wait": round(self.waited / self.seconds, 4),
            "images_per_second": round(self.images / self.seconds, 1),
        }
