"""Masked image modelling (SimMIM): an encoder learns without labels by painting hidden parts of images.

Xie et al. 2022, "SimMIM: a simple framework for masked image modeling", arXiv 2111.09886. Only the encoder is
published, see `features`.
"""

import numpy as np

from ..data.targets import NoTargets
from .features import FEATURES
from .hub import MASKED_IMAGES as LISTING
from .task import Task


class Metrics:
    """Mean over the images of their reconstruction loss, see `objectives.reconstruction.masked_losses`."""

    def __init__(self, num_labels: int = 0):
        self.losses: list[np.ndarray] = []

    def update(self, outputs: np.ndarray, values: np.ndarray) -> None:
        """Add losses [n]; values are ignored. Raises ValueError for NaN and infinity."""
        if not np.isfinite(outputs).all():
            raise ValueError("losses on held-out images hold NaN or infinity; look for diverged weights.")
        self.losses.append(np.asarray(outputs))

    def compute(self) -> dict[str, float]:
        return {"loss": float(np.mean(np.concatenate(self.losses), dtype=np.float64))}

    def per_label(self) -> dict[str, np.ndarray]:
        return {}


MASKED_IMAGES = Task(
    name="masked_image_modeling",
    listing=LISTING,
    targets=NoTargets,
    does=FEATURES.does,
    limits=FEATURES.limits,
    measures=lambda num_labels: {"loss": False},
    metrics=Metrics,
)
