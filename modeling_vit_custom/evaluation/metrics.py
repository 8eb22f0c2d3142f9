"""The tasks' metrics as `evaluate.Metric` classes over scikit-learn, for scripts that use that interface.

This package itself prints `task.metrics`, which stream; a test checks that both are equal. Nothing is downloaded and
nothing is written.

`evaluate` stores its inputs in arrow files under the user's cache. These classes keep them in memory: no file, no lock,
no clash between two processes.

Shapes: N examples, C classes, T regression targets, k ranks.
"""

import math
import warnings
from typing import Any

import evaluate
import numpy as np
from datasets import Features, Sequence, Value
from sklearn import metrics as sk

from ..tasks.calibration import ECE_BINS, bin_calibration_error

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
            # scikit-learn warns if most integer labels occur once, which is normal with few images.
            warnings.filterwarnings("ignore", message="The number of unique classes is greater than 50%")
            return self.score(np.asarray(predictions), np.asarray(references), **options)

    def score(self, predictions, references, *args: Any, **options: Any) -> dict[str, Any]:
        """Compute the metric's values by name; the class docstring describes the arrays."""
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
