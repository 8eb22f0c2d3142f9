"""Class names: their order, what is allowed in them, and how labels become numbers.

Shapes: N examples, C classes, T regression targets.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.errors import DataError
from ..common.text import listed
from .examples import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from .raw import RawSplit


def natural_key(name: str) -> list:
    """Sorts digits in names by their value: 1, 2, 10, and cat2 before cat10."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)] + [name]


def natural_sorted(names: Iterable[str]) -> list[str]:
    return sorted(names, key=natural_key)


def canonical_name(name: str) -> str:
    """NFC without surrounding space: what a reader would take for the same name is the same name."""
    return unicodedata.normalize("NFC", name).strip()


def class_name_problems(names: Iterable[str]) -> list[str]:
    """A sentence for each name no label map should hold: empty, control characters, `<>`, the same name twice."""
    problems = []
    seen: dict[str, str] = {}
    for name in names:
        canonical = canonical_name(name)
        if not canonical:
            problems.append(f"class name {name!r} is empty: give every class a name.")
            continue
        forbidden = [c for c in name if unicodedata.category(c) in ("Cc", "Cf", "Cs") or c in "<>"]
        if forbidden:
            problems.append(
                f"class name {name!r} holds {forbidden[0]!r}: control characters and <> are not allowed in "
                "labels (they end up in web pages and model cards). Rename the class."
            )
        if seen.setdefault(canonical, name) != name:
            problems.append(
                f"class names {seen[canonical]!r} and {name!r} are the same name once Unicode forms and "
                "surrounding space are normalised. Merge or rename them."
            )
    return problems


def check_class_names(names: Iterable[str]) -> None:
    """Raises DataError with the first of `class_name_problems`."""
    if problems := class_name_problems(names):
        raise DataError(problems[0])


def label_map(raw: RawSplit) -> dict[int, str]:
    """id -> name for the classes (or targets) of the training split.

    A declared order is kept; names read off the data are put in natural order. An order that is merely
    alphabetical (what `imagefolder` declares: 1, 10, 2) counts as read off the data.
    """
    found = raw.class_names if raw.class_names is not None else distinct_names(raw)
    check_class_names(found)
    if len(set(found)) < len(found):
        doubled = next(name for name in found if found.count(name) > 1)
        raise DataError(f"class name {doubled!r} is declared twice: ids would be ambiguous. Rename one of them.")
    if raw.problem_type != REGRESSION and found == sorted(found):
        found = natural_sorted(found)
    if raw.problem_type == SINGLE_LABEL and len(found) < 2:
        raise DataError(f"the training data has {len(found)} class ({listed(found)}): a classifier needs two or more.")
    if not found:
        raise DataError("the training data names no label at all.")
    return {i: canonical_name(name) for i, name in enumerate(found)}


def distinct_names(raw: RawSplit) -> list[str]:
    """The class names that occur in a split's labels, in natural order; nothing for regression."""
    if raw.problem_type == REGRESSION:
        return []
    groups: Any = raw.labels if raw.problem_type == MULTI_LABEL else [raw.labels]
    return natural_sorted({name for group in groups for name in group})


def unshared_classes(splits: Mapping[str, RawSplit]) -> dict[str, tuple[list[str], list[str]]]:
    """For each held-out split: (classes that train lacks, classes of train that it lacks), in natural order."""
    found = {split: {canonical_name(name) for name in distinct_names(raw)} for split, raw in splits.items()}
    return {
        split: (natural_sorted(names - found["train"]), natural_sorted(found["train"] - names))
        for split, names in found.items()
        if split != "train"
    }


def compare_class_sets(splits: Mapping[str, RawSplit], id2label: Mapping[int, str]) -> list[str]:
    """Notes on classes missing from a split.

    Raises DataError when a held-out split holds a class that training does not: it could only be got wrong.
    """
    notes: list[str] = []
    trained = {canonical_name(name) for name in distinct_names(splits["train"])}
    problem_type = splits["train"].problem_type
    if problem_type == REGRESSION:
        return notes
    if unseen := [name for name in id2label.values() if name not in trained]:
        notes.append(f"no training image for the declared class(es) {listed(unseen)}: they cannot be learned.")
    for split, (extra, absent) in unshared_classes(splits).items():
        if extra:
            raise DataError(
                f"{split} holds class(es) that train does not: {listed(extra)}. Add training images for "
                f"them, or take them out of {split}. (Classes of train: {listed(natural_sorted(trained))}.)"
            )
        if absent:
            notes.append(f"{split} has no image of class(es) {listed(absent)}: nothing is measured on them.")
    return notes


