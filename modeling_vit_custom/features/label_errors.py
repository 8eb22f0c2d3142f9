"""Labels that are probably wrong, and an estimate of how many.

Heads that did not see an example give its probabilities. The lower the probability of its label, the higher it ranks.

Confident learning (Northcutt, Jiang, Chuang 2021, arXiv 1911.00068) counts an example as one of class k if its
probability of k reaches the mean over the examples labelled k. Counts of another class than the label's say how many
labels are wrong, but hard images are among them. The estimate therefore compares with labels known to be wrong:
some are swapped at random, and heads learn from all. If a share r of the swapped ones has a probability below t, and n
of the others, then at most n/r of these are wrong, as far as their errors are like the swapped ones. The lowest bound
over all t, with its statistical error, is the estimate (best bin estimation; Garg et al. 2021, arXiv 2111.00980).

Shapes: N examples, K classes, M swapped labels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..tasks.single_label import best_of

TIES = 1e-6  # a probability this far below a threshold still reaches it, and one this far above the label's is equal
SWAPPED = 0.1  # of the labels
ENOUGH, MOST_REPEATS = 1000, 10  # swapped labels, over so many repeats at most
LEVEL, SLACK = 0.1, 0.1  # of best bin estimation: error probability, weight of the statistical error


@dataclass(frozen=True)
class LabelErrors:
    """Examples whose labels are probably wrong.

    suspects: [S] int64, the indices of those whose label is not the most probable class, worst first.
    confident: [N] bool: those of them that confident learning counts as another class.
    own: [N] probability of the label.   likely: [N] int64, the most probable other class.   likely_probability: [N].
    joint: [K, K] float64, confident learning's estimate of the number of examples of each label (row) and true class
    (column).
    """

    suspects: np.ndarray
    confident: np.ndarray
    own: np.ndarray
    likely: np.ndarray
    likely_probability: np.ndarray
    joint: np.ndarray

    @property
    def counted(self) -> float:
        """Confident learning's estimate of the number of wrong labels; it includes hard images."""
        return float(self.joint.sum() - self.joint.trace())


def find_label_errors(labels: np.ndarray, probabilities: np.ndarray) -> LabelErrors:
    """Return the labels that are probably wrong.   labels: [N] class ids.   probabilities: [N, K], held out."""
    rows = np.arange(len(labels))
    own, others = probabilities[rows, labels], probabilities.copy()
    others[rows, labels] = -1.0
    counted = counted_classes(labels, probabilities)
    unlike = own + TIES < probabilities.max(axis=1)
    places = np.flatnonzero(unlike)
    return LabelErrors(
        places[np.argsort(own[places], kind="stable")],
        unlike & (counted >= 0) & (counted != labels),
        own,
        best_of(others),
        others.max(axis=1),
        confident_joint(labels, counted, probabilities.shape[1]),
    )


def thresholds(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return [K]: the mean probability of each class over the examples with its label; infinity without examples."""
    classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    own = np.bincount(labels, probabilities[np.arange(len(labels)), labels], classes)
    return np.where(counts > 0, own / np.maximum(counts, 1), np.inf)


def counted_classes(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return [N]: the most probable of the classes whose threshold an example reaches; -1 if it reaches none."""
    reached = probabilities >= thresholds(labels, probabilities) - TIES
    best = best_of(np.where(reached, probabilities, -1.0))
    return np.where(reached.any(axis=1), best, -1)


def confident_joint(labels: np.ndarray, counted: np.ndarray, classes: int) -> np.ndarray:
    """Return [K, K]: the counts of (label, counted class), each row scaled to the number of examples with its label."""
    counts = np.zeros((classes, classes))
    np.add.at(counts, (labels[counted >= 0], counted[counted >= 0]), 1)
    np.fill_diagonal(counts, counts.diagonal().clip(min=1))  # as if one example of each class were right
    return counts / counts.sum(axis=1, keepdims=True) * np.bincount(labels, minlength=classes)[:, None]


def swapped_labels(labels: np.ndarray, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ([N] labels of which a share `SWAPPED` is replaced by another class at random, [N] bool: which)."""
    rng = np.random.default_rng([seed, len(labels)])
    chosen = rng.permutation(len(labels))[: max(1, round(SWAPPED * len(labels)))]
    swapped = labels.copy()
    swapped[chosen] = (labels[chosen] + rng.integers(1, classes, len(chosen))) % classes
    return swapped, swapped != labels


@dataclass(frozen=True)
class Estimate:
    """How many labels are wrong, if wrong labels are like labels swapped at random.

    wrong: the estimated number.   known: [M] probabilities of the swapped labels, ascending.
    """

    wrong: float
    known: np.ndarray

    def among(self, limit: float) -> float:
        """Return how many of the labels with a probability of at most `limit` are expected to be wrong."""
        return self.wrong * float(np.searchsorted(self.known, limit, side="right")) / len(self.known)


def estimate_errors(
    labels: np.ndarray, classes: int, probabilities_for: Callable[[np.ndarray, int], np.ndarray], seed: int = 0
) -> Estimate:
    """Return the estimated number of wrong labels.

    probabilities_for: (labels [N], a seed) → held-out probabilities [N, K].
    """
    repeats = min(MOST_REPEATS, math.ceil(ENOUGH / max(1, SWAPPED * len(labels))))
    known, others = [], []
    for repeat in range(repeats):
        changed, swapped = swapped_labels(labels, classes, seed + repeat)
        own = probabilities_for(changed, seed + repeat)[np.arange(len(labels)), changed]
        known.append(own[swapped])
        others.append(own[~swapped])
    scores = np.sort(np.concatenate(known))
    return Estimate(wrong_share(scores, np.concatenate(others)) * len(labels), scores)


def wrong_share(known: np.ndarray, others: np.ndarray) -> float:
    """Return the share of `others` that is distributed as `known`, by best bin estimation.

    known: [M] probabilities of labels that are known to be wrong.   others: probabilities of labels as they are.
    """
    limits, everything = np.sort(known), np.sort(others)
    below = np.arange(1, len(limits) + 1) / len(limits)
    among = np.searchsorted(everything, limits, side="right") / len(everything)
    error = sum(np.sqrt(np.log(4 / LEVEL) / 2 / len(part)) for part in (known, others))
    best = int(np.argmin((among + SLACK * error) / below))
    return float(min(1.0, among[best] / below[best]))
