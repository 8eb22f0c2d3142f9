"""Metrics as `evaluate.Metric` classes over scikit-learn; nothing is downloaded and nothing is written.

`evaluate` keeps what it is given in arrow files under the user's cache. Ours stay in memory: no file, no
lock, no clash between two processes.

Shapes: N examples, C classes, T regression targets, k ranks.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import evaluate
import numpy as np
from datasets import Features, Sequence, Value
from scipy.special import expit, softmax
from sklearn import metrics as sk

from ..data.examples import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from ..tasks.single_label import TOP_K
from .calibration import ECE_BINS, bin_calibration_error

CLASS_IDS = Features({"predictions": Value("int64"), "references": Value("int64")})
MULTI_HOT = Features({"predictions": Sequence(Value("int64")), "references": Sequence(Value("int64"))})


class InMemoryMetric(evaluate.Metric):
    """An `evaluate.Metric` that leaves nothing on disk (unless `keep_in_memory=False` asks for the files)."""

    description: str
    input_features: Features | tuple[Features, ...]

    def __init__(self, *args: Any, keep_in_memory: bool = True, **kwargs: Any):
        super().__init__(*args, keep_in_memory=keep_in_memory, **kwargs)

    def _build_data_dir(self) -> str:
        return self._data_dir_root if self.keep_in_memory else super()._build_data_dir()

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.description,
            citation="",
            inputs_description=self.__doc__ or "",
            features=self.input_features if isinstance(self.input_features, Features) else list(self.input_features),
        )

    def _compute(self, predictions, references, **options) -> dict[str, Any]:
        with warnings.catch_warnings():
            # scikit-learn doubts integer labels of which most occur once; with few images they do.
            warnings.filterwarnings("ignore", message="The number of unique classes is greater than 50%")
            return self.score(np.asarray(predictions), np.asarray(references), **options)

    def score(self, predictions, references, *args: Any, **options: Any) -> dict[str, Any]:
        """The metric's values by name; arrays as the class docstring says."""
        raise NotImplementedError


class Accuracy(InMemoryMetric):
    """predictions, references: [N] class ids."""

    description = "The share of examples whose predicted class is the true one."
    input_features = CLASS_IDS

    def score(self, predictions, references):
        return {"accuracy": float(sk.accuracy_score(references, predictions))}


class TopKAccuracy(InMemoryMetric):
    """predictions: [N, k] class ids, best first; references: [N] class ids."""

    description = "The share of examples whose true class is among the k best predicted ones."
    input_features = Features({"predictions": Sequence(Value("int64")), "references": Value("int64")})

    def score(self, predictions, references):
        hits = (predictions == references[:, None]).any(axis=1)
        return {f"top{predictions.shape[1]}_accuracy": float(hits.mean())}


class MacroF1(InMemoryMetric):
    """predictions, references: [N] class ids, or [N, C] multi-hot."""

    description = "The mean F1 over classes that occur among references or predictions."
    input_features = (CLASS_IDS, MULTI_HOT)

    def score(self, predictions, references):
        return {"macro_f1": float(sk.f1_score(references, predictions, average="macro", zero_division=np.nan))}


class ClassReport(InMemoryMetric):
    """predictions, references: [N] class ids with `num_classes`, or [N, C] multi-hot."""

    description = "Precision, recall, F1 and support of each class; NaN where 0/0."
    input_features = (CLASS_IDS, MULTI_HOT)

    def score(self, predictions, references, num_classes: int):
        values = sk.precision_recall_fscore_support(
            references, predictions, labels=range(num_classes), zero_division=np.nan
        )
        return dict(zip(("precision", "recall", "f1", "support"), values, strict=True))


class ExpectedCalibrationError(InMemoryMetric):
    """predictions: [N] probability of the predicted class; references: [N] 1 if it was true, else 0."""

    description = f"Expected calibration error, {ECE_BINS} equal-width bins (Guo et al. 2017)."
    input_features = Features({"predictions": Value("float64"), "references": Value("int64")})

    def score(self, predictions, references, bins: int = ECE_BINS):
        return {"ece": bin_calibration_error(predictions, references, bins)}


class MeanAveragePrecision(InMemoryMetric):
    """predictions: [N, C] scores; references: [N, C] multi-hot."""

    description = "Average precision of each class (NaN without a positive) and its mean over the others."
    input_features = Features({"predictions": Sequence(Value("float64")), "references": Sequence(Value("int64"))})

    def score(self, predictions, references):
        present = references.any(axis=0)
        each = np.full(references.shape[1], np.nan)
        for c in np.flatnonzero(present):
            each[c] = sk.average_precision_score(references[:, c], predictions[:, c])
        return {
            "mean_average_precision": float(each[present].mean()) if present.any() else math.nan,
            "average_precision": each,
        }


