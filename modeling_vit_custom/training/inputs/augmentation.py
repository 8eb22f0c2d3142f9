"""Augmentation of whole batches on the model's device: views and random numbers in, pixel_values out.

Nothing here draws a random number: each example brings its own (`data.counter_rng`), so its augmentation depends
neither on its batch nor on its process. The geometry is changed by one affine map and one interpolation; colours can
be turned to grey. Other colour changes come from the loader's `POLICIES` alone.

Shapes: B batch, C channels, S x S' the views' size, h x w the model's, K random numbers for each example, L labels.
"""

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from ...interpolation_vit_custom import RESIZE_RULES, resize_matrix
from .mixing import Mix, RandomErasing

Geometry = Callable[[torch.Tensor, tuple[int, int]], torch.Tensor]
Policy = Callable[[torch.Tensor], torch.Tensor]

# Positions among an example's random numbers; `mixing` uses further ones.
ROTATION, SHIFT_X, SHIFT_Y, SCALE, SHEAR, AREA, RATIO, LEFT, TOP, MIRROR = range(10)
GREY = 20
LUMA = (0.2989, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


def small_affine(
    draws: torch.Tensor,
    size: tuple[int, int],
    degrees: float = 12.0,
    shift: float = 0.1,
    scale: float = 0.15,
    shear: float = 0.2,
) -> torch.Tensor:
    """Return affine maps [B, 2, 3] of a small random rotation, translation, scale and shear about the centre.

    For images that must not be mirrored or cropped: digits, text, signs.
    """
    aspect = size[1] / size[0]
    turn, x, y, grow, lean = (2 * draws[:, [ROTATION, SHIFT_X, SHIFT_Y, SCALE, SHEAR]] - 1).unbind(1)
    angle, lean, zoom = torch.deg2rad(turn * degrees), lean * shear, 1 / (1 + grow * scale)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    a, b, d, e = cos, (cos * lean - sin) / aspect, sin * aspect, sin * lean + cos
    x, y = 2 * shift * x, 2 * shift * y
    return torch.stack([a, b, -a * x - b * y, d, e, -d * x - e * y], dim=1).unflatten(1, (2, 3))


def random_crop(
    draws: torch.Tensor,
    size: tuple[int, int],
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> torch.Tensor:
    """Return affine maps [B, 2, 3] of a random crop of 8 to 100 % of the area, mirrored in half of the cases.

    Area and aspect ratio have the ranges of torchvision's RandomResizedCrop (Szegedy et al. 2015). That draws again if
    a side is longer than the image. Here the ratio is drawn first, then an area that fits with it.
    """
    sides = torch.exp(math.log(ratio[0]) + draws[:, RATIO] * math.log(ratio[1] / ratio[0]))
    largest = torch.minimum(sides, 1 / sides).clamp(max=area[1])
    taken = area[0] + draws[:, AREA] * (largest - area[0])
    width, height = (taken * sides).sqrt(), (taken / sides).sqrt()
    x, y = (2 * draws[:, LEFT] - 1) * (1 - width), (2 * draws[:, TOP] - 1) * (1 - height)
    mirrored = torch.where(draws[:, MIRROR] < 0.5, -width, width)
    none = torch.zeros_like(x)
    return torch.stack([mirrored, none, x, none, height, y], dim=1).unflatten(1, (2, 3))


def shifted(draws: torch.Tensor, size: tuple[int, int], shift: float = 1 / 24) -> torch.Tensor:
    """Return affine maps [B, 2, 3] of a translation by a few whole pixels, mirrored in half of the cases.

    For small images, where a crop would show too little. He et al. 2015 (section 4.2, CIFAR) shift by up to 4 of 32
    pixels and train for many epochs; with few epochs less is better.
    """
    furthest = torch.tensor([max(1, round(shift * size[1])), max(1, round(shift * size[0]))], device=draws.device)
    pixels = (draws[:, [SHIFT_X, SHIFT_Y]] * (2 * furthest + 1)).floor() - furthest
    x, y = (2 * pixels / torch.tensor([size[1], size[0]], device=draws.device)).unbind(1)
    none, one = torch.zeros_like(x), torch.ones_like(x)
    mirrored = torch.where(draws[:, MIRROR] < 0.5, -one, one)
    return torch.stack([mirrored, none, x, none, one, y], dim=1).unflatten(1, (2, 3))


# Name -> a function that makes the affine maps. None: no change of geometry.
AUGMENTATIONS: Mapping[str, Geometry | None] = {
    "none": None,
    "light": small_affine,
    "shift": shifted,
    "standard": random_crop,
}
# Default side of the views relative to the model's input; larger where an augmentation crops them.
VIEW_SCALE = {"none": 1.0, "light": 1.0, "shift": 1.0, "standard": 1.15}
POLICIES: Mapping[str, Callable[[], Policy]] = {
    "randaugment": v2.RandAugment,  # Cubuk et al. 2019
    "trivialaugment": v2.TrivialAugmentWide,  # Müller and Hutter 2021
    "autoaugment": v2.AutoAugment,  # Cubuk et al. 2018, the policy for ImageNet
}


def warp(images: torch.Tensor, maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return images [B, C, S, S'] warped to float32 [B, C, h, w]: bilinear, edge pixels repeated beyond edges.

    maps: [B, 2, 3], from (x, y, 1) in the output to (x, y) in the image, edges at -1 and 1. (The grid equals that of
    torch's affine_grid, whose matrix product is three times as slow.)
    """
    height, width = size
    x = (2 * torch.arange(width, device=maps.device) + 1) / width - 1
    y = ((2 * torch.arange(height, device=maps.device) + 1) / height - 1)[:, None]
    grid = torch.empty(len(maps), height, width, 2, device=maps.device)
    for axis, (a, b, c) in enumerate(maps[..., None, None].unbind(1)[i].unbind(1) for i in range(2)):
        grid[..., axis] = a * x + (b * y + c)
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


class RandomGrayscale:
    """torchvision's RandomGrayscale: with `probability`, replaces RGB by its luma; images that are not RGB stay."""

    def __init__(self, probability: float = 0.0):
        self.probability = probability

    def __call__(self, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Return images [B, C, h, w] in 0..255 (uint8 or float; float32 if any may turn grey), by numbers [B, K]."""
        if not self.probability or images.shape[1] != len(LUMA):
            return images
        images = images.float()
        luma = sum(weight * images[:, channel, None] for channel, weight in enumerate(LUMA))
        chosen = draws[:, GREY] < self.probability
        return torch.where(chosen[:, None, None, None], luma, images)


class GrowingSize:
    """Progressive resizing: training begins on smaller images, which cost less, and ends at full size.

    (Howard 2018 for DAWNBench; Tan and Le 2021, EfficientNetV2, arXiv 2104.00298.) The model adapts its positions.
    size: (h, w), reached when GROWN of the training is done.   patch: (p, q); each size is a multiple of it.
    start: the initial share of both sides.
    """

    GROWN = 0.7

    def __init__(self, size: tuple[int, int], patch: tuple[int, int], start: float = 1.0):
        self.size, self.patch, self.start = size, patch, start

    def at(self, progress: float) -> tuple[int, int]:
        """Return the image size (height, width) when this share of the training is done."""
        share = self.start + (1 - self.start) * min(1.0, progress / self.GROWN)
        height, width = (
            min(side, max(1, round(share * side / cell)) * cell)
            for side, cell in zip(self.size, self.patch, strict=True)
        )
        return height, width

    def __call__(self, images: torch.Tensor, progress: float) -> torch.Tensor:
        """Return images [B, C, h, w] in 0..255 (uint8 or float) unchanged, or smaller in float32."""
        if self.start == 1 or (size := self.at(progress)) == self.size:
            return images
        return F.interpolate(images.float(), size, mode="bilinear", antialias=True)


class BatchAugmentation:
    """The whole augmentation of a batch: from views to the pixel_values and labels that the model trains on.

    geometry: a value of AUGMENTATIONS.   size: (h, w).
    to_pixel_values: images in 0..255 -> float32, as the image processor does.
    growing: makes early images smaller.   grayscale: removes colours.   erasing, mix: applied to pixel_values.
    The defaults of these four do nothing.
    """

    def __init__(
        self,
        geometry: Geometry | None,
        size: tuple[int, int],
        to_pixel_values: Callable[[torch.Tensor], torch.Tensor],
        erasing: RandomErasing | None = None,
        mix: Mix | None = None,
        growing: GrowingSize | None = None,
        grayscale: RandomGrayscale | None = None,
    ):
        self.growing, self.grayscale = growing or GrowingSize(size, (1, 1)), grayscale or RandomGrayscale()
        self.geometry, self.size, self.to_pixel_values = geometry, size, to_pixel_values
        self.erasing, self.mix = erasing or RandomErasing(0.0), mix or Mix()

    def follow(self, grids: torch.Tensor, size: tuple[int, int], draws: torch.Tensor | None = None) -> torch.Tensor:
        """Return grids of vectors [B, D, g, g'] of the whole images as [B, D, h', w'] of the augmented ones.

        size: (h', w').   draws: [B, K], by which the images were augmented; None: they were not.
        """
        if self.geometry is not None and draws is not None:
            cells = [math.ceil(side / new) * new for side, new in zip(grids.shape[2:], size, strict=True)]
            grids = warp(grids, self.geometry(draws, self.size), (cells[0], cells[1]))  # none of the cells is skipped
        rule = RESIZE_RULES["bilinear_antialias"]
        rows, columns = (resize_matrix(n, m, rule).to(grids) for n, m in zip(grids.shape[2:], size, strict=True))
        return grids if grids.shape[2:] == size else rows @ grids @ columns.T

    def __call__(
        self, views: torch.Tensor, labels: torch.Tensor, draws: torch.Tensor, progress: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 [B, C, S, S'], [B, …], float32 [B, K] -> float32 [B, C, h, w], labels: [B, …], or [B, L] if mixed.

        progress: the share of the training that is done; early images may be smaller, see `GrowingSize`.
        """
        if self.geometry is not None:
            views = warp(views, self.geometry(draws, self.size), self.size)
        views = self.grayscale(self.growing(views, progress), draws)
        pixel_values = self.erasing(self.to_pixel_values(views), draws)
        return self.mix(pixel_values, labels, draws)