def encode_labels(raw: RawSplit, id2label: Mapping[int, str]) -> np.ndarray:
    """[N] int64 class ids | [N, C] float32 multi-hot | [N] or [N, T] float32 targets.

    Raises DataError for a name that is not in the label map.
    """
    if raw.problem_type == REGRESSION:
        return np.asarray(raw.labels, dtype=np.float32)
    label2id = {name: i for i, name in id2label.items()}
    if unknown := natural_sorted({n for n in distinct_names(raw) if canonical_name(n) not in label2id}):
        raise DataError(f"class(es) {listed(unknown)} are not in the label map: {listed(list(id2label.values()))}.")
    if raw.problem_type == SINGLE_LABEL:
        return np.array([label2id[canonical_name(str(name))] for name in raw.labels], dtype=np.int64)
    multi_hot = np.zeros((len(raw), len(id2label)), dtype=np.float32)
    for row, group in enumerate(raw.labels):
        multi_hot[row, [label2id[canonical_name(name)] for name in group]] = 1.0
    return multi_hot


@dataclass(frozen=True)
class HeadPlan:
    """What becomes of a checkpoint's head: the label map to train with, whether the head is new, and why."""

    id2label: dict[int, str]
    new_head: bool
    reason: str


def plan_head(
    data: Mapping[int, str], problem_type: str, checkpoint: Mapping[int, str], checkpoint_type: str | None
) -> HeadPlan:
    """Compares the data's label map with a checkpoint's.

    The same set of names keeps the checkpoint's head *and its ids*, whatever order the data has them in; any
    other set needs a new head, because a stored row of weights means the class it was trained for.
    """
    data, checkpoint = dict(data), {int(i): canonical_name(name) for i, name in checkpoint.items()}
    kept = dict(sorted(checkpoint.items()))
    if not checkpoint:
        return HeadPlan(data, True, "the checkpoint is an encoder, without a head")
    if checkpoint_type not in (None, problem_type):
        return HeadPlan(data, True, f"the checkpoint was trained for {checkpoint_type}, the data is {problem_type}")
    if data == kept:
        return HeadPlan(kept, False, "the checkpoint's labels are the data's: its head is kept")
    if problem_type != REGRESSION and sorted(data.values()) == sorted(kept.values()):
        return HeadPlan(kept, False, "the checkpoint has the same labels in another order: its ids are kept")
    common = set(data.values()) & set(kept.values())
    reason = (
        f"the checkpoint's head knows {len(kept)} label(s) ({listed(list(kept.values()), 5)}), the data has "
        f"{len(data)} ({listed(list(data.values()), 5)}), {len(common)} in common"
    )
    return HeadPlan(data, True, reason)


def strata(labels: np.ndarray, problem_type: str) -> np.ndarray:
    """[N] int64 group of each example, for stratified drawing.

    Single-label: the class. Multi-label: the rarest label an example has (one group more for none), so that
    rare labels are spread first. Regression: up to ten bins of equal
    counts, of ten examples or more, along the (first) target.
    """
    if problem_type == SINGLE_LABEL:
        return labels.astype(np.int64)
    if problem_type == MULTI_LABEL:
        counts = labels.sum(axis=0)
        rarity = np.where(labels > 0, counts, np.inf)
        return np.where(labels.any(axis=1), rarity.argmin(axis=1), labels.shape[1]).astype(np.int64)
    first = labels.reshape(len(labels), -1)[:, 0]
    ranks = np.argsort(np.argsort(first, kind="stable"), kind="stable")
    bins = min(10, max(1, len(first) // 10))
    return ranks * bins // len(first)


def check_targets(values: Sequence, names: Sequence[str], column: str) -> np.ndarray:
    """[N] float64 of finite numbers; raises DataError naming the first rows that are none."""
    targets = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        try:
            targets[i] = float(value)
        except (TypeError, ValueError):
            continue
    if bad := [f"{names[i]} ({values[i]!r})" for i in np.flatnonzero(~np.isfinite(targets)).tolist()]:
        raise DataError(f"column {column!r} is not a finite number in {len(bad)} row(s): {listed(bad, 5)}.")
    return targets
