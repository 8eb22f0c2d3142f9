"""The two records that every data source is read into and that everything downstream takes.

Shapes: N examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .targets import NoTargets, Targets


@dataclass(frozen=True)
class Examples:
    """One split: where each image is and what it shows. Nothing is decoded here.

    images: sources that `decode_image` accepts (paths, bytes, PIL images, arrays), read lazily by index.
    names: [N] names of the images in errors, reports and predictions: a path, or "row 17 of train.csv".
    targets: of the N examples; by default `NoTargets`.
    """

    images: Sequence[Any]
    names: Sequence[str]
    targets: Targets = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.targets is None:
            object.__setattr__(self, "targets", NoTargets(len(self.names)))

    def __len__(self) -> int:
        return len(self.names)

    def select(self, indices: Sequence[int]) -> "Examples":
        """Return the examples at `indices`, in that order; images stay unread."""
        return replace(
            self,
            images=LazySelection(self.images, indices),
            names=[self.names[i] for i in indices],
            targets=self.targets.select(indices),
        )


class LazySelection(Sequence):
    """`items[indices]` without touching the items: a `datasets` column decodes on access."""

    def __init__(self, items: Sequence[Any], indices: Sequence[int] | np.ndarray):
        self.items, self.indices = items, np.asarray(indices, np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index):
        return self.items[int(self.indices[index])]


class Joined(Sequence):
    """Several sequences as one; no item is touched before it is asked for."""

    def __init__(self, parts: Sequence[Sequence[Any]]):
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index):
        part = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[part][index - int(self.ends[part]) + len(self.parts[part])]


@dataclass(frozen=True)
class Splits:
    """A whole dataset: its splits, with one kind of targets and one label map for all of them.

    id2label: class names in natural order (1, 2, 10), or target names for regression; none without labels.
    notes:    sentences that a user should know about the data; printed before training.
    findings: what an audit found, as it records it.
    """

    train: Examples
    validation: Examples | None
    test: Examples | None
    id2label: dict[int, str]
    notes: list[str] = field(default_factory=list)
    findings: list[Any] = field(default_factory=list)

    @property
    def problem_type(self) -> str:
        """The task as transformers names it; "" without labels."""
        return self.train.targets.problem_type
