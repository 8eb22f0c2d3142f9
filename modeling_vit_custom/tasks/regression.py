"""Regression: one or more numbers for each image.

Shapes: N examples, n of a batch, T targets.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..data.targets import Values
from ..reporting.charts import Chart, Series, line_chart, span
from ..reporting.formatting import number
from .entries import digits, largest
from .hub import CLASSIFICATION
from .metrics import ErrorSums, checked
from .task import Answers, Details, Mistake, Task, Words

MAX_TARGETS = 6  # with a chart each
MAX_POINTS = 1000  # in one chart
CLOSE = 1e-3  # of the largest output; closer numbers count as the same


class Metrics:
    """Mean absolute error, root mean squared error and R², averaged over the targets."""

    def __init__(self, num_labels: int):
        self.errors, self.num_labels = ErrorSums(num_labels), num_labels

    def update(self, outputs: np.ndarray, values: np.ndarray) -> None:
        self.errors.add(*checked(outputs, values, NAME, self.num_labels, False, None, self.errors.count))

    def compute(self) -> dict[str, float]:
        return {name: float(values.mean()) for name, values in self.per_label().items()}

    def per_label(self) -> dict[str, np.ndarray]:
        return self.errors.per_label()


def score(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return minus the mean squared error of outputs [N, T] for targets [N] or [N, T]; the mean is over T."""
    truth = targets.astype(np.float64).reshape(len(targets), -1)
    return -np.square(outputs.astype(np.float64) - truth).mean(axis=1)


def agree(outputs: np.ndarray, others: np.ndarray) -> np.ndarray:
    return (np.abs(outputs - others) <= CLOSE * np.abs(outputs).max()).all(axis=1)


def entries(outputs: Any, names: Mapping[int, str], most: int) -> list[list[dict[str, Any]]]:
    """Return all targets in order with their values.   outputs: tensor [B, T]."""
    return [[{"label": names[i], "value": digits(value)} for i, value in enumerate(row)] for row in outputs.tolist()]


def mistakes(
    outputs: np.ndarray, targets: np.ndarray, names: Mapping[int, str], count: int
) -> tuple[list[Mistake], int]:
    """Return the `count` (example, target) pairs of largest absolute error, and the number of all pairs."""
    errors = np.abs(outputs - targets)
    found = [
        Mistake(
            i, f"{names[t]} {targets[i, t]:.4g}", f"{outputs[i, t]:.4g}", float(errors[i, t]), number(errors[i, t]), t
        )
        for i, t in largest(errors, count)
    ]
    return found, errors.size


def details(
    outputs: np.ndarray, targets: np.ndarray, report: Mapping[str, np.ndarray], names: Mapping[int, str]
) -> Details:
    left_out = [f"{len(names) - MAX_TARGETS} further targets"] if len(names) > MAX_TARGETS else []
    left_out += [f"{len(outputs) - MAX_POINTS:,} further images"] if len(outputs) > MAX_POINTS else []
    return Details(left_out=left_out)


def charts(outputs: np.ndarray, targets: np.ndarray, names: Mapping[int, str]) -> list[Chart]:
    """Return a chart of predicted against true values for each of the first MAX_TARGETS targets.

    Of a large set, MAX_POINTS evenly spaced examples are drawn.
    """
    chosen = np.unique(np.linspace(0, len(outputs) - 1, min(len(outputs), MAX_POINTS)).astype(int))
    found = []
    for t in range(min(len(names), MAX_TARGETS)):
        true, predicted = targets[chosen, t].tolist(), outputs[chosen, t].tolist()
        both = span([*true, *predicted])
        points = [Series(names[t], true, predicted, "test", dots=True, line=False)]
        found.append(line_chart(f"{names[t]}: predicted", points, "true", x_limits=both, y_limits=both, diagonal=True))
    return [chart for chart in found if chart is not None]


def does(images: str, model: Mapping[str, Any]) -> str:
    count = len(model["labels"])
    return f"estimates {count} number{'s' if count > 1 else ''} from {images}"


WORDS = Words("target", "Targets", "Largest errors", " predictions", "off by", "Predicted and true")
NAME = Values.problem_type
REGRESSION = Task(
    name=NAME,
    listing=CLASSIFICATION,
    targets=Values,
    does=does,
    limits=lambda model: [],
    measures=lambda num_labels: {"mae": False, "rmse": False, "r2": True},
    metrics=Metrics,
    score=score,
    agree=agree,
    entries=entries,
    mistakes=mistakes,
    details=details,
    charts=charts,
    words=WORDS,
    answers=Answers(lambda outputs: [list(range(outputs.shape[-1]))] * len(outputs), signed=True),
    heads=("ridge",),
)
