"""Any number of labels for each image."""

import numpy as np
import torch
import torch.nn.functional as F

from ..data.examples import MULTI_LABEL as NAME
from .hub import CLASSIFICATION
from .task import Task


def score(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Minus the binary cross-entropy of logits [N, K] under labels [N, K], 0 or 1."""
    answers, truth = torch.from_numpy(logits).double(), torch.from_numpy(labels).double()
    return -F.binary_cross_entropy_with_logits(answers, truth, reduction="none").mean(dim=1).numpy()


MULTI_LABEL = Task(
    name=NAME,
    listing=CLASSIFICATION,
    does=lambda images, labels: f"gives each of {len(labels)} labels its probability for {images}",
    measures=lambda num_labels: {"mean_average_precision": True, "macro_f1": True},
    score=score,
)
