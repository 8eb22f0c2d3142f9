"""The two records every data source is read into and everything downstream takes.

Shapes: N examples, C classes, T regression targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"


@dataclass(frozen=True)
class Examples:
    """One split: where each image is and what it shows. Nothing is decoded here.

    images: sources `decode_image` accepts (paths, bytes, PIL images, arrays), read lazily by index.
    labels: [N] int64 class ids | [N, C] float32 multi-hot | [N] or [N, T] float32 targets | None.
    names:  [N] what errors, reports and predictions call each image: a path, or "row 17 of train.csv".
    """

    images: Sequence[Any]
    names: Sequence[str]
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    def select(self, indices: Sequence[int]) -> "Examples":
        """The examples at `indices`, in that order; images stay unread."""
        return replace(
            self,
            images=LazySelection(self.images, indices),
            names=[self.names[i] for i in indices],
            labels=None if self.labels is None else self.labels[np.asarray(indices, dtype=np.int64)],
        )


class LazySelection(Sequence):
    """`items[indices]` without touching the items: a `datasets` column decodes on access."""

    def __init__(self, items: Sequence[Any], indices: Sequence[int] | np.ndarray):
        self.items, self.indices = items, np.asarray(indices, np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index):
        return self.items[int(self.indices[index])]


@dataclass(frozen=True)
class Splits:
    """A whole dataset: its splits, one task and one label map over all of them.

    problem_type: SINGLE_LABEL, MULTI_LABEL or REGRESSION.
    id2label:     class names in natural order (1, 2, 10), or target names for regression.
    notes:        what was found that a user should know, one sentence each; printed before training.
    findings:     what an audit found, as it records it.
    """

    train: Examples
    validation: Examples | None
    test: Examples | None
    problem_type: str
    id2label: dict[int, str]
    notes: list[str] = field(default_factory=list)
    findings: list[Any] = field(default_factory=list)
