"""Outputs of a model compared with the labels of its images.

Shapes: N examples, K outputs, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..common.environment import versions
from ..data.examples import Examples, Splits
from ..reporting.confused import MATRIX_CLASSES, confused_pairs, matrix_of
from ..tasks.measuring import measured
from ..tasks.registry import task_named
from ..tasks.task import Details, Task
from ..weight_files_vit_custom import shorten_list
from .unknown import Typicality

MAX_PAIRS = 1000  # confused pairs in the report if there is no matrix


@dataclass(frozen=True)
class Evaluation:
    """The result of a model on a data set. Values that are 0/0 on these data are NaN here and null in JSON.

    outputs: [N, K] float64.   values: [N] or [N, K], of the examples' targets.   names: [N].
    metrics: those of the task, flat.   per_label: one row for each class, label or target.
    skipped: name -> why that image could not be read.   notes: sentences for the reader.
    typicality: of the images, for a task with one class an image; None if it was not measured.
    """

    task: Task
    id2label: dict[int, str]
    outputs: np.ndarray
    values: np.ndarray
    names: list[str]
    metrics: dict[str, float]
    per_label: list[dict[str, Any]]
    details: Details
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    typicality: Typicality | None = None

    @property
    def confusion(self) -> np.ndarray | None:
        """[C, C] counts, rows true, columns predicted; None without one class an image, or beyond MATRIX_CLASSES."""
        if self.details.confused is None or len(self.id2label) > MATRIX_CLASSES:
            return None
        return matrix_of(self.details.confused, len(self.id2label))

    def report(self, **context: Any) -> dict[str, Any]:
        """Return metrics, tables, skipped images, notes and versions as a JSON-able dict that starts with `context`."""
        tables: dict[str, Any] = {f"per_{self.task.words.label}": self.per_label}
        if self.details.calibration is not None:
            tables["calibration"] = self.details.calibration
        if (counts := self.confusion) is not None:
            tables["confusion_matrix"] = {"rows": "true", "columns": "predicted", "counts": counts}
        elif self.details.confused is not None:
            pairs = confused_pairs(self.details.confused, MAX_PAIRS)
            tables["most_confused"] = {"columns": ["times", "true", "predicted"], "rows": pairs}
        return {
            **context,
            "problem_type": self.task.name,
            "n": len(self.names),
            "n_skipped": len(self.skipped),
            "metrics": self.metrics,
            **tables,
            "skipped": [{"name": name, "error": error} for name, error in self.skipped.items()],
            "notes": self.notes,
            "versions": versions(),
        }


def score_examples(outputs: np.ndarray, examples: Examples, splits: Splits) -> Evaluation:
    """Score outputs [N, K] for examples of these splits, as `score_outputs` does."""
    task = task_named(splits.problem_type)
    return score_outputs(outputs, examples.targets.values, list(examples.names), task, splits.id2label)


def score_outputs(
    outputs: np.ndarray,
    values: np.ndarray,
    names: list[str],
    task: Task,
    id2label: Mapping[int, str],
    skipped: Mapping[str, str] | None = None,
) -> Evaluation:
    """Return the `Evaluation` of given outputs [N, K]. Raises ValueError as `tasks.metrics.checked` does."""
    outputs, values = np.asarray(outputs, np.float64), np.asarray(values)
    found = measured(task, len(id2label), outputs, values)
    values = values.reshape(outputs.shape) if values.ndim == 1 and not task.targets.single else values
    metrics, report = found.compute(), found.per_label()
    details = task.details(outputs, values, report, id2label)
    notes = [f"{name} is undefined on these data (0/0)" for name, value in metrics.items() if np.isnan(value)]
    notes += details.notes
    rows = [
        {"id": c, "label": label, **{column: numbers[c] for column, numbers in report.items()}}
        for c, label in sorted(id2label.items())
    ]
    if skipped:
        notes.append(f"{len(skipped)} image(s) could not be read and are not counted: {shorten_list(list(skipped))}")
    return Evaluation(task, dict(id2label), outputs, values, names, metrics, rows, details, dict(skipped or {}), notes)
