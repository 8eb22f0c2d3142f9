"""Scores as text: their names, their digits, and the confidence interval of a share of n images."""

import math
from collections.abc import Mapping
from typing import Any

# metric in metrics.json: (type on the Hub, name here)
METRIC_TITLES = {
    "accuracy": ("accuracy", "Accuracy"),
    "top5_accuracy": ("top5_accuracy", "Top-5 accuracy"),
    "macro_f1": ("f1", "Macro F1"),
    "ece": ("expected_calibration_error", "Expected calibration error"),
    "mean_average_precision": ("mean_average_precision", "Mean average precision"),
    "mae": ("mae", "Mean absolute error"),
    "rmse": ("rmse", "Root mean squared error"),
    "r2": ("r_squared", "R²"),
}
SHARES = ("accuracy", "top5_accuracy")  # shares of n images; written in per cent, with an interval


def title(name: str) -> str:
    return METRIC_TITLES[name][1] if name in METRIC_TITLES else name


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share that was observed on n examples (Wilson 1927)."""
    z = 1.96
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    return centre - half, centre + half


def figure(name: str, scores: Mapping[str, Any], n: int) -> str:
    """Return a score as text; a share of n images gets its interval."""
    value = scores.get(name)
    if value is None:
        return "undefined"
    if name not in SHARES:
        return number(value)
    low, high = wilson_interval(value, n)
    return f"{value:.1%} ({low:.1%} to {high:.1%})"


def number(value: Any) -> str:
    """Return a value as text, with four significant digits: a few thousand images cannot tell more apart."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "undefined" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Return seconds as text, such as 42 s, 3 min 5 s, 2 h 4 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"
