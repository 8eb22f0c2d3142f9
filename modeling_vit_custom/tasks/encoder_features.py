"""Distillation of an encoder's features: a small encoder learns without labels what a large one makes of images.

Only the encoder is published, see `features`.
"""

from dataclasses import replace

import numpy as np

from .features import FEATURES

COLUMNS = ("loss", "cosine", "mean_loss", "mean_cosine")


class Metrics:
    """Mean over the images of loss and cosine similarity, and of both for the mean feature as the answer to all.

    The columns are those of `objectives.feature_distillation.FeatureLoss`.
    """

    def __init__(self, num_labels: int = 0):
        self.rows: list[np.ndarray] = []

    def update(self, outputs: np.ndarray, values: np.ndarray) -> None:
        """Add rows [n, 4]; values are ignored. Raises ValueError for NaN and infinity."""
        if not np.isfinite(outputs).all():
            raise ValueError("losses on held-out images hold NaN or infinity; look for diverged weights.")
        self.rows.append(np.asarray(outputs))

    def compute(self) -> dict[str, float]:
        means = np.concatenate(self.rows).mean(axis=0, dtype=np.float64)
        return dict(zip(COLUMNS, means.tolist(), strict=True))

    def per_label(self) -> dict[str, np.ndarray]:
        return {}


ENCODER_FEATURES = replace(
    FEATURES,
    name="feature_distillation",
    measures=lambda num_labels: {"loss": False, "cosine": True},
    metrics=Metrics,
)
