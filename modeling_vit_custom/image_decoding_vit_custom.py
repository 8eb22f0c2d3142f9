"""One decoder: any image source -> one checked uint8 tensor, for training, evaluation and serving alike.

Shapes: C channels (1 grey, 2 grey + alpha, 3 RGB, 4 RGBA; after decoding 1 or 3), H height, W width.

What happens, in this order:
    read       files, bytes and Pillow images by Pillow (image_files), upright by their EXIF orientation, one
               frame; addresses only where they are allowed (image_download); arrays as they are (image_arrays)
    scale      by dtype, never by guessing from the values: bool, uint8, uint16 and float in [0, 1] have one
               known white; other integers are taken for 8 bits and refused outside 0..255
    composite  whatever has transparency, on a background colour
    channels   grey repeated to RGB, or RGB reduced to grey (ITU-R 601-2 luma in integers, as Pillow's "L")
Anything else is refused with an error that names the image, the reason and the fix.
"""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from .image_arrays_vit_custom import (
    CHANNEL_ORDERS,
    CHANNELS_FIRST,
    CHANNELS_LAST,
    composite,
    match_channels,
    scaled_already,
    tensor_to_array,
    to_channels_first,
    to_uint8,
)
from .image_download_vit_custom import download_image, is_url, without_secrets
from .image_files_vit_custom import read_bytes, read_file, read_pillow
from .image_limits_vit_custom import DEFAULT_LIMITS, ImageDecodingError, ImageLimits, check_size, report_unusual_size

logger = logging.getLogger(__name__)

ON_ERROR = ("raise", "skip", "report")


