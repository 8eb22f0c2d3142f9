"""Image files: checked against the limits by their header, read by Pillow (arrays by image_bands), upright, one frame.

Shapes: C channels (1 grey, 2 grey + alpha, 3 RGB, 4 RGBA; any number in arrays), H height, W width.
"""

import importlib
import logging
import os
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from typing import Any, BinaryIO, TypeVar

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from .image_arrays_vit_custom import Wanted, to_channels_first, wrong_channels
from .image_bands_vit_custom import NPY_START, TIFF_STARTS, ArrayHeader, array_header, read_npy, read_tiff
from .image_limits_vit_custom import (
    COMMAND_PIXELS,
    DEFAULT_LIMITS,
    ImageDecodingError,
    ImageLimits,
    allowed_pixels,
    check_size,
    report_once,
    way_out,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

# The formats that are decoded, by Pillow's names. Each one more is a decoder that a hostile file can reach.
FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "JPEG2000", "QOI", "AVIF",
    "HEIF", "JXL",  # by PLUGINS
)  # fmt: skip
# Format -> (module, package) of a plugin for Pillow, which is registered if it is installed.
PLUGINS = {"HEIF": ("pillow_heif", "pillow-heif"), "JXL": ("pillow_jxl", "pillow-jxl-plugin")}
MAX_JPEG_SCANS = 100  # encoders write about 10; each one more costs a pass over the whole image
MAX_BYTES_TO_COUNT = 2**22  # counting a file's frames reads all of it

