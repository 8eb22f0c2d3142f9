"""Image processor settings that sources document in words instead of storing them."""

from typing import Any

from .engine import State
from .family import Source
from .structure import square_image_size

IMAGENET: dict[str, Any] = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
BILINEAR, BICUBIC = 2, 3  # as Pillow numbers them


def image_side(source: Source, tensors: State) -> int:
    """The shorter side of the images a model is for, in pixels; 0 where neither a flag nor its positions tell."""
    kernel = tensors["vit.embeddings.patch_embeddings.projection.weight"]
    size = source.flags.get("image_size") or square_image_size(tensors, (kernel.shape[2], kernel.shape[3])) or 0
    return size if isinstance(size, int) else min(size)


def squash(resample: int) -> dict[str, Any]:
    """The whole image resized to the model's size, whatever its proportions."""
    return {"resample": resample}


def resize_and_crop(resized: int, side: int, resample: int) -> dict[str, Any]:
    """The shorter edge resized to `resized` pixels, then the square of `side` pixels in the middle."""
    if not side:
        return squash(resample)
    return {
        "resample": resample,
        "size": {"shortest_edge": resized},
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
    }
