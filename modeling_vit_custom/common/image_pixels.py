"""The most pixels that an image may have in this process: the --max_pixels of every command that decodes."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from ..image_limits_vit_custom import COMMAND_PIXELS, DEFAULT_LIMITS

MAX_PIXELS = DEFAULT_LIMITS.pixels
MAX_PIXELS_HELP = "Width times height of the largest image to be decoded, by its header"


@contextmanager
def pixels_allowed(count: int) -> Iterator[None]:
    """Let this process and its child processes decode images of up to `count` pixels; Pillow's limit follows.

    Pillow's warning about images beyond its own limit is not shown meanwhile: each is decoded, or refused by name.
    """
    before, of_pillow = os.environ.get(COMMAND_PIXELS), Image.MAX_IMAGE_PIXELS
    os.environ[COMMAND_PIXELS] = str(count)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = of_pillow
        os.environ.pop(COMMAND_PIXELS)
        if before is not None:
            os.environ[COMMAND_PIXELS] = before
