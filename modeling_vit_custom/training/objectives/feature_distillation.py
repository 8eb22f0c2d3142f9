"""Distillation of a large encoder's features into a small one, without labels.

The student's pooled vector and its patches pass a linear layer each, to the teacher's widths, and learn the teacher's
features of the same part of the image by a smooth L1 loss, each feature standardised (Wei et al. 2022, 2205.14141,
"Contrastive learning rivals masked image modeling in fine-tuning via feature distillation", normalise each image). The
teacher sees each image once, as it is. Where the student's is cropped or mirrored, the teacher's grid of patches is
cropped and mirrored in the same way.

Shapes: B batch, h x w the student's grid, g x g' the teacher's, T the width of its patches, P of its pooled vector.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .teacher_features import EncoderTeacher, TeacherFeatures

MEASURED = 4096  # images, evenly spread, on which the statistics are measured
CHUNK = 256  # of them at once
Features = tuple[torch.Tensor, torch.Tensor]  # pooled [B, P], patches [B, h·w, T]
Follow = Callable[[torch.Tensor], torch.Tensor]  # [B, T, g, g'] -> [B, T, h, w]


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each feature, float32: of the pooled vector [P], of patches [T]."""

    pooled_mean: torch.Tensor
    pooled_std: torch.Tensor
    patch_mean: torch.Tensor
    patch_std: torch.Tensor

    @classmethod
    def of(cls, features: TeacherFeatures, teacher: EncoderTeacher) -> "Statistics":
        """Measure the features of images. A feature that is the same for all of them gets the deviation 1."""
        chosen = np.linspace(0, len(features) - 1, min(MEASURED, len(features))).astype(int).tolist()
        sums = [np.zeros(size) for size in (teacher.pooled_width, teacher.width) for _ in range(2)]
        for start in range(0, len(chosen), CHUNK):
            rows = features(chosen[start : start + CHUNK]).numpy().astype(np.float64)
            pooled, patches = rows[:, : teacher.pooled_width], rows[:, teacher.pooled_width :]
            for place, values in ((0, pooled), (2, patches.reshape(-1, teacher.width))):
                sums[place] += values.sum(axis=0)
                sums[place + 1] += np.square(values).sum(axis=0)
        found = []
        for place, count in ((0, len(chosen)), (2, len(chosen) * teacher.grid[0] * teacher.grid[1])):
            mean = sums[place] / count
            std = np.sqrt(np.maximum(sums[place + 1] / count - np.square(mean), 0))
            std[std <= 1e-3 * np.maximum(np.abs(mean), 1e-6)] = 1.0  # below float16's precision
            found += [torch.from_numpy(mean).float(), torch.from_numpy(std).float()]
        return cls(*found)

    def to(self, device: torch.device) -> "Statistics":
        """Return the same on a device."""
        return Statistics(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


class FeatureLoss:
    """The loss of a student, and the `measure` of `BatchTrainer`.

    statistics: of the teacher's features.   grid: (g, g').
    """

    def __init__(self, statistics: Statistics, grid: tuple[int, int]):
        self.statistics, self.grid = statistics, grid

    def targets(self, rows: torch.Tensor, follow: Follow) -> Features:
        """Return standardised features of the teacher's rows [B, P + g·g'·T].

        follow: brings a grid of vectors to the student's, as the image was.
        """
        known = self.statistics = self.statistics.to(rows.device)
        width = len(known.pooled_mean)
        pooled = (rows[:, :width].float() - known.pooled_mean) / known.pooled_std
        patches = rows[:, width:].float().unflatten(1, (-1, len(known.patch_mean))) - known.patch_mean
        patches = (patches / known.patch_std).unflatten(1, self.grid)  # [B, g, g', T]
        return pooled, follow(patches.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)

    def losses(self, made: Features, targets: Features) -> torch.Tensor:
        """Return [B]: half the smooth L1 distance of the pooled vectors and half that of the patches."""
        pooled, patches = (
            F.smooth_l1_loss(one.float(), other, reduction="none") for one, other in zip(made, targets, strict=True)
        )
        return (pooled.mean(dim=1) + patches.mean(dim=(1, 2))) / 2

    def cosines(self, made: Features, targets: Features) -> torch.Tensor:
        """Return [B]: the mean of the cosine similarity of the pooled vectors and of the patches, not standardised."""
        known = self.statistics
        scales = (known.pooled_mean, known.pooled_std), (known.patch_mean, known.patch_std)
        pooled, patches = (
            F.cosine_similarity(one.float() * std + mean, other * std + mean, dim=-1)
            for one, other, (mean, std) in zip(made, targets, scales, strict=True)
        )
        return (pooled + patches.mean(dim=1)) / 2

    def loss(self, output: Any, targets: Features) -> torch.Tensor:
        """Return the scalar loss of a batch; see `add_projection` for the output."""
        return self.losses(output["projected"], targets).mean()

    def __call__(self, inputs: dict[str, Any], output: Any) -> torch.Tensor:
        """Return [B, 4]: loss and cosine of each image, then both for the mean of all images as the answer."""
        targets = inputs["teacher"]
        mean = torch.zeros_like(targets[0]), torch.zeros_like(targets[1])
        made = output["projected"]
        return torch.stack([one(each, targets) for each in (made, mean) for one in (self.losses, self.cosines)], dim=1)
