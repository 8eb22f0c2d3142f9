"""Multi-label classification: any number of labels for each image.

Shapes: N examples, n of a batch, C labels.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import expit

from ..data.targets import MultiHot
from .entries import class_notes, largest, ranked
from .hub import CLASSIFICATION
from .metrics import ClassCounts, checked
from .task import Answers, Details, Mistake, Task


class Metrics:
    """Mean average precision and macro F1 at probability 0.5.

    Average precision ranks all examples, so their outputs are kept.
    """

    def __init__(self, num_labels: int):
        self.counts, self.num_labels, self.seen = ClassCounts(num_labels), num_labels, 0
        self.kept: list[tuple[np.ndarray, np.ndarray]] = []

    def update(self, outputs: np.ndarray, values: np.ndarray) -> None:
        logits, labels = checked(outputs, values, NAME, self.num_labels, False, 2, self.seen)
        self.counts.add_sets(logits, labels)
        self.kept.append((np.array(outputs), labels.astype(bool)))
        self.seen += len(labels)

    def average_precision(self) -> np.ndarray:
        """Return the average precision of each label, [C]; NaN for a label without positive examples."""
        from sklearn.metrics import average_precision_score  # takes half a second to import

        scores, labels = map(np.concatenate, zip(*self.kept, strict=True))
        found = np.full(self.num_labels, np.nan)
        for c in np.flatnonzero(labels.any(axis=0)):
            found[c] = average_precision_score(labels[:, c], scores[:, c])
        return found

    def compute(self) -> dict[str, float]:
        each = self.average_precision()
        present = ~np.isnan(each)
        return {
            "mean_average_precision": float(each[present].mean()) if present.any() else math.nan,
            "macro_f1": self.counts.macro_f1(),
        }

    def per_label(self) -> dict[str, np.ndarray]:
        return {**self.counts.per_label(), "average_precision": self.average_precision()}


def score(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return minus the binary cross-entropy of logits [N, C] under labels [N, C], 0 or 1, averaged over C."""
    answers, truth = torch.from_numpy(logits).double(), torch.from_numpy(labels).double()
    return -F.binary_cross_entropy_with_logits(answers, truth, reduction="none").mean(dim=1).numpy()


def entries(logits: Any, names: Mapping[int, str], most: int) -> list[list[dict[str, Any]]]:
    """Return the labels of highest probability (sigmoid), best first.   logits: tensor [B, C]."""
    return ranked(logits.sigmoid(), names, most)


def mistakes(logits: np.ndarray, labels: np.ndarray, names: Mapping[int, str], count: int) -> tuple[list[Mistake], int]:
    """Return the `count` worst (example, label) pairs that are wrong at probability 0.5, and the number of wrong pairs.

    They are ordered by the probability of the wrong answer, highest first.
    """
    wrong_by = np.where(labels > 0, -logits, logits)  # above 0 if wrong
    total = int((wrong_by >= 0).sum() - ((labels == 0) & (logits == 0)).sum())
    found = []
    for i, c in largest(wrong_by, min(count, total)):
        said = (names[c], f"not {names[c]}") if labels[i, c] > 0 else (f"not {names[c]}", names[c])
        probability = float(expit(wrong_by[i, c]))
        found.append(Mistake(i, *said, probability, f"{probability:.1%}", c))
    return found, total


def details(
    logits: np.ndarray, labels: np.ndarray, report: Mapping[str, np.ndarray], names: Mapping[int, str]
) -> Details:
    return Details(class_notes(report, names))


def given(logits: Any) -> list[list[int]]:
    """Return the labels of each row of [B, C] above probability 0.5, best first; the best one if none is."""
    ordered = logits.argsort(dim=-1, descending=True).tolist()
    return [row[: max(1, int((one > 0).sum()))] for row, one in zip(ordered, logits, strict=True)]


def does(images: str, model: Mapping[str, Any]) -> str:
    return f"gives each of {len(model['labels'])} labels its probability for {images}"


NAME = MultiHot.problem_type
MULTI_LABEL = Task(
    name=NAME,
    listing=CLASSIFICATION,
    targets=MultiHot,
    does=does,
    limits=lambda model: [f"It knows {len(model['labels'])} labels and nothing else."],
    measures=lambda num_labels: {"mean_average_precision": True, "macro_f1": True},
    metrics=Metrics,
    score=score,
    agree=lambda logits, others: ((logits > 0) == (others > 0)).all(axis=1),
    entries=entries,
    mistakes=mistakes,
    details=details,
    answers=Answers(given, lambda logits: logits.sigmoid()),
    heads=("logistic",),
)
