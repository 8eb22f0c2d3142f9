"""The floor of every fine-tuning: a head fitted to convergence on features that are computed once.

Shapes: N examples, K outputs.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..data.examples import SINGLE_LABEL
from ..data.labels import strata
from ..data.splits import draw_subset
from ..modeling_vit_custom import ViTCustomForImageClassification
from .selection import LOOKED_AT, Head, choose_features, fit_head, nearest_neighbours
from .store import Features
from .taps import Tap, narrowed

MANY = 2_000  # examples, from which on several threads fit a head sooner
LIKE_THE_FIRST = 1e-3  # how much smaller an error must be for other features than the model's own to be taken


@dataclass(frozen=True)
class Fitted:
    """tap: whose features are used.   head: what is fitted to them.   neighbours: accuracy of k-NN on them, or None.

    own, chosen: what ridge regression leaves unexplained of the labels, with the model's own features and with those.
    """

    tap: Tap
    head: Head
    count: int
    seconds: float
    own: float
    chosen: float
    neighbours: float | None

    def sentences(self) -> list[str]:
        """Return what was chosen, and by what, for the screen."""
        yardstick = "" if self.neighbours is None else f" (k-NN on these features: accuracy {self.neighbours:.4f})"
        return [
            f"features: {self.tap} (unexplained: {self.chosen:.3f}; the checkpoint's own: {self.own:.3f})",
            f"head: {self.head}, chosen and fitted to {self.count:,} images in {self.seconds:.1f} s{yardstick}",
        ]

    def record(self) -> dict[str, Any]:
        """Return what metrics.json holds of it."""
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
    labels: np.ndarray,
    problem_type: str,
    outputs: int,
    kind: str | None = None,
    views: int = 1,
    seed: int = 0,
    indices: np.ndarray | None = None,
) -> Fitted:
    """Choose features and head by cross-validation on these examples alone, and fit the head to all of them.

    indices: which of the examples these are; None: all.   labels: of all.
    """
    began = time.perf_counter()
    chosen = np.arange(features.count) if indices is None else indices
    labels = np.asarray(labels)[chosen]
    looked_at = draw_subset(strata(labels, problem_type), LOOKED_AT, seed)
    own = features.taps.taps[0]
    with _threads_for(len(labels)):
        tap, errors = choose_features(
            features.taps.taps, lambda tap: features.of(tap, chosen[looked_at].tolist()), labels[looked_at], outputs
        )
        if errors[own] - errors[tap] < LIKE_THE_FIRST:
            tap = own
        rows = features.of(tap, chosen.tolist())
        augmented = features.of(tap, chosen.tolist(), views) if views > 1 else None
        head = fit_head(rows, labels, problem_type, outputs, kind, seed, augmented)
        alone = problem_type != SINGLE_LABEL or len(labels) < 2
        neighbours = None if alone else nearest_neighbours(rows, labels)
    return Fitted(tap, head, len(labels), time.perf_counter() - began, errors[own], errors[tap], neighbours)


@contextmanager
def _threads_for(examples: int) -> Iterator[None]:
    """Use one thread for products so small that threads would wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if examples < MANY else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def with_head(model: ViTCustomForImageClassification, fitted: Fitted) -> ViTCustomForImageClassification:
    """Return an ordinary model of ours with the fitted head on the features that were chosen."""
    other = narrowed(model, fitted.tap)
    with torch.no_grad():
        for name in ("weight", "bias"):
            parameter = getattr(other.classifier, name)
            parameter.copy_(getattr(fitted.head, name).to(parameter))
    return other
