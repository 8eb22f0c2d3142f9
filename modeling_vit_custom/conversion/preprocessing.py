"""Image processor settings that a source documents but does not store."""

from collections.abc import Callable
from typing import Any

from .engine import State
from .family import Source
from .structure import square_image_size

# Side of the model's square images (0 if unknown) → (image processor settings, the same in words).
Preparation = Callable[[int], tuple[dict[str, Any], str]]

IMAGENET: dict[str, Any] = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
OPENAI: dict[str, Any] = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
BILINEAR, BICUBIC, AREA = 2, 3, 4  # Pillow's numbers; its box filter averages the area that a pixel covers
_NAMES = {BILINEAR: "bilinear", BICUBIC: "bicubic", AREA: "by area"}


def documented(prepare: Preparation, source: Source, tensors: State, whose: str) -> tuple[dict[str, Any], list[str]]:
    """Return (image processor settings, notes): the source's own, else the family's documented ones, with a note."""
    if source.processor:
        return dict(source.processor), []
    settings, said = prepare(image_side(source, tensors))
    return settings, [f"preprocessing: {said}; {colours_in_words(settings)}: {whose}"]


def image_side(source: Source, tensors: State) -> int:
    """Return the side of the model's square images in pixels; 0 if they are not square or the size is unknown."""
    kernel = tensors["vit.embeddings.patch_embeddings.projection.weight"]
    stated = source.flags.get("image_size") or (source.config.get("vision_config") or source.config).get("image_size")
    size = stated or square_image_size(tensors, (kernel.shape[2], kernel.shape[3])) or 0
    height, width = (size, size) if isinstance(size, int) else size
    return height if height == width else 0


def squash(colours: dict[str, Any], resample: int, **others: Any) -> Preparation:
    """Build the preparation that resizes the whole image to the model's size, ignoring its aspect ratio."""
    said = f"the whole image resized ({_NAMES[resample]})"
    return lambda side: ({**colours, "resample": resample, **others}, said)


def resize_and_crop(
    colours: dict[str, Any],
    resample: int,
    sizes: Callable[[int], tuple[int, int]] = lambda side: (int(side * 256 / 224), side),
    whole: bool = False,
    **others: Any,
) -> Preparation:
    """Build the preparation that resizes the shorter edge, then crops the central square.

    sizes: side → (shorter edge, side of the square).   whole: resize both edges, to a square.
    """

    def prepare(side: int) -> tuple[dict[str, Any], str]:
        if not side:
            return squash(colours, resample, **others)(side)
        resized, cropped = sizes(side)
        settings = {
            "resample": resample,
            "size": {"height": resized, "width": resized} if whole else {"shortest_edge": resized},
            "do_center_crop": True,
            "crop_size": {"height": cropped, "width": cropped},
        }
        edge = "both edges" if whole else "the shorter edge"
        said = f"{edge} resized to {resized} ({_NAMES[resample]}), {cropped} pixels cropped in the middle"
        return {**colours, **settings, **others}, said

    return prepare


def colours_in_words(settings: dict[str, Any]) -> str:
    """Return in words which mean and standard deviation of the three above these settings have."""
    for name, known in (("ImageNet's", IMAGENET), ("CLIP's", OPENAI)):
        if known.items() <= settings.items():
            return f"{name} mean and standard deviation"
    return "mean and standard deviation 0.5"
