"""Outputs of a model compared with the labels of its images.

Shapes: N examples, C classes, T regression targets.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from ..common.environment import versions
from ..common.text import listed
from ..data.examples import MULTI_LABEL, REGRESSION, Examples, Splits
from .calibration import ECE_BINS, expected_calibration_error, fit_temperature, negative_log_likelihood
from .metrics import ClassReport, MeanAveragePrecision, RegressionErrors, all_scores, check_outputs


@dataclass(frozen=True)
class Evaluation:
    """What a model did on a data set. Values that are 0/0 on these data are NaN here and null in JSON.

    logits: [N, C] or [N, T] float64.   labels: [N] | [N, C] int64 | [N, T] float64.   names: [N].
    metrics: the flat scores of `compute_metrics`.   per_label: one row for each class or target.
    confusion: [C, C] counts, rows true, columns predicted; calibration: ECE, NLL, temperature (both only for
    single-label).   skipped: name -> why that image could not be read.   notes: sentences to be read.
    """

    problem_type: str
    id2label: dict[int, str]
    logits: np.ndarray
    labels: np.ndarray
    names: list[str]
    metrics: dict[str, float]
    per_label: list[dict[str, Any]]
    confusion: np.ndarray | None = None
    calibration: dict[str, Any] | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def report(self, **context: Any) -> dict[str, Any]:
        """Everything but the logits as one JSON-able dict that starts with `context`."""
        tables: dict[str, Any] = {"per_target" if self.problem_type == REGRESSION else "per_class": self.per_label}
        if self.calibration is not None:
            tables["calibration"] = self.calibration
        if self.confusion is not None:
            tables["confusion_matrix"] = {"rows": "true", "columns": "predicted", "counts": self.confusion}
        return {
            **context,
            "problem_type": self.problem_type,
            "n": len(self.names),
            "n_skipped": len(self.skipped),
            "metrics": self.metrics,
            **tables,
            "skipped": [{"name": name, "error": error} for name, error in self.skipped.items()],
            "notes": self.notes,
            "versions": versions(),
        }


def score_examples(logits: np.ndarray, examples: Examples, splits: Splits) -> Evaluation:
    """As `score_outputs`, of logits [N, C] for examples of these splits."""
    labels = np.asarray(examples.labels)
    return score_outputs(logits, labels, list(examples.names), splits.problem_type, splits.id2label)


def score_outputs(
    logits: np.ndarray,
    labels: np.ndarray,
    names: list[str],
    problem_type: str,
    id2label: Mapping[int, str],
    skipped: Mapping[str, str] | None = None,
) -> Evaluation:
    """The `Evaluation` of outputs that are at hand. Raises ValueError as `check_outputs` does."""
    logits, labels = check_outputs(logits, labels, problem_type, len(id2label))
    metrics = all_scores(logits, labels, problem_type, id2label)
    notes = [f"{name} is undefined on these data (0/0)" for name, value in metrics.items() if np.isnan(value)]
    extra: dict[str, Any] = {}
    if problem_type == REGRESSION:
        per_label = RegressionErrors().compute(predictions=logits, references=labels)["per_target"]
    elif problem_type == MULTI_LABEL:
        per_label = ClassReport().compute(
            predictions=(logits > 0).astype(np.int64), references=labels, num_classes=len(id2label)
        )
        ranking = MeanAveragePrecision().compute(predictions=logits, references=labels)
        per_label["average_precision"] = ranking["average_precision"]
    else:
        predicted = logits.argmax(axis=1)
        classes = range(len(id2label))
        per_label = ClassReport().compute(predictions=predicted, references=labels, num_classes=len(id2label))
        extra["confusion"] = confusion_matrix(labels, predicted, labels=classes)
        extra["calibration"], note = calibrate(logits, labels)
        notes += [note]
    if problem_type != REGRESSION:
        notes += _class_notes(per_label, id2label)
    rows = [
        {"id": c, "label": id2label[c], **{column: values[c] for column, values in per_label.items()}}
        for c in range(len(id2label))
    ]
    if skipped:
        notes.append(f"{len(skipped)} image(s) could not be read and are not counted: {listed(list(skipped))}")
    return Evaluation(
        problem_type, dict(id2label), logits, labels, names, metrics, rows, skipped=dict(skipped or {}),
        notes=notes, **extra,
    )  # fmt: skip


def _class_notes(report: Mapping[str, np.ndarray], id2label: Mapping[int, str]) -> list[str]:
    """Sentences on the classes whose recall or precision is undefined."""
    notes = []
    for undefined, what in (("recall", "do not occur in these data"), ("precision", "are never predicted")):
        if names := [id2label[int(c)] for c in np.flatnonzero(np.isnan(report[undefined]))]:
            notes.append(f"{len(names)} of {len(id2label)} classes {what}, their {undefined} is undefined: ")
            notes[-1] += listed(names)
    return notes


def calibrate(logits: np.ndarray, labels: np.ndarray) -> tuple[dict[str, Any], str]:
    """({ece, nll, and both again with the best temperature}, a sentence on that temperature)."""
    temperature, problem = fit_temperature(logits, labels)
    result = {
        "bins": ECE_BINS,
        "ece": expected_calibration_error(logits, labels),
        "nll": negative_log_likelihood(logits, labels),
        "temperature": temperature,
        "ece_with_temperature": None,
        "nll_with_temperature": None,
    }
    if temperature is None:
        return result, str(problem)
    result["ece_with_temperature"] = expected_calibration_error(logits, labels, temperature)
    result["nll_with_temperature"] = negative_log_likelihood(logits, labels, temperature)
    return result, "the temperature is fitted to and measured on these same images: on others it will do less"
