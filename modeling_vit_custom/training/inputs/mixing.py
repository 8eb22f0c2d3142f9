"""Random erasing, mixup and CutMix of whole batches.

Images are mixed in pairs, the first with the second, the third with the fourth, in the shuffled order of the epoch. A
pair stays together however the batch is divided between processes or accumulated (in even parts), so the training is
the same.

Shapes: B batch, C channels, h x w, K random numbers for each example, L labels.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

# Positions among an example's random numbers; the first ten, and 20, belong to `augmentation`.
ERASED, ERASED_AREA, ERASED_RATIO, ERASED_LEFT, ERASED_TOP, MIXED, CUT, SHARE, CUT_LEFT, CUT_TOP = range(10, 20)
LEVELS = 4096  # equally likely values that stand for a Beta distribution


def boxes(
    left: torch.Tensor, top: torch.Tensor, width: torch.Tensor, height: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """Return a bool mask [B, 1, h, w], True inside one box per image; its position and size are [B] each, in pixels."""
    x, y = torch.arange(size[1], device=left.device), torch.arange(size[0], device=left.device)[:, None]
    left, top, width, height = (_each(side.round()) for side in (left, top, width, height))
    return (x >= left) & (x < left + width) & (y >= top) & (y < top + height)


class RandomErasing:
    """Random erasing (Zhong et al. 2017): with `probability`, sets a box of 2 to 33 % of the area to 0 (mean colour).

    area: smallest and largest share of the area.   ratio: smallest and largest width / height.
    """

    def __init__(
        self,
        probability: float,
        area: tuple[float, float] = (0.02, 1 / 3),
        ratio: tuple[float, float] = (0.3, 3.3),
    ):
        self.probability, self.area, self.ratio = probability, area, ratio

    def __call__(self, pixel_values: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Return pixel_values [B, C, h, w] with boxes erased, by random numbers [B, K]."""
        if not self.probability:
            return pixel_values
        h, w = pixel_values.shape[-2:]
        area = h * w * (self.area[0] + draws[:, ERASED_AREA] * (self.area[1] - self.area[0]))
        ratio = torch.exp(math.log(self.ratio[0]) + draws[:, ERASED_RATIO] * math.log(self.ratio[1] / self.ratio[0]))
        width, height = (area * ratio).sqrt().clamp(max=w), (area / ratio).sqrt().clamp(max=h)
        left, top = draws[:, ERASED_LEFT] * (w - width), draws[:, ERASED_TOP] * (h - height)
        width = torch.where(draws[:, ERASED] < self.probability, width, 0.0)
        return pixel_values.masked_fill(boxes(left, top, width, height, (h, w)), 0.0)


class Mix:
    """Mixup (Zhang et al. 2017) or CutMix (Yun et al. 2019) of pairs; with both, one is drawn for each pair.

    mixup, cutmix: alpha of the Beta distribution of an image's own share; 0 turns it off.
    probability: that a pair is mixed.   num_labels: L.
    """

    def __init__(self, mixup: float = 0.0, cutmix: float = 0.0, probability: float = 1.0, num_labels: int = 0):
        self.probability, self.num_labels = probability, num_labels
        self.cut = 0.5 if mixup and cutmix else float(cutmix > 0)  # how often a pair is cut
        self.is_identity = not (mixup or cutmix)
        self.shares = torch.stack([_quantiles(mixup), _quantiles(cutmix)])  # [2, LEVELS]

    def __call__(
        self, pixel_values: torch.Tensor, labels: torch.Tensor, draws: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mixed pixel_values [B, C, h, w] and labels [B, L], from ids [B] and random numbers [B, K].

        The last image of an odd batch stays unmixed. Without mixup and CutMix both inputs are returned unchanged.
        """
        if self.is_identity:
            return pixel_values, labels
        own = self.pair_mask(draws, (pixel_values.shape[-2], pixel_values.shape[-1]))
        one_hot = F.one_hot(labels, self.num_labels).float()
        return torch.lerp(pixel_values[_partners(labels)], pixel_values, own), _shared(one_hot, own)

    def mix_targets(self, targets: torch.Tensor, draws: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Return distributions [B, L] mixed as the labels of the same batch are; size: (h, w) of its images."""
        return targets if self.is_identity else _shared(targets, self.pair_mask(draws, size))

    def pair_mask(self, draws: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Return `mix_mask` [B, 1, h, w] where both images of a pair use the random numbers of the first."""
        return self.mix_mask(draws[torch.arange(len(draws), device=draws.device) & ~1], size)

    def mix_mask(self, draws: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Return the weight of the image's own pixels, [B, 1, h, w] in 0..1; the partner has the rest."""
        self.shares = self.shares.to(draws.device)
        mixup, cutmix = self.shares[:, (draws[:, SHARE] * LEVELS).long()]
        half = (1 - cutmix).sqrt() / 2
        left, right = (((draws[:, CUT_LEFT] + side).clamp(0, 1) * size[1]).round() for side in (-half, half))
        top, bottom = (((draws[:, CUT_TOP] + side).clamp(0, 1) * size[0]).round() for side in (-half, half))
        cut = 1 - boxes(left, top, right - left, bottom - top, size).float()
        own = torch.where(_each(draws[:, CUT] < self.cut), cut, _each(mixup))
        return torch.where(_each(draws[:, MIXED] < self.probability), own, 1.0)


def _partners(batch: torch.Tensor) -> torch.Tensor:
    """[B]: the index of the image with which each is mixed; the last of an odd batch has itself."""
    return (torch.arange(len(batch), device=batch.device) ^ 1).clamp(max=len(batch) - 1)


def _shared(targets: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """[B, L], [B, 1, h, w] -> [B, L]: targets mixed by the mean share of an image's own pixels."""
    return torch.lerp(targets[_partners(targets)], targets, own.mean(dim=(1, 2, 3))[:, None])


def _each(values: torch.Tensor) -> torch.Tensor:
    """[B] -> [B, 1, 1, 1]"""
    return values[:, None, None, None]


def _quantiles(alpha: float) -> torch.Tensor:
    """[LEVELS] quantiles of Beta(alpha, alpha): a uniformly drawn one is a draw from it. All 1 for alpha 0."""
    from scipy.special import betaincinv

    if not alpha:
        return torch.ones(LEVELS)
    return torch.from_numpy(betaincinv(alpha, alpha, (np.arange(LEVELS) + 0.5) / LEVELS)).float()
