"""Metrics that take one batch after another: they keep counts and sums, and compute the figures at the end.

Shapes: n examples of a batch, C classes, K outputs, T regression targets.
"""

import math

import numpy as np


def checked(
    outputs, values, name: str, num_labels: int, one_each: bool, whole_up_to: int | None, seen: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return outputs float64 [n, K], and values [n] or [n, K]: int64, or float64 if `whole_up_to` is None.

    name: of the task.   one_each: whether an example has one value instead of one for each output.   whole_up_to:
    values must be whole numbers below it.   seen: number of examples in earlier batches, added to reported row numbers.
    Raises ValueError on empty, mis-shaped, non-finite or out-of-range input, naming the first offending row.
    """
    outputs, values = np.asarray(outputs, np.float64), np.asarray(values)
    if outputs.ndim != 2 or outputs.shape[1] != num_labels:
        raise ValueError(f"logits have shape {outputs.shape}; expected [N, {num_labels}], one column a label.")
    if len(outputs) == 0:
        raise ValueError("there are no examples to evaluate; check the data directory or split.")
    if whole_up_to is None and values.ndim == 1:
        values = values[:, None]
    wanted = outputs.shape[:1] if one_each else outputs.shape
    if values.shape != wanted:
        raise ValueError(f"labels have shape {values.shape}; {name} with these logits needs {wanted}.")
    for what, rows in (("logits", outputs), ("labels", values)):
        bad = ~np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
        if bad.any():
            raise ValueError(
                f"{what}: {bad.sum()} of {len(bad)} rows hold NaN or infinity, the first is row "
                f"{seen + bad.argmax()}; "
                f"{'look for diverged weights' if what == 'logits' else 'correct these labels'}."
            )
    if whole_up_to is None:
        return outputs, values.astype(np.float64)
    bad = ((values < 0) | (values >= whole_up_to) | (values != np.round(values))).reshape(len(values), -1).any(axis=1)
    if bad.any():
        row = bad.argmax()
        raise ValueError(
            f"labels: row {seen + row} is {values[row]}; {name} takes whole numbers 0 to {whole_up_to - 1}."
        )
    return outputs, values.astype(np.int64)


def quotient(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return numerator / denominator, NaN where the denominator is 0."""
    there = denominator != 0
    return np.where(there, numerator / np.where(there, denominator, 1), np.nan)


class ClassCounts:
    """Number of examples of each class that are true, that are predicted, and that are both: [C] int64 each."""

    def __init__(self, num_labels: int):
        self.true, self.predicted, self.right = (np.zeros(num_labels, np.int64) for _ in range(3))

    def add_ids(self, predicted: np.ndarray, true: np.ndarray) -> None:
        """Count predicted and true class ids, [n] int64 each."""
        count = len(self.true)
        self.true += np.bincount(true, minlength=count)
        self.predicted += np.bincount(predicted, minlength=count)
        self.right += np.bincount(true[predicted == true], minlength=count)

    def add_sets(self, predicted: np.ndarray, true: np.ndarray) -> None:
        """Count predicted and true labels, [n, C] each; a label is set where the number is above 0."""
        self.true += (true > 0).sum(axis=0)
        self.predicted += (predicted > 0).sum(axis=0)
        self.right += ((predicted > 0) & (true > 0)).sum(axis=0)

    def per_label(self) -> dict[str, np.ndarray]:
        """Return precision, recall, F1 and support, [C] each; NaN where 0/0."""
        return {
            "precision": quotient(self.right, self.predicted),
            "recall": quotient(self.right, self.true),
            "f1": quotient(2 * self.right, self.true + self.predicted),
            "support": self.true,
        }

    def macro_f1(self) -> float:
        """Return the mean F1 over classes that occur among references or predictions."""
        there = (self.true + self.predicted) > 0
        return float(self.per_label()["f1"][there].mean()) if there.any() else math.nan


class ErrorSums:
    """Sums over the errors of T targets, and moments of their true values (merged as by Chan et al. 1979)."""

    def __init__(self, targets: int):
        self.count = 0
        self.absolute, self.squared, self.mean, self.spread = (np.zeros(targets) for _ in range(4))
        self.lowest, self.highest = np.full(targets, np.inf), np.full(targets, -np.inf)

    def add(self, predicted: np.ndarray, true: np.ndarray) -> None:
        """Add predicted and true numbers, [n, T] each."""
        errors, n = predicted - true, len(true)
        self.absolute += np.abs(errors).sum(axis=0)
        self.squared += np.square(errors).sum(axis=0)
        mean = true.mean(axis=0)
        between = np.square(mean - self.mean) * (self.count * n / (self.count + n))
        self.spread += np.square(true - mean).sum(axis=0) + between
        self.mean += (mean - self.mean) * (n / (self.count + n))
        self.count += n
        self.lowest, self.highest = (
            np.minimum(self.lowest, true.min(axis=0)),
            np.maximum(self.highest, true.max(axis=0)),
        )

    def per_label(self) -> dict[str, np.ndarray]:
        """Return MAE, RMSE and R² (NaN for a constant target), [T] each."""
        return {
            "mae": self.absolute / self.count,
            "rmse": np.sqrt(self.squared / self.count),
            "r2": 1 - quotient(self.squared, np.where(self.highest > self.lowest, self.spread, 0)),
        }
