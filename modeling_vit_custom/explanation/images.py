"""The images to explain, as the model sees them.

Shapes: B images, C channels, H×W pixels.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch

from ..common.errors import DataError, UsageError
from ..inference.forward import PreparedImages


def read_images(images: Any, processor: Any) -> torch.Tensor:
    """Return pixel values [B, C, H, W] of a tensor of that shape, or of what `processor` makes of images or files.

    images: a tensor, or one image or several: PIL images, paths, arrays.   Raises UsageError without a processor for
    anything but a tensor, and for images that the processor leaves at different sizes; DataError for one that cannot
    be read.
    """
    if torch.is_tensor(images):
        if images.ndim != 4 or not len(images) or not images.is_floating_point():
            raise UsageError(
                f"images is a tensor of {images.dtype} {tuple(images.shape)}: give the processor's pixel_values, "
                "floats of (images, channels, height, width)."
            )
        return images.detach()
    given = list(images) if isinstance(images, Sequence) and not isinstance(images, str) else [images]
    if not given:
        raise UsageError("images is empty: give one image or more.")
    if processor is None:
        raise UsageError(
            f"images holds {type(given[0]).__name__}: give the model's processor too, or the pixel_values it makes."
        )
    names = [os.fspath(one) if isinstance(one, str | os.PathLike) else f"image {i}" for i, one in enumerate(given)]
    read = []
    for _, pixels, error in PreparedImages(given, names, processor).take(range(len(given))):
        if pixels is None:
            raise DataError(error)
        read.append(pixels)
    if sizes := {tuple(pixels.shape) for pixels in read[1:]} - {tuple(read[0].shape)}:
        raise UsageError(
            f"images have different sizes for the model, {tuple(read[0].shape)} and {sizes.pop()}: explain one by one."
        )
    return torch.stack(read)
