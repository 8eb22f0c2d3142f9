"""Image files through Pillow: header checked against the limits, upright, one frame.

Shapes: C channels (1 grey, 2 grey + alpha, 3 RGB, 4 RGBA), H height, W width.
"""

import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from .image_limits_vit_custom import ImageDecodingError, ImageLimits, check_size, report_once

logger = logging.getLogger(__name__)

# What is decoded, as Pillow names it. Each further format is one more decoder that a hostile file can reach.
FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "JPEG2000", "QOI", "AVIF",
    "HEIF", "JXL",  # by plugins
)  # fmt: skip
MAX_JPEG_SCANS = 100  # encoders write about 10; each one more costs a pass over the whole image
MAX_BYTES_TO_COUNT = 2**22  # counting a file's frames reads all of it

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
# How a file starts that Pillow does not read -> what it is, how to go on.
_UNREAD_FORMATS = {
    (b"ftypavif", b"ftypavis"): ("an AVIF image", "use a Pillow with AVIF (11.3 or later), or convert it to PNG"),
    (b"ftypheic", b"ftypheix", b"ftypheim", b"ftyphevc", b"ftypmif1", b"ftypmsf1"): (
        "a HEIC photo",
        "install pillow-heif and call pillow_heif.register_heif_opener() first, or convert it to JPEG",
    ),
    (b"\xff\x0a", b"JXL "): ("a JPEG XL image", "install pillow-jxl-plugin and import pillow_jxl first"),
    (b"<svg", b"<?xml"): ("SVG or XML", "SVG has to be drawn first, to PNG"),
    (b"<!doctype", b"<html"): ("a web page", "open its address in a browser to see what it is"),
    (b"%pdf",): ("a PDF document", "draw its page to PNG first"),
    (b"%!ps", b"\xc5\xd0\xd3\xc6"): ("PostScript", "EPS has to be drawn first, to PNG"),
}


def open_image(source: str | os.PathLike | BinaryIO) -> ImageFile.ImageFile:
    """Pillow's `Image.open` of FORMATS alone; raises what that raises, UnidentifiedImageError for another format."""
    return Image.open(source, formats=accepted_formats())


def accepted_formats() -> list[str]:
    """Those of FORMATS that this Pillow reads, with the plugins that have registered."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def read_file(path: str | os.PathLike, limits: ImageLimits) -> np.ndarray:
    """The image in a file -> [C, H, W] in the dtype it is stored in; raises ImageDecodingError."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ImageDecodingError("cannot be opened: it is no file. Fix: check the path.")
        with open(path, "rb") as stream:
            return read_stream(stream, os.fstat(stream.fileno()).st_size, limits)
    except FileNotFoundError as error:
        raise ImageDecodingError("there is no such file. Fix: check the path.") from error
    except (OSError, ValueError) as error:
        if isinstance(error, ImageDecodingError):
            raise
        reason = getattr(error, "strerror", None) or error  # a path holding a zero byte is a ValueError
        raise ImageDecodingError(f"cannot be opened ({reason}). Fix: check the path.") from error


def read_bytes(content: bytes | bytearray | memoryview, limits: ImageLimits) -> np.ndarray:
    """The bytes of an image file -> [C, H, W] in the dtype it is stored in; raises ImageDecodingError."""
    return read_stream(BytesIO(content), memoryview(content).nbytes, limits)


def read_stream(stream: BinaryIO, size: int, limits: ImageLimits) -> np.ndarray:
    """An open file of `size` bytes -> [C, H, W] in the dtype it is stored in; raises ImageDecodingError."""
    if size == 0:
        raise ImageDecodingError("empty, 0 bytes. Fix: copy it again from its source, or remove it.")
    if size > limits.file_bytes:
        raise ImageDecodingError(
            f"refused before decoding: {size:,} bytes are more than {limits.file_bytes:,}. Fix: shrink it, or "
            "raise ImageLimits(file_bytes=…) if you trust it."
        )
    start = stream.read(64)
    stream.seek(0)
    with _pillow_errors(start), open_image(stream) as image:
        return read_pillow(image, limits)


def _check_scans(image: Any) -> None:
    """Refuse a progressive JPEG, not yet loaded, whose scans would keep the decoder busy for hours."""
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
            "Fix: remove it, or store it anew if you trust it."
        )


@contextmanager
def _pillow_errors(start: bytes = b"") -> Iterator[None]:
    """Turn what Pillow raises (a dozen types, none naming the file) into ImageDecodingError.

    `start`: the first bytes of the file, which tell formats that Pillow does not read.
    """
    try:
        yield
    except ImageDecodingError:
        raise
    except UnidentifiedImageError as error:
        what, fix = _unread_format(start)
        raise ImageDecodingError(f"{what}. Fix: {fix}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        fix = "shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        raise ImageDecodingError(f"refused before decoding: {error} Fix: {fix}.") from error
    except MemoryError as error:
        raise ImageDecodingError("needs more memory than there is. Fix: shrink it, or remove it.") from error
    except Exception as error:
        fix = "copy it again from its source, or remove it"
        raise ImageDecodingError(f"the image is damaged or cut off ({error}). Fix: {fix}.") from error


def _unread_format(start: bytes) -> tuple[str, str]:
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for signs, (what, fix) in _UNREAD_FORMATS.items():
        if text.startswith(signs) or start[4:].startswith(signs):  # boxes start with their length
            return f"{what}, which Pillow does not read here", fix
    if name := _other_format(start):
        return f"an image of the format {name}, which is not read here", "convert it to PNG or JPEG"
    return "not an image that Pillow reads, or its header is damaged", "remove it, or convert it to PNG or JPEG"


def _other_format(start: bytes) -> str | None:
    """The format of Pillow's besides FORMATS that a file claims by its first bytes, no more of it being read."""
    for name, (_, accepts) in Image.OPEN.items():
        try:
            if name not in FORMATS and accepts is not None and accepts(start[:16]) is True:
                return name
        except Exception:  # of too few bytes
            continue
    return None


def read_pillow(image: Image.Image, limits: ImageLimits) -> np.ndarray:
    """A Pillow image -> upright [C, H, W]: uint8, or uint16, int32, float32 where it is stored so."""
    with _pillow_errors():
        check_size(image.height, image.width, limits)
        if image.format == "EPS":  # Pillow would start another program on it
            raise ImageDecodingError("EPS has to be drawn first. Fix: convert it to PNG.")
        _check_scans(image)
        _report_frames(image)
        from_file = image.format is not None
        image.load()
        check_size(image.height, image.width, limits)  # some formats say another size in their header
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
            image = image.convert("RGB")  # palette, CMYK, YCbCr, HSV, LAB
        return np.moveaxis(np.asarray(image), -1, 0)


def _name(image: Image.Image) -> str:
    return str(getattr(image, "filename", None) or "An image")


def _report_frames(image: Any) -> None:
    """Say that of several frames only the current one, the first unless the caller chose, is used."""
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
    report_once("frames", f"{_name(image)}: of its {frames} frames number {current} is used, no other.")


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception as error:  # hand-made EXIF blocks fail in many ways; the pixels are sound
        logger.warning("%s: unreadable EXIF (%s); taken as upright.", _name(image), error)
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


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
