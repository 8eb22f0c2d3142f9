"""One decoder: any image source -> one checked uint8 tensor, for training, evaluation and serving alike.

Shapes: C channels, H height, W width. For a model of 1 or 3 channels, C is 1 grey, 2 grey + alpha, 3 RGB or 4 RGBA, and
after decoding 1 or 3. For a model of any other number (multispectral), C is that number throughout.

The steps, in this order:
    read       files, bytes and Pillow images by Pillow (image_files), turned upright by their EXIF orientation, one
               frame; web addresses only if allowed (image_download); arrays as they are (image_arrays)
    scale      by dtype, never by guessing from the values: bool, uint8, uint16 and float in [0, 1] have a known
               white; other integers are read as 8 bits and refused outside 0..255
    composite  transparent images, on a background colour
    channels   grey repeated to RGB, or RGB reduced to grey (ITU-R 601-2 luma in integers, as Pillow's "L")
A model of neither 1 nor 3 channels skips the last two: it gets the channels of an image unchanged, such as red, green,
blue and alpha (or near infrared), and an image with another number of channels is an error.
Everything else is refused with an error that names the image, the reason and the fix.
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
    MAX_CHANNELS,
    Wanted,
    composite,
    match_channels,
    scaled_already,
    tensor_to_array,
    to_channels_first,
    to_uint8,
    wrong_channels,
)
from .image_download_vit_custom import download_image, is_url, without_secrets
from .image_files_vit_custom import read_bytes, read_file, read_pillow
from .image_limits_vit_custom import (
    DEFAULT_LIMITS,
    ImageDecodingError,
    ImageLimits,
    check_size,
    in_python,
    report_unusual_size,
)

logger = logging.getLogger(__name__)

ON_ERROR = ("raise", "skip", "report")


def decode_image(
    source: Any,
    num_channels: int | None = 3,
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
            tensor ([H, W], [H, W, C] or [C, H, W]), or the {"bytes", "path"} record in which `datasets` stores an
            image. A web address only with `allow_urls`. A file may also be .npy (such an array, without pickled
            objects) or, if tifffile is installed, TIFF with any number of bands.
        num_channels: 3 for RGB or 1 for grey, to which other images are converted. With another number, an image must
            have exactly that many channels, which stay as they are: 4 for RGBA of a PNG, or RGB and near infrared.
            None, for display: arrays keep their channels, other images become RGB.
        background: RGB colour in 0..255 that shows through transparent pixels.
        name: what errors call the image, by default its path if it has one.
        input_data_format: "channels_first" or "channels_last", for arrays whose shape allows both.
        keep_float: return float arrays as float32, unscaled and only checked to be finite, for images that are
            scaled already. Other sources are unaffected.
        channel_order: "bgr" for arrays and tensors from OpenCV. Other sources know their own order.
        allow_urls: download http and https addresses, within `limits`. Anyone who can choose an address can then
            make this machine send a request.
        limits: sizes beyond which an image is refused before it is decoded.

    Returns:
        [C, H, W] uint8 with C = num_channels, in its own memory (float32 for a float array with `keep_float`).

    Raises:
        ImageDecodingError: the source cannot be read, or the meaning of its values is unclear.
        ValueError: `num_channels`, `background`, `input_data_format` or `channel_order` is impossible.
    """
    if num_channels is not None:
        check_num_channels(num_channels)
    check_background(background)
    check_channel_order(channel_order)
    wanted = Wanted(num_channels, _checked_layout(input_data_format), channel_order)
    label = name or source_name(source) or f"image given as {type(source).__name__}"
    try:
        pixels, is_array = _read(source, wanted, allow_urls, limits, label)  # [C, H, W], any dtype
        in_colours = wanted.in_colours or (num_channels is None and not is_array)
        if not in_colours and num_channels not in (None, len(pixels)):
            raise wrong_channels(len(pixels), num_channels)
        scaled = keep_float and pixels.dtype.kind == "f"
        pixels = scaled_already(pixels, in_colours) if scaled else to_uint8(pixels)
        if in_colours:
            pixels = match_channels(composite(pixels, background), num_channels or 3)
    except ImageDecodingError as error:
        raise ImageDecodingError(f"{label}: {error}") from error.__cause__
    _, height, width = pixels.shape
    report_unusual_size(height, width, label)
    return torch.from_numpy(np.array(pixels, order="C"))