_ORIENTATION_TAG = 0x0112
_SAMPLES_TAG = 0x0115  # of a TIFF: how many values a pixel has
_UPRIGHT = {  # EXIF orientation -> what turns the stored pixels upright (Exif 2.3, table 6)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# First bytes of files that a plugin reads -> its format, what the file is.
_BY_PLUGIN = {
    (b"ftypheic", b"ftypheix", b"ftypheim", b"ftyphevc", b"ftypmif1", b"ftypmsf1"): ("HEIF", "a HEIC photo"),
    (b"\xff\x0a", b"JXL "): ("JXL", "a JPEG XL image"),
}
# First bytes of files that Pillow does not read -> what the file is, the fix.
_UNREAD_FORMATS = {
    (b"ftypavif", b"ftypavis"): ("an AVIF image", "use a Pillow with AVIF (11.3 or later), or convert it to PNG"),
    (b"<svg", b"<?xml"): ("SVG or XML", "SVG has to be drawn first, to PNG"),
    (b"<!doctype", b"<html"): ("a web page", "open its address in a browser to see what it is"),
    (b"%pdf",): ("a PDF document", "draw its page to PNG first"),
    (b"%!ps", b"\xc5\xd0\xd3\xc6"): ("PostScript", "EPS has to be drawn first, to PNG"),
}


def open_image(source: str | os.PathLike | BinaryIO) -> ImageFile.ImageFile:
    """Open an image with Pillow, only in one of FORMATS; a command's --max_pixels raises Pillow's own limit.

    Raises ImageDecodingError beyond that limit, and as `Image.open` does: UnidentifiedImageError for other formats.
    """
    if COMMAND_PIXELS in os.environ and Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, allowed_pixels(DEFAULT_LIMITS))
    try:
        return Image.open(source, formats=accepted_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(error) from error


def _too_large(error: Exception | Warning) -> ImageDecodingError:
    fix = "shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it."
    if COMMAND_PIXELS in os.environ:
        fix = way_out("shrink it", "pixels")
    return ImageDecodingError(f"refused before decoding: {error} Fix: {fix}")


def accepted_formats() -> list[str]:
    """Return those of FORMATS that Pillow reads here, with the installed PLUGINS."""
    Image.init()
    register_plugins()
    return [name for name in FORMATS if name in Image.OPEN]


@cache
def register_plugins() -> None:
    """Register the installed PLUGINS with Pillow."""
    for name, (module, _) in PLUGINS.items():
        if name in Image.OPEN:
            continue
        try:
            plugin = importlib.import_module(module)
            if hasattr(plugin, "register_heif_opener"):
                plugin.register_heif_opener()
        except ImportError:
            continue
        except Exception as error:
            logger.warning("%s is installed and does not work (%s): %s images are not read.", module, error, name)


def plugin_fix(formats: Collection[str]) -> str:
    """Return the fix for images of these formats: install their plugin, if there is one, or convert them."""
    packages = [package for name, (_, package) in PLUGINS.items() if name in formats]
    return " or ".join([f"pip install {' '.join(packages)},"] * bool(packages) + ["convert to JPEG or PNG"])


def file_header(source: str | os.PathLike | bytes, limits: ImageLimits = DEFAULT_LIMITS) -> ArrayHeader | None:
    """Read the header of a .npy file, or of a TIFF that Pillow does not read; return None for other files.

    source: a path or the bytes of a file. Raises OSError, and ImageDecodingError for a header that is refused.
    """
    with BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as stream:
        return array_header(stream, limits) if _is_array(stream) else None


def _is_array(stream: BinaryIO, bands: bool = False) -> bool:
    """Whether image_bands reads a file: .npy, a TIFF that Pillow does not read, with `bands` any TIFF. Rewinds it."""
    start = stream.read(len(NPY_START))
    stream.seek(0)
    if start.startswith(NPY_START) or not start.startswith(TIFF_STARTS):
        return start.startswith(NPY_START)
    if bands:
        return True
    try:
        image: Any = open_image(stream)
        samples, shown = image.tag_v2.get(_SAMPLES_TAG, 1), len(image.getbands())
        return samples > 4 or (samples > shown and image.mode != "RGB")  # Pillow reads RGB with a fourth value as RGB
    except UnidentifiedImageError:
        return True
    except Exception:  # a damaged file: the reader will say so
        return False
    finally:
        stream.seek(0)


def read_file(path: str | os.PathLike, limits: ImageLimits, name: str, wanted: Wanted) -> tuple[np.ndarray, bool]:
    """Read an image file: ([C, H, W] in its stored dtype, whether it is an array); see `read_stream`.

    name: what warnings call the image, here and below. Raises ImageDecodingError.
    """
    return read_by(path, lambda stream, size: read_stream(stream, size, limits, name, wanted))


def read_by(path: str | os.PathLike, read: Callable[[BinaryIO, int], T]) -> T:
    """Return read(open file, its bytes). Raises ImageDecodingError for what cannot be opened or is no regular file."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ImageDecodingError("cannot be opened: it is no file. Fix: check the path.")
        with open(path, "rb") as stream:
            return read(stream, os.fstat(stream.fileno()).st_size)
    except FileNotFoundError as error:
        raise ImageDecodingError("there is no such file. Fix: check the path.") from error
    except (OSError, ValueError) as error:
        if isinstance(error, ImageDecodingError):
            raise
        reason = getattr(error, "strerror", None) or error  # a path holding a zero byte is a ValueError
        raise ImageDecodingError(f"cannot be opened ({reason}). Fix: check the path.") from error


def read_bytes(
    content: bytes | bytearray | memoryview, limits: ImageLimits, name: str, wanted: Wanted
) -> tuple[np.ndarray, bool]:
    """Read the bytes of an image file as `read_file` reads the file."""
    return read_stream(BytesIO(content), memoryview(content).nbytes, limits, name, wanted)


def read_stream(stream: BinaryIO, size: int, limits: ImageLimits, name: str, wanted: Wanted) -> tuple[np.ndarray, bool]:
    """Read an open image file of `size` bytes: ([C, H, W] in its stored dtype, whether it is an array).

    Arrays are .npy files, TIFFs that Pillow does not read and, for a model of neither 1 nor 3 channels, all TIFFs.
    Their channels have no fixed meaning. Other images have colours and perhaps an alpha channel.
    Raises ImageDecodingError.
    """
    check_bytes(size, limits)
    start = stream.read(64)
    stream.seek(0)
    if _is_array(stream, bands=wanted.num_channels is not None and not wanted.in_colours):
        if start.startswith(NPY_START):
            pixels = to_channels_first(read_npy(stream, size, limits), wanted)
            check_size(pixels.shape[1], pixels.shape[2], limits)
            return pixels, True
        bands = read_tiff(stream, limits, wanted.num_channels)
        if wanted.in_colours and len(bands) not in (1, 3):
            raise wrong_channels(len(bands), wanted.num_channels or 3)
        return bands, True
    with pillow_errors(start), open_image(stream) as image:
        return read_pillow(image, limits, name), False


def check_bytes(size: int, limits: ImageLimits) -> None:
    """Raise ImageDecodingError for an image file of `size` bytes that is empty or beyond `limits`."""
    if size == 0:
        raise ImageDecodingError("empty, 0 bytes. Fix: copy it again from its source, or remove it.")
    if size > limits.file_bytes:
        raise ImageDecodingError(
            f"refused before decoding: {size:,} bytes are more than {limits.file_bytes:,}. Fix: "
            + way_out("shrink it", "file_bytes")
        )


def _check_scans(image: Any) -> None:
    """Raise ImageDecodingError for an unloaded progressive JPEG whose scans would keep the decoder busy for hours."""
    stream = getattr(image, "fp", None)
    if stream is None or not image.info.get("progressive"):
        return
    position = stream.tell()
    stream.seek(0)
    scans = stream.read().count(b"\xff\xda")
    stream.seek(position)
    if scans > MAX_JPEG_SCANS:
        raise ImageDecodingError(
            f"refused before decoding: a progressive JPEG of {scans:,} scans, where {MAX_JPEG_SCANS} is plenty. "
            "Fix: remove it, or store it again if you trust it."
        )


@contextmanager
def pillow_errors(start: bytes = b"") -> Iterator[None]:
    """Turn the errors of Pillow (a dozen types, none naming the file) into ImageDecodingError.

    start: the first bytes of the file, which identify formats that Pillow does not read.
    """
    try:
        yield
    except ImageDecodingError:
        raise
    except UnidentifiedImageError as error:
        what, fix = _unread_format(start)
        raise ImageDecodingError(f"{what}. Fix: {fix}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(error) from error
    except MemoryError as error:
        raise ImageDecodingError("needs more memory than there is. Fix: shrink it, or remove it.") from error
    except Exception as error:
        fix = "copy it again from its source, or remove it"
        raise ImageDecodingError(f"the image is damaged or cut off ({error}). Fix: {fix}.") from error


def _unread_format(start: bytes) -> tuple[str, str]:
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    missing = {
        signs: (what, plugin_fix([name])) for signs, (name, what) in _BY_PLUGIN.items() if name not in Image.OPEN
    }
    for signs, (what, fix) in (missing | _UNREAD_FORMATS).items():
        if text.startswith(signs) or start[4:].startswith(signs):  # in box formats the length comes first
            return f"{what}, which Pillow does not read here", fix
    if name := _other_format(start):
        return f"an image of the format {name}, which is not read here", "convert it to PNG or JPEG"
    return "not an image that Pillow reads, or its header is damaged", "remove it, or convert it to PNG or JPEG"


def _other_format(start: bytes) -> str | None:
    """The format outside FORMATS that Pillow recognises by the first bytes of a file, or None; no more is read."""
    for name, (_, accepts) in Image.OPEN.items():
        try:
            if name not in FORMATS and accepts is not None and accepts(start[:16]) is True:
                return name
        except Exception:  # too few bytes
            continue
    return None


def read_pillow(image: Image.Image, limits: ImageLimits, name: str) -> np.ndarray:
    """Convert a Pillow image to upright [C, H, W]: uint8, or uint16, int32 or float32 if it is stored so."""
    with pillow_errors():
        check_size(image.height, image.width, limits)
        if image.format == "EPS":  # Pillow would run another program on it
            raise ImageDecodingError("EPS has to be drawn first. Fix: convert it to PNG.")
        _check_scans(image)
        _report_frames(image, name)
        from_file = image.format is not None
        image.load()
        check_size(image.height, image.width, limits)  # in some formats the header gives another size
        image = _upright(image, name)
        if image.mode == "F":
            return np.asarray(image)[None]
        if image.mode == "I" or image.mode.startswith("I;16"):
            return _deep_grey(image, from_file)
        if image.mode == "La":
            image = image.convert("LA")
        if image.has_transparency_data:
            image = image.convert("LA" if image.mode in ("L", "LA") else "RGBA")
        elif image.mode in ("1", "L"):
            return np.asarray(image.convert("L"))[None]
        elif image.mode != "RGB":
            image = image.convert("RGB")  # palette, CMYK, YCbCr, HSV, LAB
        return np.moveaxis(np.asarray(image), -1, 0)


def _report_frames(image: Any, name: str) -> None:
    """Warn that only one of several frames is used: the current one, by default the first."""
    try:
        if not getattr(image, "is_animated", False):  # only formats that can hold several frames have it
            return
        position = image.fp.tell()
        size = image.fp.seek(0, os.SEEK_END)
        image.fp.seek(position)
        frames = str(image.n_frames) if size <= MAX_BYTES_TO_COUNT else "several"
        current = image.tell() + 1
    except (OSError, ValueError, AttributeError, EOFError):  # loaded and closed, or damaged: no longer known
        frames, current = "several", 1
    report_once("frames", f"{name}: of its {frames} frames number {current} is used, no other.")


def _upright(image: Image.Image, name: str) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception as error:  # hand-made EXIF blocks fail in many ways; the pixels are sound
        logger.warning("%s: unreadable EXIF (%s); taken as upright.", name, error)
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _deep_grey(image: Image.Image, from_file: bool) -> np.ndarray:
    """Pillow's integer grey modes as [1 or 2, H, W] uint16 or int32.

    Pillow reads some 16-bit files (PGM, some TIFF) as 32-bit mode "I", so an image of that mode from a file is 16 bits
    deep. An image made in memory follows the rule for integer arrays.
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
