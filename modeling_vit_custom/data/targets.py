"""The training targets of a split's examples: a class, several labels, numbers, or nothing.

A `Targets` holds the targets of N examples as numbers. Its class converts labels, as a source holds them, to numbers:
no other code has to ask for their kind.

Shapes: N examples, C classes, T regression targets.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch

from ..common.errors import DataError
from ..weight_files_vit_custom import shorten_list
from .names import canonical_name, in_order, natural_sorted


class Targets(ABC):
    """Base of all kinds.

    problem_type: the task as transformers names it; "" if it has no name for it.
    named: whether labels are names, each of which has an id.   single: whether an example has exactly one label.
    values: [N, …], as a model's loss takes them.
    """

    problem_type: ClassVar[str] = ""
    named: ClassVar[bool] = False
    single: ClassVar[bool] = False
    values: np.ndarray

    def __init__(self, values: Any):
        self.values = np.asarray(values)

    def __len__(self) -> int:
        return len(self.values)

    def select(self, indices: Sequence[int] | np.ndarray) -> Self:
        """Return the targets at `indices`, in that order."""
        return type(self)(self.values[np.asarray(indices, np.int64)])

    def batch(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return the entries of a batch that hold the targets of these examples."""
        return {"labels": torch.from_numpy(self.values[np.asarray(indices, np.int64)])}

    def fingerprint(self) -> bytes:
        """Return bytes that differ for different targets."""
        return self.values.tobytes()

    @abstractmethod
    def strata(self) -> np.ndarray:
        """Return [N] int64: the stratum of each example; drawing takes equal shares of all strata."""

    @abstractmethod
    def renumbered(self, ids: np.ndarray) -> Self:
        """Return the same labels with other ids. ids: [C], the new id of each class."""

    # ---------- labels as a source holds them

    @classmethod
    def names_of(cls, label: Any) -> Sequence[str]:
        """Return the class names in an example's label; () if labels are not names."""
        return ()

    @classmethod
    def comparable(cls, label: Any) -> Hashable:
        """Return a hashable value that is equal for equal labels."""
        return tuple(np.atleast_1d(label).tolist())

    @classmethod
    @abstractmethod
    def encode(cls, labels: Any, id2label: Mapping[int, str]) -> Self:
        """Return [N] labels as numbers. Raises DataError for a name that is not in the label map."""

    @classmethod
    def check_names(cls, names: Sequence[str]) -> None:
        """Raise DataError unless a model can learn to distinguish these names."""
        if not names:
            raise DataError("the training data names no label at all.")

    @classmethod  # noqa: B027 - most kinds take any
    def check_count(cls, count: int | None, id2label: Mapping[int, str], place: str) -> None:
        """Raise DataError if a source of `count` columns does not fit a model with these labels."""

    @classmethod
    def check_together(cls, splits: Mapping[str, "Targets"], id2label: Mapping[int, str]) -> list[str]:
        """Return notes for the user. Raises DataError for splits that do not go together."""
        return []

    @classmethod
    def _ids(cls, labels: Any, id2label: Mapping[int, str]) -> dict[str, int]:
        label2id = {name: i for i, name in id2label.items()}
        found = {name for label in labels for name in cls.names_of(label)}
        if unknown := natural_sorted({name for name in found if canonical_name(name) not in label2id}):
            raise DataError(
                f"class(es) {shorten_list(unknown)} are not in the label map: {shorten_list(list(id2label.values()))}."
            )
        return {name: label2id[canonical_name(name)] for name in found}


class ClassIds(Targets):
    """One class per example. values: [N] int64.   Labels as read: [N] names."""

    problem_type = "single_label_classification"
    named = single = True

    def strata(self) -> np.ndarray:
        """Return the class of each example."""
        return self.values.astype(np.int64)

    def renumbered(self, ids: np.ndarray) -> Self:
        return type(self)(ids[self.values])

    @classmethod
    def names_of(cls, label: Any) -> Sequence[str]:
        return (label,)

    @classmethod
    def comparable(cls, label: Any) -> Hashable:
        return canonical_name(label)

    @classmethod
    def encode(cls, labels: Any, id2label: Mapping[int, str]) -> Self:
        ids = cls._ids(labels, id2label)
        return cls(np.array([ids[name] for name in labels], dtype=np.int64))

    @classmethod
    def check_names(cls, names: Sequence[str]) -> None:
        if len(names) < 2:
            raise DataError(
                f"the training data has {len(names)} class ({shorten_list(names)}): a classifier needs two or more."
            )


