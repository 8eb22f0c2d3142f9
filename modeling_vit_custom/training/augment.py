"""Augmentation of decoded images, before the processor rescales and normalises.

Shapes: images uint8 [C, H, W]; h, w the model's input size.
"""

from collections.abc import Callable
from typing import Any

import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ..data.dataset import Transform

AUGMENTATIONS = ("none", "light", "standard")


class SmallAffine(v2.Transform):
    """A small rotation, shift, scaling and shear; what comes into view has the colour of the image's border.

    Made for images that must not be mirrored or cropped: digits, text, signs.
    """

    def __init__(self, degrees: float = 10.0, shift: float = 0.08, scale: float = 0.1, shear: float = 5.0):
        super().__init__()
        self.degrees, self.shift, self.scale, self.shear = degrees, shift, scale, shear

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 [C, H, W] -> uint8 [C, H, W]."""
        turn, x, y, grow, lean = (2 * torch.rand(5) - 1).tolist()
        height, width = image.shape[-2:]
        border = torch.cat([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], dim=1)  # [C, 2(H + W)]
        return F.affine(
            image,
            angle=turn * self.degrees,
            translate=[x * self.shift * width, y * self.shift * height],
            scale=1 + grow * self.scale,
            shear=[lean * self.shear, 0.0],
            interpolation=v2.InterpolationMode.BILINEAR,
            fill=border.median(dim=1).values.float().tolist(),
        )


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
