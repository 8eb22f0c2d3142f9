"""The patches hidden from a model that learns to fill them in, drawn by a counter-based RNG.

Shapes: B batch, h x w grid of patches, u x v patches of a unit, M = h/u · w/v units.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...common.errors import UsageError
from ...data.counter_rng import example_keys, uniform
from ...data.dataset import DRAWS, ImageDataset

SHARE_OF_SIDE = 1 / 7  # 32 of 224 pixels: the best units in SimMIM's ablation, Xie et al. 2022, table 1


class PatchMasks:
    """Masks that hide exactly round(ratio · M) units of each image, all of them equally likely.

    grid: (h, w).   unit: (u, v), which divides the grid.
    """

    def __init__(self, grid: tuple[int, int], unit: tuple[int, int], ratio: float):
        self.unit, self.units = unit, (grid[0] // unit[0], grid[1] // unit[1])
        self.count = math.prod(self.units)
        self.hidden = round(ratio * self.count)

    @classmethod
    def for_model(cls, config: Any, ratio: float, unit_pixels: Sequence[int] | None = None) -> "PatchMasks":
        """Build the masks for a model.

        unit_pixels: height and width of a unit, or one number for both; None for about `SHARE_OF_SIDE`.
        Raises UsageError for units that are not whole patches or do not divide the image, and for ratios that hide
        nothing or everything.
        """
        if unit_pixels is not None and (len(unit_pixels) not in (1, 2) or min(unit_pixels) < 1):
            raise UsageError(f"--mask_patch_size takes one number of pixels or two, not {list(unit_pixels)}.")
        if not 0 < ratio < 1:
            raise UsageError(f"--mask_ratio {ratio:g}: give a number between 0 and 1, such as 0.6.")
        masks = cls(config.grid_hw, _unit(config.grid_hw, config.patch_hw, unit_pixels), ratio)
        if not 0 < masks.hidden < masks.count:
            raise UsageError(
                f"--mask_ratio {ratio:g} hides {masks.hidden} of {masks.count} units of an image: give one that hides "
                "some and leaves some, or smaller units by --mask_patch_size."
            )
        return masks

    def record(self) -> dict[str, Any]:
        """Return the entry of training_args.json."""
        return {"units": list(self.units), "hidden": self.hidden}

    def sentence(self) -> str:
        return f"masks: {self.hidden} of {self.count} units hidden, each of {self.unit[0]}x{self.unit[1]} patches"

    def __call__(self, noise: np.ndarray) -> torch.Tensor:
        """Return bool [B, h·w] of random numbers [B, M]: True where a patch is hidden, in units of lowest number."""
        ranks = noise.argsort(axis=1, kind="stable").argsort(axis=1)
        masks = (ranks < self.hidden).reshape(-1, *self.units)
        masks = masks.repeat(self.unit[0], axis=1).repeat(self.unit[1], axis=2)
        return torch.from_numpy(masks.reshape(len(noise), -1))


def _unit(grid: tuple[int, int], patch: tuple[int, int], pixels: Sequence[int] | None) -> tuple[int, int]:
    """(height, width) in patches of a unit of `pixels`; of about `SHARE_OF_SIDE` for None."""
    fitting = [[d for d in range(1, side + 1) if side % d == 0] for side in grid]
    if pixels is None:
        nearest = [min(divisors, key=lambda d: abs(d - SHARE_OF_SIDE * max(divisors))) for divisors in fitting]
        return nearest[0], nearest[1]
    sizes = [{p * d: d for d in divisors} for p, divisors in zip(patch, fitting, strict=True)]  # pixels -> patches
    if pixels[0] not in sizes[0] or pixels[-1] not in sizes[1]:
        raise UsageError(
            f"--mask_patch_size {' '.join(map(str, pixels))}: {grid[0]}x{grid[1]} patches of {patch[0]}x{patch[1]} "
            f"pixels do not divide into such units. Heights that fit: {list(sizes[0])}; widths: {list(sizes[1])}."
        )
    return sizes[0][pixels[0]], sizes[1][pixels[-1]]


class MaskedImages(ImageDataset):
    """`ImageDataset` whose items also have "bool_masked_pos", bool [h·w].

    Masks of training depend on (seed, epoch, index) alone. Those of evaluation, which has no seed, depend on the index
    alone, so that losses can be compared between evaluations and between runs.
    """

    def __init__(self, masks: PatchMasks, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.masks = masks

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        seed, epoch = (0, 0) if self.seed is None else (self.seed, int(self.epoch))
        noise = uniform(example_keys(seed, epoch, indices), DRAWS + self.masks.count)[:, DRAWS:]  # after augmentation's
        return super().__getitems__(indices) | {"bool_masked_pos": self.masks(noise)}
