"""Augmentation of decoded images, before the processor rescales and normalises.

Shapes: images uint8 [C, H, W]; h, w the model's input size.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from ..data.dataset import Transform

AUGMENTATIONS = ("none", "light", "standard")


class SmallAffine:
    """A small rotation, shift, scaling and shear; what comes into view has the colour of the image's border.

    Made for images that must not be mirrored or cropped: digits, text, signs. (Pillow's affine: on small images
    torchvision's costs a hundred times as much.)
    """

    def __init__(self, degrees: float = 12.0, shift: float = 0.1, scale: float = 0.15, shear: float = 0.2):
        self.degrees, self.shift, self.scale, self.shear = degrees, shift, scale, shear

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 [C, H, W] -> uint8 [C, H, W], C being 1 or 3."""
        turn, x, y, grow, lean = (2 * torch.rand(5) - 1).tolist()
        pixels = image.permute(1, 2, 0).numpy()  # [H, W, C]
        height, width, channels = pixels.shape
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        fill = tuple(np.sort(border, axis=0)[len(border) // 2].tolist())  # the median
        inverse = self._inverse(turn, grow, lean, (x * self.shift * width, y * self.shift * height), (height, width))
        picture = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
        moved = picture.transform(
            picture.size,
            Image.Transform.AFFINE,
            inverse,
            Image.Resampling.BILINEAR,
            fillcolor=fill[0] if channels == 1 else fill,
        )
        return torch.from_numpy(np.array(moved).reshape(height, width, channels)).permute(2, 0, 1)

    def _inverse(
        self, turn: float, grow: float, lean: float, shift: tuple[float, float], size: tuple[int, int]
    ) -> tuple[float, ...]:
        """The six numbers that lead from an output pixel (x, y) to its place in the input, about the centre."""
        angle = math.radians(turn * self.degrees)
        cos, sin, lean, zoom = math.cos(angle), math.sin(angle), lean * self.shear, 1 / (1 + grow * self.scale)
        a, b = zoom * cos, zoom * (cos * lean - sin)
        d, e = zoom * sin, zoom * (sin * lean + cos)
        middle_x, middle_y = size[1] / 2, size[0] / 2
        x, y = middle_x + shift[0], middle_y + shift[1]
        return (a, b, middle_x - a * x - b * y, d, e, middle_y - d * x - e * y)


def train_transform(processor: Any, augmentation: str, image_hw: tuple[int, int]) -> Transform:
    """The training transform of a name in AUGMENTATIONS.

    none: the processor alone.   light: `SmallAffine`.   standard: a random crop of 8 to 100 % of the area,
    resized, mirrored in half of the cases (as transformers' image-classification example).
    Raises ValueError for another name.
    """
    if augmentation == "none":
        return Transform(processor)
    if augmentation == "light":
        return Transform(processor, SmallAffine())
    if augmentation == "standard":
        crop: Callable[[torch.Tensor], torch.Tensor] = v2.Compose(
            [v2.RandomResizedCrop(list(image_hw), antialias=True), v2.RandomHorizontalFlip()]
        )
        return Transform(processor, crop, resize=False)
    raise ValueError(f"augmentation={augmentation!r}: give one of {', '.join(AUGMENTATIONS)}.")
