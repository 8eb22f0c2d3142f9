"""Distillation of an encoder's features: a small encoder learns without labels what a large one makes of images.

Only the encoder is published, see `features`.
"""

from dataclasses import replace

import numpy as np

from . import masked_images
from .features import FEATURES

COLUMNS = ("loss", "cosine", "mean_loss", "mean_cosine")


class Metrics(masked_images.Metrics):
    """Mean over the images of loss and cosine similarity, and of both for the mean feature as the answer to all.

    The columns of the rows [n, 4] are those of `objectives.feature_distillation.FeatureLoss`.
    """

    def compute(self) -> dict[str, float]:
        means = np.concatenate(self.losses).mean(axis=0, dtype=np.float64)
        return dict(zip(COLUMNS, means.tolist(), strict=True))


ENCODER_FEATURES = replace(
    FEATURES,
    name="feature_distillation",
    measures=lambda num_labels: {"loss": False, "cosine": True},
    metrics=Metrics,
)