class RegressionErrors(InMemoryMetric):
    """predictions, references: [N, T]. Means over the T targets; `per_target` holds [T] each."""

    description = "MAE, RMSE and R² (NaN for a constant target)."
    input_features = Features({"predictions": Sequence(Value("float64")), "references": Sequence(Value("float64"))})

    def score(self, predictions, references):
        each = {
            "mae": sk.mean_absolute_error(references, predictions, multioutput="raw_values"),
            "rmse": sk.root_mean_squared_error(references, predictions, multioutput="raw_values"),
            "r2": np.full(references.shape[1], np.nan),
        }
        varies = np.ptp(references, axis=0) > 0
        if varies.any():
            each["r2"][varies] = sk.r2_score(references[:, varies], predictions[:, varies], multioutput="raw_values")
        return {**{name: float(values.mean()) for name, values in each.items()}, "per_target": each}


def check_outputs(logits, labels, problem_type: str, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """logits float64 [N, C], labels as `problem_type` wants them: [N] or [N, C] int64, [N, T] float64.

    Raises ValueError on empty, mis-shaped, non-finite or out-of-range input, naming the first offending row.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if logits.ndim != 2 or logits.shape[1] != num_labels:
        raise ValueError(f"logits have shape {logits.shape}; expected [N, {num_labels}], one column a label.")
    if len(logits) == 0:
        raise ValueError("there are no examples to evaluate; check the data directory or split.")
    if problem_type == REGRESSION and labels.ndim == 1:
        labels = labels[:, None]
    wanted = logits.shape[:1] if problem_type == SINGLE_LABEL else logits.shape
    if labels.shape != wanted:
        raise ValueError(f"labels have shape {labels.shape}; {problem_type} with these logits needs {wanted}.")
    for name, values in (("logits", logits), ("labels", labels)):
        bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if bad.any():
            raise ValueError(
                f"{name}: {bad.sum()} of {len(bad)} rows hold NaN or infinity, the first is row "
                f"{bad.argmax()}; "
                f"{'look for diverged weights' if name == 'logits' else 'correct these labels'}."
            )
    if problem_type == REGRESSION:
        return logits, labels.astype(np.float64)
    upper = num_labels if problem_type == SINGLE_LABEL else 2
    bad = ((labels < 0) | (labels >= upper) | (labels != np.round(labels))).reshape(len(labels), -1).any(axis=1)
    if bad.any():
        row = bad.argmax()
        raise ValueError(f"labels: row {row} is {labels[row]}; {problem_type} takes whole numbers 0 to {upper - 1}.")
    return logits, labels.astype(np.int64)


def _single_label(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    probabilities, predicted = softmax(logits, axis=1), logits.argmax(axis=1)
    scores = Accuracy().compute(predictions=predicted, references=labels)
    if logits.shape[1] > TOP_K:
        ranked = np.argsort(-logits, axis=1, kind="stable")[:, :TOP_K]
        scores |= TopKAccuracy().compute(predictions=ranked, references=labels)
    scores |= MacroF1().compute(predictions=predicted, references=labels)
    right = (predicted == labels).astype(np.int64)
    return scores | ExpectedCalibrationError().compute(predictions=probabilities.max(axis=1), references=right)


def _multi_label(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    scores = MeanAveragePrecision().compute(predictions=expit(logits), references=labels)
    scores.pop("average_precision")
    return scores | MacroF1().compute(predictions=(logits > 0).astype(np.int64), references=labels)


def _regression(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    scores = RegressionErrors().compute(predictions=logits, references=labels)
    scores.pop("per_target")
    return scores


SCORES: dict[str, Callable[[np.ndarray, np.ndarray], dict[str, float]]] = {
    SINGLE_LABEL: _single_label,
    MULTI_LABEL: _multi_label,
    REGRESSION: _regression,
}


def all_scores(logits, labels, problem_type: str, id2label: Mapping[int, str]) -> dict[str, float]:
    """`compute_metrics` with every score present: NaN where it is 0/0 on these data."""
    if problem_type not in SCORES:
        raise ValueError(f"problem_type is {problem_type!r}; use one of {', '.join(SCORES)}.")
    return SCORES[problem_type](*check_outputs(logits, labels, problem_type, len(id2label)))


def compute_metrics(logits, labels, problem_type: str, id2label: Mapping[int, str]) -> dict[str, float]:
    """Flat, finite scalars for logging; a value that is 0/0 on these data is left out.

    logits: [N, C].   labels: [N] class ids | [N, C] multi-hot | [N] or [N, T] targets.
    single label: accuracy, top5_accuracy (C > 5), macro_f1, ece;   regression: mae, rmse, r2;
    multi-label: mean_average_precision, macro_f1 (at probability 0.5).
    Raises ValueError as `check_outputs` does, and for an unknown problem_type.
    """
    scores = all_scores(logits, labels, problem_type, id2label)
    return {name: value for name, value in scores.items() if math.isfinite(value)}


def trainer_metrics(problem_type: str, id2label: Mapping[int, str]) -> Callable[[Any], dict[str, float]]:
    """The callable for `Trainer(compute_metrics=…)`: `compute_metrics` on an `EvalPrediction`."""

    def from_prediction(prediction) -> dict[str, float]:
        logits = prediction.predictions
        logits = logits[0] if isinstance(logits, tuple) else logits
        return compute_metrics(logits, prediction.label_ids, problem_type, id2label)

    return from_prediction
