"""Sizes in whole pixels, and the resizing of image libraries other than Pillow.

Shapes: C channels, H×W → h×w pixels; n → m pixels of one axis.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.image_utils import PILImageResampling, get_image_size_for_max_height_width

# How to round the longer edge, where `size` gives the shorter one, and half the margin of a crop.
ROUNDING: dict[str, tuple[Callable[[float], int], Callable[[float], int]]] = {
    "floor": (math.floor, math.floor),  # transformers
    "round_crop": (math.floor, round),  # torchvision, timm
    "round_edge": (round, math.floor),  # big_vision
}
_PLAIN = {PILImageResampling.BILINEAR: "bilinear", PILImageResampling.BICUBIC: "bicubic"}


def is_own(resample: int, antialias: bool) -> bool:
    """Return whether to use `resize_own`, because Pillow or torchvision does not resize this way."""
    return resample == PILImageResampling.BOX or (not antialias and resample != PILImageResampling.NEAREST)


def check_resizing(resample: int | None, antialias: bool, rounding: str) -> None:
    """Raise ValueError for settings that cannot resize any image."""
    if rounding not in ROUNDING:
        raise ValueError(f"rounding={rounding!r}: give one of {', '.join(ROUNDING)}.")
    if resample is not None and resample not in list(PILImageResampling):
        filters = ", ".join(f"{f.value} {f.name.lower()}" for f in PILImageResampling)
        raise ValueError(f"resample={resample!r}: give one of {filters}.")
    can_do_without = (*_PLAIN, PILImageResampling.NEAREST, PILImageResampling.BOX, None)
    if not antialias and resample not in can_do_without:
        raise ValueError(f"antialias=False: resample={resample} always antialiases; give 2 (bilinear) or 3 (bicubic).")


def target_size(image_hw: Sequence[int], size: Any, rounding: str) -> tuple[int, int]:
    """Return the size (h, w) to which the rules of `size` resize an image of (H, W) pixels."""
    height, width = image_hw
    if size.shortest_edge and size.longest_edge:
        return get_size_with_aspect_ratio((height, width), size.shortest_edge, size.longest_edge)
    if size.shortest_edge:
        to_int, _ = ROUNDING[rounding]
        longer = to_int(size.shortest_edge * max(height, width) / min(height, width))
        return (size.shortest_edge, longer) if height <= width else (longer, size.shortest_edge)
    if size.max_height and size.max_width:
        return get_image_size_for_max_height_width((height, width), size.max_height, size.max_width)
    return size.height, size.width


def crop_corner(image_hw: Sequence[int], size: Any, rounding: str) -> tuple[int, int]:
    """Return (top, left) of the centre crop of an image that is at least as large."""
    _, to_int = ROUNDING[rounding]
    height, width = image_hw
    return to_int((height - size.height) / 2), to_int((width - size.width) / 2)


def resize_own(image: Any, hw: tuple[int, int], resample: int) -> Any:
    """Resize [..., C, H, W] to [..., C, h, w] in float32, both tensors and arrays; uint8 is rounded at the end.

    BOX is the mean over the area of an output pixel, with the input pixels at its border counted by their part, as
    TensorFlow's "area". The other filters are bilinear and bicubic without antialiasing, with half-pixel centres.
    """
    given = torch.as_tensor(image)
    pixels = given.to(torch.float32)
    if resample == PILImageResampling.BOX:
        rows, columns = (_area(n, m).to(pixels) for n, m in zip(pixels.shape[-2:], hw, strict=True))
        resized = rows @ (pixels @ columns.T)
    else:
        whole = pixels.reshape(-1, 1, *pixels.shape[-2:])
        resized = interpolate(whole, size=hw, mode=_PLAIN[PILImageResampling(resample)], align_corners=False)
        resized = resized.reshape(*pixels.shape[:-2], *hw)
    if given.dtype == torch.uint8:
        resized = resized.round().clamp(0, 255).to(torch.uint8)
    return resized.numpy() if isinstance(image, np.ndarray) else resized


def _area(n: int, m: int) -> torch.Tensor:
    """[m, n]: the part of each output pixel that each input pixel covers; rows sum to 1."""
    step = n / m
    start = torch.arange(m, dtype=torch.float64)[:, None] * step
    left = torch.arange(n, dtype=torch.float64)
    overlap = torch.minimum(left + 1, start + step) - torch.maximum(left, start)
    return overlap.clamp(min=0) / step