def decode_image(
    source: Any,
    num_channels: int = 3,
    background: Sequence[int] = (255, 255, 255),
    name: str | None = None,
    input_data_format: str | None = None,
    keep_float: bool = False,
    channel_order: str = "rgb",
    allow_urls: bool = False,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> torch.Tensor:
    """Read one image from any source.

    Args:
        source: a path (str or PathLike), the bytes of an image file, a Pillow image, a numpy array or torch
            tensor ([H, W], [H, W, C] or [C, H, W] with 1 to 4 channels), or the {"bytes", "path"} record in
            which `datasets` stores an image. An address only with `allow_urls`.
        num_channels: 3 for RGB, 1 for grey.
        background: RGB colour in 0..255 that shows through transparent pixels.
        name: what errors call the image; its path where it has one, if not given.
        input_data_format: "channels_first" or "channels_last", for arrays whose shape allows both.
        keep_float: pass float arrays through as float32, unscaled and only checked to be finite, for images
            that were scaled already. Other sources are unaffected.
        channel_order: "bgr" for arrays and tensors as OpenCV makes them. Other sources know their own order.
        allow_urls: download http and https addresses, within `limits`. Whoever can choose an address then
            makes this machine send a request.
        limits: sizes beyond which an image is refused before it is decoded.

    Returns:
        [num_channels, H, W] uint8, in memory of its own (float32 for a float array with `keep_float`).

    Raises:
        ImageDecodingError: the source cannot be read, or what its values mean is unclear.
        ValueError: `num_channels`, `background`, `input_data_format` or `channel_order` is impossible.
    """
    if num_channels not in (1, 3):
        raise ValueError(f"num_channels={num_channels!r}: images are decoded to 1 (grey) or 3 (RGB) channels.")
    check_background(background)
    check_channel_order(channel_order)
    layout = _checked_layout(input_data_format)
    label = name or source_name(source) or f"image given as {type(source).__name__}"
    try:
        pixels = _read(source, layout, channel_order, allow_urls, limits)  # [C, H, W], any dtype
        if keep_float and pixels.dtype.kind == "f":
            pixels = scaled_already(pixels)
        else:
            pixels = composite(to_uint8(pixels), background)
    except ImageDecodingError as error:
        raise ImageDecodingError(f"{label}: {error}") from error.__cause__
    _, height, width = pixels.shape
    report_unusual_size(height, width, label)
    return torch.from_numpy(np.array(match_channels(pixels, num_channels), order="C"))


@dataclass(frozen=True)
class DecodedImages:
    """A batch, some of which may have been unreadable.

    images: those that were read.   kept: the position of each in the batch.
    errors: the position of each other one -> why it could not be read.
    """

    images: list[Any]
    kept: list[int]
    errors: dict[int, str]


def decode_images(sources: Iterable[Any], on_error: str = "raise", **settings: Any) -> DecodedImages:
    """Read many images, each as `decode_image(source, **settings)` does.

    Args:
        on_error: what an unreadable image does. "raise": it stops all. "skip": it is left out, and a warning
            names it. "report": it is left out, and only the `errors` of the result name it.

    Raises ImageDecodingError for the first unreadable image ("raise"), ValueError for impossible settings.
    """
    return decode_each(list(sources), lambda source, name: decode_image(source, name=name, **settings), on_error)


def decode_each(sources: Sequence[Any], decode: Callable[[Any, str | None], Any], on_error: str) -> DecodedImages:
    """`decode(source, name)` for every source; of several, the name holds the position. See `decode_images`."""
    check_on_error(on_error)
    decoded = DecodedImages([], [], {})
    for index, source in enumerate(sources):
        name = source_name(source)
        if len(sources) > 1:
            name = f"image {index} of the batch" + (f" ({name})" if name else "")
        try:
            decoded.images.append(decode(source, name))
            decoded.kept.append(index)
        except ImageDecodingError as error:
            if on_error == "raise":
                raise
            decoded.errors[index] = str(error)
            if on_error == "skip":
                logger.warning("LEFT OUT: %s", error)
    return decoded


def source_name(source: Any) -> str | None:
    """The path of an image source as text for messages, or None where it has none."""
    if isinstance(source, dict):
        source = source.get("path")
    elif isinstance(source, Image.Image):
        source = getattr(source, "filename", None) or None  # an attribute of images opened from a file
    if not isinstance(source, str | os.PathLike):
        return None
    text = os.fspath(source)
    text = text if isinstance(text, str) else os.fsdecode(text)
    text = without_secrets(text) if is_url(text) else text
    return text if len(text) <= 300 else f"{text[:120]}… ({len(text)} characters)"


def check_background(background: Sequence[int]) -> None:
    """Raise ValueError unless `background` is an RGB colour of three integers in 0..255."""
    colour = list(background) if isinstance(background, Sequence | np.ndarray) else [background]
    if len(colour) != 3 or not all(isinstance(v, int | np.integer) and 0 <= v <= 255 for v in colour):
        raise ValueError(f"background_color={background!r}: give red, green, blue as integers in 0..255.")


def check_channel_order(channel_order: str) -> None:
    """Raise ValueError unless it is "rgb" or "bgr"."""
    if channel_order not in CHANNEL_ORDERS:
        raise ValueError(f"channel_order={channel_order!r}: give one of {', '.join(CHANNEL_ORDERS)}.")


def check_on_error(on_error: str) -> None:
    """Raise ValueError unless it is "raise", "skip" or "report"."""
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error={on_error!r}: give one of {', '.join(ON_ERROR)}.")


def _checked_layout(input_data_format: str | None) -> str | None:
    if input_data_format is None:
        return None
    for layout in (CHANNELS_FIRST, CHANNELS_LAST):
        if input_data_format == layout:  # transformers' ChannelDimension compares equal too
            return layout
    raise ValueError(f"input_data_format={input_data_format!r}: give {CHANNELS_FIRST!r} or {CHANNELS_LAST!r}.")


def _read(source: Any, layout: str | None, channel_order: str, allow_urls: bool, limits: ImageLimits) -> np.ndarray:
    """Any source -> [C, H, W] in the dtype it is stored in."""
    if isinstance(source, dict) and set(source) == {"bytes", "path"}:
        source = source["path"] if source["bytes"] is None else source["bytes"]
    if is_url(source):
        if not allow_urls:
            raise ImageDecodingError(
                "only local files are read. Fix: download it first and give its path, or pass allow_urls=True."
            )
        source = download_image(source, limits)
    if isinstance(source, str | os.PathLike):
        return read_file(source, limits)
    if isinstance(source, bytes | bytearray | memoryview):
        return read_bytes(source, limits)
    if isinstance(source, Image.Image):
        return read_pillow(source, limits)
    if isinstance(source, torch.Tensor):
        source = tensor_to_array(source)
    if isinstance(source, np.ndarray):
        pixels = to_channels_first(source, layout, channel_order)
        _, height, width = pixels.shape
        check_size(height, width, limits)
        return pixels
    raise ImageDecodingError(
        f"{type(source).__name__} is not an image source. Fix: give a path, the bytes of an image file, "
        "a Pillow image, a numpy array or a torch tensor."
    )
