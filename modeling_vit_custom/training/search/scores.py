"""Two models compared on the same images, example by example.

Shapes: N examples, K outputs.
"""

from dataclasses import dataclass

import numpy as np

from ...tasks.task import Task


@dataclass(frozen=True)
class Gain:
    """The gain of one model over another.

    mean: of the differences of their scores.   error: standard error of the mean, on n examples.
    """

    mean: float
    error: float
    n: int
    task: Task

    def __str__(self) -> str:
        unit, factor = ("points", 100) if self.task.in_points else ("in the score", 1)
        return f"{factor * self.mean:+.2f} ± {factor * 1.96 * self.error:.2f} {unit} on {self.n:,} held-out images"


def gain_of(outputs: np.ndarray, others: np.ndarray, values: np.ndarray, task: Task) -> Gain:
    """Return the gain of `outputs` [N, K] over `others` [N, K] for the same examples."""
    gains = task.score(outputs, values) - task.score(others, values)
    return Gain(float(gains.mean()), _standard_error(gains), len(gains), task)


def format_score(outputs: np.ndarray, values: np.ndarray, task: Task) -> str:
    """Return the mean score of outputs [N, K] with its 95 % interval, as text."""
    scores = task.score(outputs, values)
    return f"{task.score_name} {scores.mean():.4f} ± {1.96 * _standard_error(scores):.4f}"


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("inf")
