"""One class for each image."""

import numpy as np

from ..data.examples import SINGLE_LABEL as NAME
from .hub import CLASSIFICATION
from .task import ONE_LABEL, Task

TOP_K = 5


def measures(num_labels: int) -> dict[str, bool]:
    """Without top-5 accuracy where there are no more classes than that."""
    top = {f"top{TOP_K}_accuracy": True} if num_labels > TOP_K else {}
    return {"accuracy": True, **top, "macro_f1": True, "ece": False}


def score(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """1 where the largest of the logits [N, K] is that of the label [N], else 0."""
    return (logits.argmax(axis=1) == labels).astype(np.float64)


SINGLE_LABEL = Task(
    name=NAME,
    listing=CLASSIFICATION,
    does=lambda images, labels: f"sorts {images} into {len(labels)} classes",
    measures=measures,
    score=score,
    score_name="accuracy",
    in_points=True,
    supports=frozenset({ONE_LABEL}),
)
