"""Two models compared on the same images, example by example.

Shapes: N examples, K outputs.
"""

from dataclasses import dataclass

import numpy as np

from ...tasks.registry import task_named


@dataclass(frozen=True)
class Gain:
    """mean: by how much one model's scores are higher than another's.   error: its standard error, on n examples."""

    mean: float
    error: float
    n: int
    problem_type: str

    def __str__(self) -> str:
        unit, factor = ("points", 100) if task_named(self.problem_type).in_points else ("in the score", 1)
        return f"{factor * self.mean:+.2f} ± {factor * 1.96 * self.error:.2f} {unit} on {self.n:,} held-out images"


def scores(logits: np.ndarray, labels: np.ndarray, problem_type: str) -> np.ndarray:
    """Return [N], the more the better: how right each answer is."""
    return task_named(problem_type).score(logits, labels)


def gain_of(logits: np.ndarray, other: np.ndarray, labels: np.ndarray, problem_type: str) -> Gain:
    """Return what logits [N, K] gain on others [N, K] for the same examples."""
    gains = scores(logits, labels, problem_type) - scores(other, labels, problem_type)
    return Gain(float(gains.mean()), _standard_error(gains), len(gains), problem_type)


def told(logits: np.ndarray, labels: np.ndarray, problem_type: str) -> str:
    """Return the mean score of logits [N, K] with its 95 % interval."""
    values = scores(logits, labels, problem_type)
    return f"{task_named(problem_type).score_name} {values.mean():.4f} ± {1.96 * _standard_error(values):.4f}"


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("inf")
