"""What a model saw of an image, as pixels to draw on: its own view, and the part of the photo that it comes from.

Shapes: C channels, H x W pixels.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.image_utils import SizeDict

from ..image_arrays_vit_custom import first_three
from ..image_resizing_vit_custom import crop_corner, target_size


def pixels_of(image: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Return uint8 [H, W, 3] to draw of a normalised image [C, H, W].

    mean, std: [C], of the processor. Of more than three channels the first three are shown as red, green and blue; of
    one or two, the first in grey.
    """
    channels = len(image)
    if not channels == len(mean) == len(std):
        raise ValueError(f"mean, std: {len(mean)} and {len(std)} values for {channels} channels. Give one for each.")
    values = image.detach().cpu().float().numpy() * np.reshape(std, (-1, 1, 1)) + np.reshape(mean, (-1, 1, 1))
    return np.clip(first_three(values) * 255, 0, 255).round().astype(np.uint8).transpose(1, 2, 0)


def seen_box(processor: Any, image_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return (top, left, bottom, right): the pixels of a photo [H, W] that a processor shows the model.

    They are what is left after its centre crop, of the photo before it was resized. Raises ValueError if the processor
    pads the photo: the view then has parts that are not on the photo.
    """
    height, width = image_hw
    rounding = getattr(processor, "rounding", "floor")
    resized = (height, width)
    if getattr(processor, "do_resize", False):
        resized = target_size(image_hw, SizeDict(**dict(processor.size)), rounding)
    if not getattr(processor, "do_center_crop", False):
        if getattr(processor, "do_pad", False):
            raise ValueError("processor: it pads the photo (do_pad). Draw on the model's own view.")
        return 0, 0, height, width
    crop = SizeDict(**dict(processor.crop_size))
    rows, columns = int(crop.height or 0), int(crop.width or 0)
    if resized[0] < rows or resized[1] < columns:
        raise ValueError(
            f"processor: its crop of {rows} x {columns} pixels pads this photo, which has {resized[0]} x {resized[1]} "
            "then. Draw on the model's own view."
        )
    top, left = crop_corner(resized, crop, rounding)
    down, across = height / resized[0], width / resized[1]
    return (
        int(top * down),
        int(left * across),
        min(height, math.ceil((top + rows) * down)),
        min(width, math.ceil((left + columns) * across)),
    )
