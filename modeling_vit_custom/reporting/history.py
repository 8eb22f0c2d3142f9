"""Logged scalars of a training as panels of curves, for the picture and the page alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .formatting import METRIC_TITLES, title

# A validation metric is any eval_… scalar except the loss and measures of speed.
NOT_METRICS = ("eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_model_")
BETWEEN_0_AND_1 = ("eval_accuracy", "eval_top5_accuracy", "eval_macro_f1", "eval_mean_average_precision")
NOT_CURVES = ("epoch", "step", "loss", "learning_rate", "total_flos", "eval_", "train_")
NAMES = {"grad_norm": "gradient norm"}
LOSS, VALIDATION, LEARNING_RATE, OTHER = "loss", "validation", "learning rate", "other"


@dataclass(frozen=True)
class Curve:
    """One logged scalar.

    key: as logged.   name: for display.   steps, epochs: where it was logged (epochs is empty if they were not logged).
    """

    key: str
    name: str
    steps: list[float]
    epochs: list[float]
    values: list[float]

    @property
    def validation(self) -> bool:
        """Whether it was measured on validation data rather than while training."""
        return self.key.startswith("eval_")


@dataclass(frozen=True)
class Panel:
    """Curves that share an axis.   kind: LOSS, VALIDATION, LEARNING_RATE or OTHER."""

    kind: str
    title: str
    curves: list[Curve]


def panels(log_history: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Return the panels of `TrainerState.log_history`, without those in which no curve has two points.

    Metrics between 0 and 1 share a panel; others, such as MAE and R², have one each.
    """
    metrics = [key for key in _keys(log_history) if _is_metric(key)]
    shares = [key for key in metrics if key in BETWEEN_0_AND_1]
    alone = [key for key in metrics if key not in BETWEEN_0_AND_1]
    others = [key for key in _keys(log_history) if not key.startswith(NOT_CURVES)]
    planned = [
        (LOSS, "loss", {"loss": "training", "eval_loss": "validation"}),
        (VALIDATION, "validation", {key: _name(key) for key in shares}),
        *((VALIDATION, f"validation: {_name(key)}", {key: _name(key)}) for key in alone),
        (LEARNING_RATE, "learning rate", {"learning_rate": "learning rate"}),
        *((OTHER, _name(key), {key: _name(key)}) for key in others),
    ]
    found = [Panel(kind, title, _curves(log_history, keys)) for kind, title, keys in planned]
    return [panel for panel in found if any(len(curve.values) > 1 for curve in panel.curves)]


def newest_scores(log_history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return {metric: value} of the last validation; {} before the first."""
    entry: Mapping[str, Any] = next((one for one in reversed(log_history) if any(map(_is_metric, one))), {})
    return {key.removeprefix("eval_"): value for key, value in entry.items() if _is_metric(key)}


def _is_metric(key: str) -> bool:
    return key.startswith("eval_") and not key.startswith(NOT_METRICS)


def _keys(log_history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the logged numbers, in the order of their first appearance."""
    return list(
        dict.fromkeys(key for entry in log_history for key, value in entry.items() if isinstance(value, int | float))
    )


def _name(key: str) -> str:
    key = key.removeprefix("eval_")
    return NAMES.get(key) or (title(key) if key in METRIC_TITLES else key.replace("_", " "))


def _curves(log_history: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[Curve]:
    curves = []
    for key, name in names.items():
        if entries := [entry for entry in log_history if key in entry]:
            epochs = [entry["epoch"] for entry in entries if "epoch" in entry]
            steps, values = [entry["step"] for entry in entries], [entry[key] for entry in entries]
            curves.append(Curve(key, name, steps, epochs, values))
    return curves
