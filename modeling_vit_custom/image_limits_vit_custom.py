"""Limits on images, checked before they are decoded, and the error that says why an image cannot be used."""

import logging
import os
from dataclasses import dataclass

logger = logging.getLogger(__name__)

UNUSUAL_ASPECT_RATIO = 20  # longer side / shorter side from which the first image is reported

# Environment variable that holds a command's --max_pixels, also for its child processes. It is empty if the person who
# gives an image cannot raise it, such as a visitor of a page.
COMMAND_PIXELS = "VIT_CUSTOM_MAX_PIXELS"

_reported: set[str] = set()


class ImageDecodingError(ValueError):
    """An image that cannot be used as it is. The message names the image, the reason and the fix."""


@dataclass(frozen=True)
class ImageLimits:
    """Upper limits, checked before an image costs memory or time; pass another instance to allow more.

    pixels: width times height, of arrays too. The default is that of Pillow, whose own limit applies as well: for more
        than twice the default, raise `PIL.Image.MAX_IMAGE_PIXELS` too.
    aspect_ratio: longer side / shorter side; beyond it, resizing leaves nothing to recognise.
    file_bytes: size of an image file, also if it is given as bytes.
    download_bytes, download_seconds: of one URL, with all redirects.
    private_addresses: whether a URL may lead to this machine or its local network.
    """

    pixels: int = 89_478_485
    aspect_ratio: float = 100
    file_bytes: int = 2**28
    download_bytes: int = 2**25
    download_seconds: float = 20
    private_addresses: bool = False


DEFAULT_LIMITS = ImageLimits()


def allowed_pixels(limits: ImageLimits) -> int:
    """Return how many pixels an image may have; a command's --max_pixels replaces the default."""
    limit = os.environ.get(COMMAND_PIXELS)
    return int(limit) if limit and limits.pixels == ImageLimits.pixels else limits.pixels


def in_python(advice: str) -> str:
    """Return `advice` for a caller in Python, and "" for the user of a command or a page."""
    return "" if COMMAND_PIXELS in os.environ else advice


def way_out(fix: str, field: str) -> str:
    """Return `fix` and how to raise a limit: in Python by its field, on a command line by a flag, if there is one."""
    if (limit := os.environ.get(COMMAND_PIXELS)) is None:
        return f"{fix}, or raise ImageLimits({field}=…) if you trust it."
    return f"{fix}, or raise --max_pixels if you trust it." if limit and field == "pixels" else f"{fix}."


def check_size(height: int, width: int, limits: ImageLimits) -> None:
    """Raise ImageDecodingError for an image of `height` x `width` pixels that is empty or beyond `limits`."""
    longer, shorter = max(height, width), min(height, width)
    if shorter < 1:
        raise ImageDecodingError(f"{height} x {width}: it holds no pixels. Fix: check how it was cropped.")
    if height * width > (most := allowed_pixels(limits)):
        raise ImageDecodingError(
            f"refused before decoding: {height} x {width} is more than {most:,} pixels. Fix: "
            + way_out("shrink it", "pixels")
        )
    if longer > limits.aspect_ratio * shorter:
        raise ImageDecodingError(
            f"{height} x {width} pixels: one side is more than {limits.aspect_ratio:g} times the other, so "
            "resizing leaves nothing to recognise. Fix: " + way_out("crop it", "aspect_ratio")
        )


def report_unusual_size(height: int, width: int, label: str) -> None:
    """Warn once of images that are so long, or so small, that little is left to recognise."""
    if max(height, width) == 1:
        report_once("one pixel", f"{label} is a single pixel, which resizing spreads over the whole input.")
    elif max(height, width) >= UNUSUAL_ASPECT_RATIO * min(height, width):
        distorted = "resizing such a shape to the model's input distorts it heavily"
        report_once("aspect ratio", f"{label} is {height} x {width} pixels: {distorted}.")


def report_once(kind: str, message: str) -> None:
    """Log only the first message of its kind, so that a fault of a whole data set does not fill the screen."""
    if kind not in _reported:
        _reported.add(kind)
        logger.warning("%s Further ones are not reported.", message)
