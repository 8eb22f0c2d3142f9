"""The images to explain, as the model sees them.

Shapes: B images, C channels, H×W pixels.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..common.errors import DataError, UsageError
from ..image_arrays_vit_custom import first_three
from ..image_decoding_vit_custom import decode_image
from ..inference.forward import PreparedImages
from .pictures.panels import Box
from .pictures.views import pixels_of, seen_box


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
    given = several(images)
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


def several(images: Any) -> list[Any]:
    """Return one image or a sequence of images as a list."""
    return list(images) if isinstance(images, Sequence) and not isinstance(images, str) else [images]


@dataclass(frozen=True)
class Originals:
    """The photos that a processor made the model's view of.   sources: of B images, files or PIL images."""

    sources: Sequence[Any]
    processor: Any

    def photo(self, number: int) -> tuple[np.ndarray, Box] | None:
        """Return a photo, uint8 [H, W, 3], and the part of it that the view shows, as (top, left, bottom, right).

        None for what cannot be drawn so: an image of other than 8 bits, one that the processor pads, a file that is
        gone.
        """
        source = self.sources[number]
        try:
            image = getattr(self.processor, "decode", decode_image)(source, name=f"image {number}")
            if image.dtype != torch.uint8 or image.ndim != 3:
                return None
            seen = seen_box(self.processor, (image.shape[1], image.shape[2]))
            return first_three(image.numpy()).transpose(1, 2, 0), seen
        except (ValueError, OSError):
            return None


def viewable(pixels: torch.Tensor, processor: Any) -> np.ndarray:
    """Return pixel values [B, C, H, W] as uint8 [B, H, W, 3], for people: the first three channels in colour, or grey.

    The processor's normalisation is undone; without one, each image is stretched from its lowest value to its highest.
    """
    count = pixels.shape[1]
    if processor is None:
        ranges = [(float(low), float(high)) for low, high in (torch.aminmax(image) for image in pixels)]
        spans = [(low, 1 / ((high - low) or 1.0)) for low, high in ranges]
        scales = [([-low * scale] * count, [scale] * count) for low, scale in spans]
    elif getattr(processor, "do_normalize", False):
        scales = [(_by_channel(processor.image_mean, count), _by_channel(processor.image_std, count))] * len(pixels)
    else:
        scales = [([0.0] * count, [1.0] * count)] * len(pixels)
    return np.stack([pixels_of(image, *scale) for image, scale in zip(pixels, scales, strict=True)])


def _by_channel(values: Any, count: int) -> list[float]:
    """The processor's number for each channel; one for all if it has a single one."""
    values = [float(value) for value in (values if isinstance(values, Sequence) else [values])]
    return values * count if len(values) == 1 else values
