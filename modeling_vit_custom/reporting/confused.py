"""Confusions of classes: the pairs that occur, and the matrix of their counts.

Shapes: C classes, P pairs that occur, each [count, true class, predicted class].
"""

import numpy as np

MATRIX_CLASSES = 1000  # with more, pairs are listed and no matrix is made


def confused_pairs(pairs: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """Return the `count` most frequent mistakes among pairs [P, 3]."""
    wrong = pairs[pairs[:, 1] != pairs[:, 2]]
    order = np.argsort(-wrong[:, 0], kind="stable")[:count]
    return [(int(times), int(true), int(predicted)) for times, true, predicted in wrong[order]]


def matrix_of(pairs: np.ndarray, classes: int) -> np.ndarray:
    """Return the confusion matrix of pairs [P, 3]: counts [C, C], rows true, columns predicted."""
    counts = np.zeros((classes, classes), np.int64)
    counts[pairs[:, 1], pairs[:, 2]] = pairs[:, 0]
    return counts


def pairs_of(matrix: np.ndarray) -> np.ndarray:
    """Return the pairs [P, 3] of a confusion matrix [C, C] with counts above 0, row by row."""
    rows, columns = np.nonzero(matrix)
    return np.stack([matrix[rows, columns], rows, columns], axis=1)
