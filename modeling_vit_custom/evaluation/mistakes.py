"""Where a model is wrong: its most confident mistakes, and the classes that it confuses most.

Shapes: N examples, C classes, T regression targets.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, softmax

from ..data.examples import MULTI_LABEL, REGRESSION


@dataclass(frozen=True)
class Mistake:
    """index: of the example.   true, predicted: as text.   score: how wrong, see `worst_mistakes`."""

    index: int
    true: str
    predicted: str
    score: float


def worst_mistakes(
    logits: np.ndarray, labels: np.ndarray, problem_type: str, id2label: Mapping[int, str], count: int
) -> tuple[list[Mistake], int]:
    """(the `count` worst, worst first; how many there are).

    single label: the examples whose predicted class is wrong; the score is that class's probability.
    multi-label:  the (example, class) pairs that are wrong at probability 0.5; the score is the probability of the
                  wrong answer.
    regression:   all (example, target) pairs; the score is the absolute error.
    logits: [N, C] or [N, T].   labels: [N] | [N, C] | [N, T].
    """
    if problem_type == REGRESSION:
        errors = np.abs(logits - labels)
        pairs = _largest(errors, count)
        mistakes = [
            Mistake(i, f"{id2label[t]} {labels[i, t]:.4g}", f"{logits[i, t]:.4g}", float(errors[i, t]))
            for i, t in pairs
        ]
        return mistakes, errors.size
    if problem_type == MULTI_LABEL:
        wrong_by = np.where(labels > 0, -logits, logits)  # above 0: wrong
        total = int((wrong_by >= 0).sum() - ((labels == 0) & (logits == 0)).sum())
        pairs = _largest(wrong_by, min(count, total))
        return [_multi_label(i, id2label[c], labels[i, c] > 0, float(expit(wrong_by[i, c]))) for i, c in pairs], total
    predicted = logits.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    scores = softmax(logits[wrong], axis=1).max(axis=1, initial=0)
    worst = [
        Mistake(int(i), id2label[int(labels[i])], id2label[int(predicted[i])], float(score))
        for i, score in ((wrong[k], scores[k]) for k in np.argsort(-scores, kind="stable")[:count])
    ]
    return worst, len(wrong)


def _multi_label(index: int, label: str, present: bool, score: float) -> Mistake:
    return Mistake(index, label, f"not {label}", score) if present else Mistake(index, f"not {label}", label, score)


def _largest(values: np.ndarray, count: int) -> list[tuple[int, int]]:
    """The places of the `count` largest of [N, K], largest first."""
    flat = values.ravel()
    count = min(count, flat.size)
    found = np.argpartition(-flat, count - 1)[:count] if count else np.empty(0, np.int64)
    found = found[np.argsort(-flat[found], kind="stable")]
    return [(int(row), int(column)) for row, column in zip(*np.unravel_index(found, values.shape), strict=True)]
