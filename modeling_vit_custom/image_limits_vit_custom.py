"""How large an image may be, checked before it is decoded, and the error that says why one cannot be used."""

import logging
from dataclasses import dataclass

logger = logging.getLogger(__name__)

UNUSUAL_ASPECT_RATIO = 20  # longer side / shorter side from which the first image is reported

_reported: set[str] = set()


class ImageDecodingError(ValueError):
    """An image that cannot be used as it is. The message names the image, the reason and the fix."""


@dataclass(frozen=True)
class ImageLimits:
    """What is refused before it costs memory or time; give another instance to allow more.

    pixels: width times height, of arrays too. The default is that of Pillow, whose own limit stays in force
        beside this one: beyond twice the default, `PIL.Image.MAX_IMAGE_PIXELS` has to be raised as well.
    aspect_ratio: longer side / shorter side; beyond it, resizing leaves nothing to recognise.
    file_bytes: of an image file, or of the bytes of one.
    download_bytes, download_seconds: of one URL, all redirects included.
    private_addresses: whether a URL may lead to this machine or its local network.
    """

    pixels: int = 89_478_485
    aspect_ratio: float = 100
    file_bytes: int = 2**28
    download_bytes: int = 2**25
    download_seconds: float = 20
    private_addresses: bool = False


DEFAULT_LIMITS = ImageLimits()


def check_size(height: int, width: int, limits: ImageLimits) -> None:
    """Raise ImageDecodingError for an image of `height` x `width` pixels that is empty or beyond `limits`."""
    longer, shorter = max(height, width), min(height, width)
    if shorter < 1:
        raise ImageDecodingError(f"{height} x {width}: it holds no pixels. Fix: check how it was cropped.")
    if height * width > limits.pixels:
        raise ImageDecodingError(
            f"refused before decoding: {height} x {width} is more than {limits.pixels:,} pixels. Fix: shrink it, "
            "or raise ImageLimits(pixels=…) if you trust it."
        )
    if longer > limits.aspect_ratio * shorter:
        raise ImageDecodingError(
            f"{height} x {width} pixels: one side is more than {limits.aspect_ratio:g} times the other, so "
            "resizing leaves nothing to recognise. Fix: crop it, or raise ImageLimits(aspect_ratio=…)."
        )


def report_unusual_size(height: int, width: int, label: str) -> None:
    """Say once that images are so long, or so small, that little is left to recognise."""
    if max(height, width) == 1:
        report_once("one pixel", f"{label} is a single pixel, which resizing spreads over the whole input.")
    elif max(height, width) >= UNUSUAL_ASPECT_RATIO * min(height, width):
        distorted = "resizing such a shape to the model's input distorts it heavily"
        report_once("aspect ratio", f"{label} is {height} x {width} pixels: {distorted}.")


def report_once(kind: str, message: str) -> None:
    """Log the first of its kind: what a whole data set has in common must not fill the screen."""
    if kind not in _reported:
        _reported.add(kind)
        logger.warning("%s Further ones are not reported.", message)