@dataclass(frozen=True)
class DecodedImages:
    """A batch of which some images may be unreadable.

    images: the readable ones.   kept: the position of each in the batch.
    errors: position of each unreadable one -> why.
    """

    images: list[Any]
    kept: list[int]
    errors: dict[int, str]


def decode_images(sources: Iterable[Any], on_error: str = "raise", **settings: Any) -> DecodedImages:
    """Read many images, each as `decode_image(source, **settings)` does.

    Args:
        on_error: what happens at an unreadable image. "raise": reading stops. "skip": it is left out, and a warning
            names it. "report": it is left out, and only the `errors` of the result name it.

    Raises ImageDecodingError for the first unreadable image ("raise"), ValueError for impossible settings.
    """
    return decode_each(list(sources), lambda source, name: decode_image(source, name=name, **settings), on_error)


def decode_each(sources: Sequence[Any], decode: Callable[[Any, str | None], Any], on_error: str) -> DecodedImages:
    """Call `decode(source, name)` for every source; with several, the name holds the position. See `decode_images`."""
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
    """Return the path of an image source as text for messages, or None if it has none."""
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


def check_num_channels(num_channels: int) -> None:
    """Raise ValueError unless `num_channels` is a number of channels that a model may have."""
    if isinstance(num_channels, bool) or not isinstance(num_channels, int) or not 1 <= num_channels <= MAX_CHANNELS:
        raise ValueError(
            f"num_channels={num_channels!r}: give 1 (grey), 3 (RGB) or the number of an image's bands, up to "
            f"{MAX_CHANNELS:,}."
        )


def check_background(background: Sequence[int]) -> None:
    """Raise ValueError unless `background` is an RGB colour of three integers in 0..255."""
    colour = list(background) if isinstance(background, Sequence | np.ndarray) else [background]
    if len(colour) != 3 or not all(isinstance(v, int | np.integer) and 0 <= v <= 255 for v in colour):
        raise ValueError(f"background_color={background!r}: give red, green, blue as integers in 0..255.")


def check_channel_order(channel_order: str) -> None:
    """Raise ValueError unless `channel_order` is "rgb" or "bgr"."""
    if channel_order not in CHANNEL_ORDERS:
        raise ValueError(f"channel_order={channel_order!r}: give one of {', '.join(CHANNEL_ORDERS)}.")


def check_on_error(on_error: str) -> None:
    """Raise ValueError unless `on_error` is "raise", "skip" or "report"."""
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error={on_error!r}: give one of {', '.join(ON_ERROR)}.")


def _checked_layout(input_data_format: str | None) -> str | None:
    if input_data_format is None:
        return None
    for layout in (CHANNELS_FIRST, CHANNELS_LAST):
        if input_data_format == layout:  # transformers' ChannelDimension compares equal too
            return layout
    raise ValueError(f"input_data_format={input_data_format!r}: give {CHANNELS_FIRST!r} or {CHANNELS_LAST!r}.")


def _read(source: Any, wanted: Wanted, allow_urls: bool, limits: ImageLimits, name: str) -> tuple[np.ndarray, bool]:
    """([C, H, W] in its stored dtype, whether it is an array) from any source; warnings call it `name`."""
    if isinstance(source, dict) and set(source) == {"bytes", "path"}:
        source = source["path"] if source["bytes"] is None else source["bytes"]
    if is_url(source):
        if not allow_urls:
            raise ImageDecodingError(
                "only local files are read. Fix: download it first and give its path"
                f"{in_python(', or pass allow_urls=True')}."
            )
        source = download_image(source, limits)
    if isinstance(source, str | os.PathLike):
        return read_file(source, limits, name, wanted)
    if isinstance(source, bytes | bytearray | memoryview):
        return read_bytes(source, limits, name, wanted)
    if isinstance(source, Image.Image):
        return read_pillow(source, limits, name), False
    if isinstance(source, torch.Tensor):
        source = tensor_to_array(source)
    if isinstance(source, np.ndarray):
        pixels = to_channels_first(source, wanted)
        _, height, width = pixels.shape
        check_size(height, width, limits)
        return pixels, True
    raise ImageDecodingError(
        f"{type(source).__name__} is not an image source. Fix: give a path or the bytes of an image file"
        f"{in_python(', a Pillow image, a numpy array or a torch tensor')}."
    )
