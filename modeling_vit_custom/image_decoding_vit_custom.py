"""One decoder: any image source -> one checked uint8 tensor, for training, evaluation and serving alike.

Shapes: C channels (1 grey, 2 grey + alpha, 3 RGB, 4 RGBA; after decoding 1 or 3), H height, W width.

What happens, in this order:
    read       files, bytes and Pillow images by Pillow, upright by their EXIF orientation; first frame
    scale      by dtype, never by guessing from the values: bool, uint8, uint16 and float in [0, 1] have one
               known white; other integers are taken for 8 bits and refused outside 0..255
    composite  whatever has transparency, on a background colour
    channels   grey repeated to RGB, or RGB reduced to grey (ITU-R 601-2 luma in integers, as Pillow's "L")
Anything else is refused with an error that names the image, the reason and the fix.
"""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

logger = logging.getLogger(__name__)

CHANNELS_FIRST, CHANNELS_LAST = "channels_first", "channels_last"
EXTREME_ASPECT_RATIO = 20  # longer side / shorter side from which the first image is reported

_reported: set[str] = set()
_URL = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.\-]+://|data:)")
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {  # EXIF orientation -> what turns the stored pixels upright (Exif 2.3, table 6)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageDecodingError(ValueError):
    """An image that cannot be used as it is. The message names the image, the reason and the fix."""


def decode_image(
    source: Any,
    num_channels: int = 3,
    background: Sequence[int] = (255, 255, 255),
    name: str | None = None,
    input_data_format: str | None = None,
    keep_float: bool = False,
) -> torch.Tensor:
    """Read one image from any source.

    Args:
        source: a path (str or PathLike), the bytes of an image file, a Pillow image, a numpy array or torch
            tensor ([H, W], [H, W, C] or [C, H, W] with 1 to 4 channels), or the {"bytes", "path"} record in
            which `datasets` stores an image. Never a URL: the network is used only by explicit choice.
        num_channels: 3 for RGB, 1 for grey.
        background: RGB colour in 0..255 that shows through transparent pixels.
        name: what errors call the image; its path where it has one, if not given.
        input_data_format: "channels_first" or "channels_last", for arrays whose shape allows both.
        keep_float: pass float arrays through as float32, unscaled and only checked to be finite, for images
            that were scaled already. Other sources are unaffected.

    Returns:
        [num_channels, H, W] uint8, in memory of its own (float32 for a float array with `keep_float`).

    Raises:
        ImageDecodingError: the source cannot be read, or what its values mean is unclear.
        ValueError: `num_channels`, `background` or `input_data_format` is impossible.
    """
    if num_channels not in (1, 3):
        raise ValueError(f"num_channels={num_channels!r}: images are decoded to 1 (grey) or 3 (RGB) channels.")
    check_background(background)
    layout = _checked_layout(input_data_format)
    label = name or source_name(source) or f"image given as {type(source).__name__}"
    try:
        pixels = _read(source, layout)  # [C, H, W], any dtype
        if keep_float and pixels.dtype.kind == "f":
            pixels = _scaled_already(pixels)
        else:
            pixels = _composite(_to_uint8(pixels), background)
    except ImageDecodingError as error:
        raise ImageDecodingError(f"{label}: {error}") from error.__cause__
    height, width = pixels.shape[1:]
    if max(height, width) >= EXTREME_ASPECT_RATIO * min(height, width):
        distorted = "resizing such a shape to the model's input distorts it heavily"
        _report_once("aspect ratio", f"{label} is {height} x {width} pixels: {distorted}.")
    return torch.from_numpy(np.array(_match_channels(pixels, num_channels), order="C"))


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
    return text if len(text) <= 300 else f"{text[:120]}… ({len(text)} characters)"


def check_background(background: Sequence[int]) -> None:
    """Raise ValueError unless `background` is an RGB colour of three integers in 0..255."""
    colour = list(background) if isinstance(background, Sequence | np.ndarray) else [background]
    if len(colour) != 3 or not all(isinstance(v, int | np.integer) and 0 <= v <= 255 for v in colour):
        raise ValueError(f"background_color={background!r}: give red, green, blue as integers in 0..255.")


def _report_once(kind: str, message: str) -> None:
    """Log the first of its kind: what a whole data set has in common must not fill the screen."""
    if kind not in _reported:
        _reported.add(kind)
        logger.warning("%s Further ones are not reported.", message)


# ---------- read


def _read(source: Any, layout: str | None) -> np.ndarray:
    """Any source -> [C, H, W] in the dtype it is stored in."""
    if isinstance(source, dict) and set(source) == {"bytes", "path"}:
        source = source["path"] if source["bytes"] is None else source["bytes"]
    if isinstance(source, str) and _URL.match(source):
        raise ImageDecodingError("only local files are read. Fix: download it first and give its path.")
    if isinstance(source, str | os.PathLike):
        return _read_file(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return _read_stream(BytesIO(source), size=len(source))
    if isinstance(source, Image.Image):
        return _read_pillow(source)
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu()
        source = source.float().numpy() if source.dtype == torch.bfloat16 else source.numpy()
    if isinstance(source, np.ndarray):
        return _channels_first(source, layout)
    raise ImageDecodingError(
        f"{type(source).__name__} is not an image source. Fix: give a path, the bytes of an image file, "
        "a Pillow image, a numpy array or a torch tensor."
    )


def _read_file(path: str | os.PathLike) -> np.ndarray:
    try:
        with open(path, "rb") as stream:
            return _read_stream(stream, size=os.fstat(stream.fileno()).st_size)
    except FileNotFoundError as error:
        raise ImageDecodingError("there is no such file. Fix: check the path.") from error
    except OSError as error:
        raise ImageDecodingError(f"cannot be opened ({error.strerror}). Fix: check the path.") from error


def _read_stream(stream: BinaryIO, size: int) -> np.ndarray:
    if size == 0:
        raise ImageDecodingError("empty, 0 bytes. Fix: copy it again from its source, or remove it.")
    with _pillow_errors(), Image.open(stream) as image:
        return _read_pillow(image)


@contextmanager
def _pillow_errors() -> Iterator[None]:
    """Turn what Pillow raises (a dozen types, none naming the file) into ImageDecodingError."""
    try:
        yield
    except (ImageDecodingError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageDecodingError(
            "the content is not an image that Pillow reads. Fix: remove it, or convert it to PNG or JPEG "
            "(HEIC needs the package pillow-heif, registered before; SVG has to be drawn first)."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        fix = "shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        raise ImageDecodingError(f"refused before decoding: {error} Fix: {fix}.") from error
    except Exception as error:
        fix = "copy it again from its source, or remove it"
        raise ImageDecodingError(f"the image is damaged or cut off ({error}). Fix: {fix}.") from error


def _read_pillow(image: Image.Image) -> np.ndarray:
    """A Pillow image -> upright [C, H, W]: uint8, or uint16, int32, float32 where it is stored so."""
    with _pillow_errors():
        if _has_more_frames(image):
            _report_once("frames", f"{source_name(image) or 'An image'} has several frames: one is used.")
        from_file = image.format is not None
        image.load()
        image = _upright(image)
        if image.mode == "F":
            return np.asarray(image)[None]
        if image.mode == "I" or image.mode.startswith("I;16"):
            return _deep_grey(image, from_file)
        if image.mode == "La":
            image = image.convert("LA")
        if image.has_transparency_data:
            image = image.convert("RGBA")
        elif image.mode in ("1", "L"):
            return np.asarray(image.convert("L"))[None]
        elif image.mode != "RGB":
            image = _to_rgb(image)
        return np.moveaxis(np.asarray(image), -1, 0)


def _has_more_frames(image: Image.Image) -> bool:
    try:
        return getattr(image, "is_animated", False)  # only formats that can hold several frames have it
    except (OSError, ValueError, AttributeError, EOFError):  # loaded and closed: no longer known
        return False


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception as error:  # hand-made EXIF blocks fail in many ways; the pixels are sound
        logger.warning("%s: unreadable EXIF (%s); taken as upright.", source_name(image) or "An image", error)
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _to_rgb(image: Image.Image) -> Image.Image:
    try:
        return image.convert("RGB")  # palette, CMYK, YCbCr, HSV
    except ValueError as error:
        raise ImageDecodingError(f"{error}. Fix: convert it to RGB with an image program.") from error


def _deep_grey(image: Image.Image, from_file: bool) -> np.ndarray:
    """Pillow's integer grey modes -> [1 or 2, H, W] uint16 or int32.

    Pillow also reads 16-bit files as 32-bit mode "I" (PGM, some TIFF), so what a file holds in it is 16 bits
    deep; an image made in memory follows the rule for integer arrays.
    """
    grey = np.asarray(image)
    if image.mode == "I":
        if not from_file:
            return grey[None]
        low, high = grey.min(), grey.max()
        if low < 0 or high > 65535:
            raise ImageDecodingError(
                f"32-bit integer grey with values {low}..{high} has no known white. "
                "Fix: scale it to 16 or 8 bits, or to float in [0, 1]."
            )
    grey = grey.astype(np.uint16)
    transparent = image.info.get("transparency")
    if transparent is None:
        return grey[None]
    return np.stack([grey, np.where(grey == transparent, 0, 65535).astype(np.uint16)])


# ---------- arrays


def _checked_layout(input_data_format: str | None) -> str | None:
    if input_data_format is None:
        return None
    for layout in (CHANNELS_FIRST, CHANNELS_LAST):
        if input_data_format == layout:  # transformers' ChannelDimension compares equal too
            return layout
    raise ValueError(f"input_data_format={input_data_format!r}: give {CHANNELS_FIRST!r} or {CHANNELS_LAST!r}.")


def _channels_first(array: np.ndarray, layout: str | None) -> np.ndarray:
    """[H, W], [H, W, C] or [C, H, W] -> [C, H, W], refusing what could be either."""
    if array.ndim == 4:
        raise ImageDecodingError(f"shape {array.shape} is a batch. Fix: give its images one by one.")
    if array.ndim not in (2, 3):
        raise ImageDecodingError(
            f"shape {array.shape} is not an image. Fix: give [height, width] or that with 1 to 4 channels."
        )
    if 0 in array.shape:
        raise ImageDecodingError(f"shape {array.shape} holds no pixels. Fix: check how it was cropped.")
    if array.ndim == 2:
        return array[None]
    first, last = array.shape[0] in (1, 2, 3, 4), array.shape[2] in (1, 2, 3, 4)
    if layout is None and first and last:
        raise ImageDecodingError(
            f"shape {array.shape} can be read with channels first or last. "
            f"Fix: pass input_data_format={CHANNELS_FIRST!r} or {CHANNELS_LAST!r}."
        )
    layout = layout or (CHANNELS_FIRST if first else CHANNELS_LAST)
    if not (first if layout == CHANNELS_FIRST else last):
        raise ImageDecodingError(
            f"shape {array.shape} has no axis of 1 to 4 channels ({layout.replace('_', ' ')}). "
            "Fix: give grey, grey + alpha, RGB or RGBA, and the right input_data_format."
        )
    return array if layout == CHANNELS_FIRST else np.moveaxis(array, -1, 0)


def _finite(pixels: np.ndarray) -> np.ndarray:
    if not np.isfinite(pixels).all():
        raise ImageDecodingError("contains NaN or infinity. Fix: find the step that made them.")
    return pixels


def _scaled_already(pixels: np.ndarray) -> np.ndarray:
    if pixels.shape[0] in (2, 4):
        raise ImageDecodingError(
            "the colours behind an alpha channel are unknown once an image is scaled. "
            "Fix: composite it first, or give uint8 or values in [0, 1] with do_rescale=True."
        )
    return _finite(pixels).astype(np.float32)


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Scale by dtype to 0..255, rounding to nearest."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind == "b":
        return pixels.astype(np.uint8) * 255
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.dtype.kind == "f":
        low, high = _finite(pixels).min(), pixels.max()
        if low < -1e-4 or high > 1 + 1e-4:  # the slack is for float resizing, far below one grey level
            raise ImageDecodingError(
                f"float values must be in [0, 1], these are in [{low:.4g}, {high:.4g}]. Fix: divide by their "
                "white (255 for 8 bits) or cast to uint8; if they are scaled already, pass do_rescale=False "
                "(and do_normalize=False if they are normalised too)."
            )
        return np.rint(np.clip(pixels.astype(np.float32), 0, 1) * 255).astype(np.uint8)
    if pixels.dtype.kind in "iu":
        low, high = pixels.min(), pixels.max()
        if low < 0 or high > 255:
            raise ImageDecodingError(
                f"{pixels.dtype} values must be in 0..255, these are {low}..{high}. Fix: cast to uint16 if "
                "they are 16 bits deep, or scale to float in [0, 1]."
            )
        return pixels.astype(np.uint8)
    raise ImageDecodingError(f"{pixels.dtype} is no pixel type. Fix: give bool, uint8, uint16 or float.")


# ---------- composite, channels


def _composite(pixels: np.ndarray, background: Sequence[int]) -> np.ndarray:
    """[C, H, W] uint8 -> [1 or 3, H, W]: an alpha channel (C 2 or 4) is resolved."""
    if pixels.shape[0] in (1, 3):
        return pixels
    colour, alpha = pixels[:-1].astype(np.uint16), pixels[-1:].astype(np.uint16)
    behind = np.asarray(background, dtype=np.uint16).reshape(3, 1, 1)
    return ((colour * alpha + behind * (255 - alpha) + 127) // 255).astype(np.uint8)  # grey becomes RGB


def _match_channels(pixels: np.ndarray, num_channels: int) -> np.ndarray:
    """[1 or 3, H, W] -> [num_channels, H, W]."""
    if pixels.shape[0] == num_channels:
        return pixels
    if num_channels == 3:
        return np.broadcast_to(pixels, (3, *pixels.shape[1:]))
    if pixels.dtype == np.uint8:
        red, green, blue = pixels.astype(np.uint32)
        return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).astype(np.uint8)[None]
    red, green, blue = pixels
    return ((19595 * red + 38470 * green + 7471 * blue) / 65536)[None]