class MultiHot(Targets):
    """Any number of labels per example. values: [N, C] float32, 0 or 1.   Labels as read: [N] lists of names."""

    problem_type = "multi_label_classification"
    named = True

    def strata(self) -> np.ndarray:
        """Return the rarest label of each example, so that rare labels are spread first; C if it has no label."""
        counts = self.values.sum(axis=0)
        rarity = np.where(self.values > 0, counts, np.inf)
        return np.where(self.values.any(axis=1), rarity.argmin(axis=1), self.values.shape[1]).astype(np.int64)

    def renumbered(self, ids: np.ndarray) -> Self:
        return type(self)(self.values[:, np.argsort(ids)])

    @classmethod
    def names_of(cls, label: Any) -> Sequence[str]:
        return label

    @classmethod
    def comparable(cls, label: Any) -> Hashable:
        return frozenset(map(canonical_name, label))

    @classmethod
    def encode(cls, labels: Any, id2label: Mapping[int, str]) -> Self:
        ids = cls._ids(labels, id2label)
        values = np.zeros((len(labels), len(id2label)), dtype=np.float32)
        for row, names in enumerate(labels):
            values[row, [ids[name] for name in names]] = 1.0
        return cls(values)


class Values(Targets):
    """One or more numbers per example. values: [N] or [N, T] float32.   Labels as read: the same in float64."""

    problem_type = "regression"

    def strata(self) -> np.ndarray:
        """Return up to ten bins of equal counts, of ten examples or more, along the (first) target."""
        first = self.values.reshape(len(self), -1)[:, 0]
        ranks = np.argsort(np.argsort(first, kind="stable"), kind="stable")
        bins = min(10, max(1, len(first) // 10))
        return ranks * bins // len(first)

    def renumbered(self, ids: np.ndarray) -> Self:
        return self if self.values.ndim == 1 else type(self)(self.values[:, np.argsort(ids)])

    @classmethod
    def encode(cls, labels: Any, id2label: Mapping[int, str]) -> Self:
        return cls(np.asarray(labels, dtype=np.float32))

    @classmethod
    def check_count(cls, count: int | None, id2label: Mapping[int, str], place: str) -> None:
        if count is not None and count != len(id2label):
            raise DataError(f"{place} has {count} target(s), the checkpoint {len(id2label)}.")

    @classmethod
    def check_together(cls, splits: Mapping[str, Targets], id2label: Mapping[int, str]) -> list[str]:
        """Return notes for the user, here on a scale of the targets that makes learning hard.

        Raises DataError for splits with another number of targets than train, and for targets that never vary in train.
        """
        rows = {split: targets.values.reshape(len(targets), -1) for split, targets in splits.items()}
        for split, values in rows.items():
            if values.shape[1] != len(id2label):
                raise DataError(f"{split} has {values.shape[1]} target(s), train has {len(id2label)}.")
        mean, std = rows["train"].mean(axis=0), rows["train"].std(axis=0)
        if np.any(std == 0):
            constant = [name for name, spread in zip(in_order(id2label), std, strict=True) if spread == 0]
            raise DataError(f"target(s) {shorten_list(constant)} never vary in train.")
        if np.any(np.abs(mean) > 5) or np.any(std > 5) or np.any(std < 0.05):
            return [
                f"targets have mean {shorten_list(mean.round(3).tolist())} and standard deviation "
                f"{shorten_list(std.round(3).tolist())}: training goes better when they are scaled to about 0 and 1"
            ]
        return []


class NoTargets(Targets):
    """Images without labels. values: [N, 0] float32.   Labels as read: the same."""

    def __init__(self, values: Any = 0):
        """values: [N, 0], or N."""
        super().__init__(np.zeros((values, 0), np.float32) if isinstance(values, int) else values)

    def batch(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        return {}

    def fingerprint(self) -> bytes:
        return b""

    def strata(self) -> np.ndarray:
        """Return one stratum for all examples."""
        return np.zeros(len(self), np.int64)

    def renumbered(self, ids: np.ndarray) -> Self:
        return self

    @classmethod
    def encode(cls, labels: Any, id2label: Mapping[int, str]) -> Self:
        return cls(len(labels))

    @classmethod
    def check_names(cls, names: Sequence[str]) -> None:
        """Accept any names: there is nothing to distinguish."""


LABELLED: dict[str, type[Targets]] = {kind.problem_type: kind for kind in (ClassIds, MultiHot, Values)}
