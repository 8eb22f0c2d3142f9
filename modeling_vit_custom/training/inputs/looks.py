"""How large training images are and whether they have colours, from so few of them that it takes no time."""

import os
from typing import Any

import numpy as np

from ...data.examples import Examples
from ...image_decoding_vit_custom import decode_image
from ...image_files_vit_custom import open_image

LOOKED_AT = 200  # images


def looks_of(examples: Examples) -> tuple[int, bool]:
    """(pixels of the shorter side, the median; whether no image has colours). Raises DecodeError."""
    some = np.linspace(0, len(examples) - 1, min(LOOKED_AT, len(examples))).astype(int)
    opened = [shape_of(examples.images[i], examples.names[i]) for i in some]
    return int(np.median([min(size) for size, _ in opened])), all(grey for _, grey in opened)


def shape_of(source: Any, name: str) -> tuple[tuple[int, int], bool]:
    """((height, width), whether it is grey)"""
    if isinstance(source, (str, os.PathLike)):
        with open_image(source) as image:
            if image.mode in ("1", "L", "I;16", "F"):
                return (image.height, image.width), True
    pixels = decode_image(source, name=name)
    grey = pixels.shape[0] == 1 or bool((pixels == pixels[:1]).all())
    return (int(pixels.shape[-2]), int(pixels.shape[-1])), grey
