"""The baseline for every fine-tuning: a head fitted to convergence on features that are computed once.

Shapes: N examples, K outputs.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..data.splits import draw_subset
from ..data.targets import Targets
from ..pretrained_vit_custom import ViTCustomPreTrainedModel
from .selection import LOOKED_AT, Head, choose_features, fit_head, nearest_neighbours
from .store import Features
from .taps import Tap, narrowed

MANY = 2_000  # examples from which on several threads fit a head faster than one
LIKE_THE_FIRST = 1e-3  # other features than the model's own must have an error smaller by this to be chosen


@dataclass(frozen=True)
class Fitted:
    """A head fitted to the best features of a frozen encoder.

    tap: where the features are taken.   head: fitted to them.   neighbours: accuracy of k-NN on them, or None.
    count: the number of examples.   seconds: the time it took.
    own, chosen: the share of the labels' variance that ridge regression leaves unexplained, with the model's own
    features and with the chosen ones.
    """

    tap: Tap
    head: Head
    count: int
    seconds: float
    own: float
    chosen: float
    neighbours: float | None

    def sentences(self) -> list[str]:
        """Return sentences for the screen on the choice and the figures behind it."""
        yardstick = "" if self.neighbours is None else f" (k-NN on these features: accuracy {self.neighbours:.4f})"
        return [
            f"features: {self.tap} (unexplained: {self.chosen:.3f}; the checkpoint's own: {self.own:.3f})",
            f"head: {self.head}, chosen and fitted to {self.count:,} images in {self.seconds:.1f} s{yardstick}",
        ]

    def record(self) -> dict[str, Any]:
        """Return the entry of metrics.json."""
        return {
            "block": self.tap.block,
            "pooling": self.tap.pooling,
            "head": self.head.kind,
            "strength": self.head.strength,
            "nearest_neighbours_accuracy": self.neighbours,
            "fit_seconds": round(self.seconds, 2),
        }


def fit(
    features: Features,
    targets: Targets,
    outputs: int,
    kind: str | None = None,
    views: int = 1,
    seed: int = 0,
    indices: np.ndarray | None = None,
) -> Fitted:
    """Choose features and head by cross-validation on the chosen examples alone, and fit the head to all of these.

    indices: the examples to use; None for all.   targets: of all examples.   kind: of head; None to choose it.
    views: the number of views of each example to which the head is fitted in the end.
    """
    began = time.perf_counter()
    chosen = np.arange(features.count) if indices is None else indices
    targets = targets.select(chosen)
    labels = targets.values
    looked_at = draw_subset(targets.strata(), LOOKED_AT, seed)
    own = features.taps.taps[0]
    with _threads_for(len(labels)):
        tap, errors = choose_features(
            features.taps.taps, lambda tap: features.of(tap, chosen[looked_at].tolist()), labels[looked_at], outputs
        )
        if errors[own] - errors[tap] < LIKE_THE_FIRST:
            tap = own
        rows = features.of(tap, chosen.tolist())
        augmented = features.of(tap, chosen.tolist(), views) if views > 1 else None
        head = fit_head(rows, targets, outputs, kind, seed, augmented)
        alone = not targets.single or len(labels) < 2
        neighbours = None if alone else nearest_neighbours(rows, labels)
    return Fitted(tap, head, len(labels), time.perf_counter() - began, errors[own], errors[tap], neighbours)


@contextmanager
def _threads_for(examples: int) -> Iterator[None]:
    """Use one thread for few examples: several would wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if examples < MANY else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def with_head(model: ViTCustomPreTrainedModel, fitted: Fitted) -> ViTCustomPreTrainedModel:
    """Return an ordinary model of this package with the fitted head on the chosen features."""
    other: Any = narrowed(model, fitted.tap)
    with torch.no_grad():
        for name in ("weight", "bias"):
            parameter = getattr(other.classifier, name)
            parameter.copy_(getattr(fitted.head, name).to(parameter))
    return other
