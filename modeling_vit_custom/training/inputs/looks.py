"""The size of training images and whether they are grey, estimated quickly from a few of them."""

import os
from typing import Any

import numpy as np

from ...data.examples import Examples
from ...image_decoding_vit_custom import decode_image
from ...image_files_vit_custom import file_header, open_image

LOOKED_AT = 200  # images


def looks_of(examples: Examples) -> tuple[int, bool]:
    """Return (median of the shorter side in pixels, whether all images are grey), of a sample.

    Raises ImageDecodingError for an image that cannot be read.
    """
    some = np.linspace(0, len(examples) - 1, min(LOOKED_AT, len(examples))).astype(int)
    opened = [shape_of(examples.images[i], examples.names[i]) for i in some]
    return int(np.median([min(size) for size, _ in opened])), all(grey for _, grey in opened)


def shape_of(source: Any, name: str) -> tuple[tuple[int, int], bool]:
    """Return ((height, width), whether it is grey) of one image."""
    if isinstance(source, (str, os.PathLike)) and file_header(source) is None:
        with open_image(source) as image:
            if image.mode in ("1", "L", "I;16", "F"):
                return (image.height, image.width), True
    pixels = decode_image(source, num_channels=None, name=name)
    grey = bool((pixels == pixels[:1]).all())
    return (int(pixels.shape[-2]), int(pixels.shape[-1])), grey
