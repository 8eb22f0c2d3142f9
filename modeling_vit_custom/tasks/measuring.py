"""Metrics of a task, computed from outputs at hand or batch by batch.

Shapes: N examples, n examples of a batch, K outputs.
"""

import math
from typing import Any

import numpy as np

from .task import Metrics, Task


def measured(task: Task, num_labels: int, outputs: np.ndarray, values: np.ndarray) -> Metrics:
    """Return the task's metrics of outputs [N, K] and values [N, …]. Raises ValueError as `metrics.checked`."""
    found = task.metrics(num_labels)
    found.update(outputs, values)
    return found


def finite(scores: dict[str, float]) -> dict[str, float]:
    """Return the scores that are finite; those that are 0/0 on these data are left out."""
    return {name: value for name, value in scores.items() if math.isfinite(value)}


def compute_metrics(task: Task, num_labels: int, outputs: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """Return finite scalars for logging, named as in `task.measures`. Raises ValueError as `measured`."""
    return finite(measured(task, num_labels, outputs, values).compute())


class TrainerMetrics:
    """For `Trainer(compute_metrics=…)`: on all predictions or, with batch_eval_metrics, batch by batch.

    seen: number of examples behind the metrics last returned.
    """

    def __init__(self, task: Task, num_labels: int):
        self.task, self.num_labels = task, num_labels
        self.metrics, self.seen, self._counted = task.metrics(num_labels), 0, 0

    def __call__(self, prediction: Any, compute_result: bool = True) -> dict[str, float]:
        """Add an `EvalPrediction`; return the metrics of everything added since they were last returned.

        With `compute_result` False, return {}.
        """
        outputs = prediction.predictions
        outputs = outputs[0] if isinstance(outputs, tuple) else outputs
        outputs, values = _array(outputs), _array(prediction.label_ids)
        self.metrics.update(outputs, values)
        self._counted += len(values)
        if not compute_result:
            return {}
        found = finite(self.metrics.compute())
        self.metrics, self.seen, self._counted = self.task.metrics(self.num_labels), self._counted, 0
        return found


def _array(values: Any) -> np.ndarray:
    return values if isinstance(values, np.ndarray) else values.float().cpu().numpy()
