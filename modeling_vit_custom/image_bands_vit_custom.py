"""Image files that hold arrays: .npy, and by tifffile TIFF of any number of bands, which Pillow does not read.

Shapes: C bands, H height, W width.
The claims of a header are checked against the limits and against the bytes present before anything is decoded.
tifffile is imported only if a file needs it, and imagecodecs only for LZW.
"""

import importlib
import logging
import math
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from .image_limits_vit_custom import ImageDecodingError, ImageLimits, allowed_pixels, check_size, way_out

NPY_START = b"\x93NUMPY"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BYTES_PER_PIXEL = 4  # of a decoded image, as for RGBA in Pillow: turns the limit of pixels into bytes

_GREY, _RGB = 1, 2  # TIFF 6.0, PhotometricInterpretation
_PLAIN, _LZW, _DEFLATE, _OLD_DEFLATE = 1, 5, 8, 32946  # Compression
_ORIENTATION_TAG = 274
# Orientation -> whether rows and columns are swapped, then whether each is reversed (TIFF 6.0, page 36).
_UPRIGHT = {
    2: (False, False, True), 3: (False, True, True), 4: (False, True, False), 5: (True, False, False),
    6: (True, False, True), 7: (True, True, True), 8: (True, True, False),
}  # fmt: skip
_AGAIN = "Fix: copy it again from its source, or remove it."


@dataclass(frozen=True)
class ArrayHeader:
    """The header of a file with an array. format: "NPY" or "TIFF".   shape: [H, W], [H, W, C] or [C, H, W].   dtype."""

    format: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def hwc(self) -> tuple[int, int, int]:
        """(H, W, C); the shorter of the first and the last axis is taken as the channels."""
        if len(self.shape) == 2:
            return self.shape[0], self.shape[1], 1
        first, middle, last = self.shape
        return (middle, last, first) if first < last else (first, middle, last)


def array_header(stream: BinaryIO, limits: ImageLimits) -> ArrayHeader | None:
    """Read the header of a .npy file or a TIFF and rewind the stream; return None for other files.

    Raises ImageDecodingError for a file that would be refused.
    """
    start = stream.read(len(NPY_START))
    stream.seek(0)
    if start.startswith(NPY_START):
        shape, _, dtype = _npy_header(stream, limits)
        if len(shape) not in (2, 3):
            raise ImageDecodingError(f"shape {shape} is not an image. Fix: give [H, W], [H, W, C] or [C, H, W].")
        header = ArrayHeader("NPY", shape, dtype)
    elif start.startswith(TIFF_STARTS):
        with _opened(stream) as tiff:
            page = tiff.pages[0]
            _check_pages([page], limits)
            shape = (page.imagelength, page.imagewidth, page.samplesperpixel)
            header = ArrayHeader("TIFF", shape, page.dtype)
    else:
        return None
    stream.seek(0)
    return header


# ---------- .npy


def read_npy(stream: BinaryIO, size: int, limits: ImageLimits) -> np.ndarray:
    """Read the array in a .npy file of `size` bytes, only numbers: nothing is unpickled. Raises ImageDecodingError."""
    shape, by_columns, dtype = _npy_header(stream, limits)
    wanted, there = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if there < wanted:
        raise ImageDecodingError(f"cut off: {there:,} bytes of values are there, its header says {wanted:,}. {_AGAIN}")
    return np.frombuffer(stream.read(wanted), dtype).reshape(shape, order="F" if by_columns else "C")


def _npy_header(stream: BinaryIO, limits: ImageLimits) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether in Fortran order, dtype); the stream is left at the values."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers that Python 2 wrote
            version = np.lib.format.read_magic(stream)
            shape, by_columns, dtype = readers[version](stream)
    except Exception as error:  # hostile headers fail in many ways
        raise ImageDecodingError(f"the header of this .npy file is damaged ({error}). {_AGAIN}") from error
    if dtype.kind not in "biuf":
        raise ImageDecodingError(f"{dtype} is no pixel type. Fix: save it as bool, uint8, uint16 or float.")
    if min(shape, default=0) < 0:
        raise ImageDecodingError(f"the header of this .npy file is damaged (shape {shape}). {_AGAIN}")
    _check_bytes(math.prod(shape) * dtype.itemsize, limits)
    return shape, by_columns, dtype


def _check_bytes(count: int, limits: ImageLimits) -> None:
    if count > (most := BYTES_PER_PIXEL * allowed_pixels(limits)):
        raise ImageDecodingError(
            f"refused before decoding: its header says {_number(count)} bytes of values, more than {most:,}. Fix: "
            + way_out("shrink it", "pixels")
        )


def _number(count: int) -> str:
    return f"{count:,}" if count < 10**18 else f"about 10^{len(str(count)) - 1}"


# ---------- TIFF


def read_tiff(stream: BinaryIO, limits: ImageLimits, num_channels: int | None = None) -> np.ndarray:
    """Read a TIFF as upright [C, H, W] in its stored dtype. Raises ImageDecodingError.

    Of several pages the first is read; but exactly `num_channels` pages of one band each are the bands.
    """
    with _opened(stream) as tiff:
        pages = _pages_of_bands(tiff, num_channels)
        _check_pages(pages, limits)
        for page in pages:
            _check_segments(page, stream, limits)
        bands = np.concatenate([_bands(page) for page in pages])
        orientation = pages[0].tags.get(_ORIENTATION_TAG)
        return _upright(bands, None if orientation is None else orientation.value)


@contextmanager
def _opened(stream: BinaryIO) -> Iterator[Any]:
    """A file opened by tifffile, whose errors become ImageDecodingError."""
    try:
        tifffile = importlib.import_module("tifffile")
    except ImportError as error:
        raise ImageDecodingError(
            "Pillow does not read this TIFF, or not all of its bands; tifffile does, which is not installed. "
            "Fix: pip install tifffile."
        ) from error
    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # our error says what it would print
    try:
        with tifffile.TiffFile(stream, _multifile=False) as tiff:
            yield tiff
    except ImageDecodingError:
        raise
    except MemoryError as error:
        raise ImageDecodingError("needs more memory than there is. Fix: shrink it, or remove it.") from error
    except Exception as error:
        raise ImageDecodingError(f"the TIFF is damaged or cut off ({error}). {_AGAIN}") from error


def _pages_of_bands(tiff: Any, num_channels: int | None) -> list[Any]:
    first = tiff.pages[0]
    if num_channels is None or num_channels == 1 or first.samplesperpixel != 1:
        return [first]
    pages = [first]
    for index in range(1, num_channels + 1):
        try:
            pages.append(tiff.pages[index])
        except IndexError:
            break
    alike = all((page.shape, page.dtype) == (first.shape, first.dtype) for page in pages)
    return pages if len(pages) == num_channels and alike else [first]


def _check_pages(pages: list[Any], limits: ImageLimits) -> None:
    """Raise ImageDecodingError, by the tags alone, for pages that are too large or not plain bands of numbers."""
    for page in pages:
        check_size(page.imagelength, page.imagewidth, limits)
        what = None
        if page.dtype is None or page.dtype.kind not in "uif" or page.dtype.itemsize * 8 != page.bitspersample:
            what = f"values of {page.bitspersample} bits"
        elif page.photometric not in (_GREY, _RGB):
            what = f"colours of the kind {getattr(page.photometric, 'name', page.photometric)}"
        elif page.compression not in (_PLAIN, _LZW, _DEFLATE, _OLD_DEFLATE):
            what = f"the compression {getattr(page.compression, 'name', page.compression)}"
        elif page.imagedepth != 1:
            what = f"a depth of {page.imagedepth}"
        if what is not None:
            raise ImageDecodingError(
                f"a TIFF with {what} is not read here. Fix: store it as uint8, uint16 or float bands, plain or with "
                "Deflate."
            )
    _check_bytes(sum(page.imagelength * page.imagewidth * _page_bytes_per_pixel(page) for page in pages), limits)


def _page_bytes_per_pixel(page: Any) -> int:
    return page.samplesperpixel * page.dtype.itemsize


def _check_segments(page: Any, stream: BinaryIO, limits: ImageLimits) -> None:
    """Raise ImageDecodingError for strips and tiles that decode to fewer or more bytes than they should."""
    height, width = page.imagelength, page.imagewidth
    rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, height), width)
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    row_bytes = columns * _page_bytes_per_pixel(page) // planes
    _check_bytes(rows * row_bytes, limits)
    down, across = math.ceil(height / rows), math.ceil(width / columns)
    expected = planes * down * across
    if not len(page.dataoffsets) == len(page.databytecounts) == expected:
        raise ImageDecodingError(f"{len(page.dataoffsets)} parts are there, its header says {expected}. {_AGAIN}")
    for index, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
        if not offset and not count:  # a part of zeros is not stored
            continue
        last = not page.is_tiled and index % down == down - 1
        wanted = (height - rows * (down - 1) if last else rows) * row_bytes
        stream.seek(offset)
        held = _decoded_size(stream.read(count), page.compression, rows * row_bytes)
        if not wanted <= held <= rows * row_bytes:
            raise ImageDecodingError(f"part {index} decodes to other than its {wanted:,} bytes. {_AGAIN}")


def _decoded_size(data: bytes, compression: int, most: int) -> int:
    """The number of bytes that a strip or tile decodes to; decoding stops at `most` + 1."""
    if compression == _PLAIN:
        return len(data)
    if compression != _LZW:
        return len(zlib.decompressobj().decompress(data, most + 1))
    try:
        return len(importlib.import_module("imagecodecs").lzw_decode(data, out=bytearray(most + 1)))
    except ImportError as error:
        raise ImageDecodingError(
            "LZW compression of TIFF is read by imagecodecs, which is not installed. "
            "Fix: pip install imagecodecs, or store it plain or with Deflate."
        ) from error


def _bands(page: Any) -> np.ndarray:
    """[C, H, W] of one page, with planar or interleaved samples."""
    apart, _, height, width, together = page.shaped
    values = page.asarray(maxworkers=1).reshape(apart, height, width, together)
    return np.moveaxis(values, 3, 1).reshape(apart * together, height, width)


def _upright(bands: np.ndarray, orientation: int | None) -> np.ndarray:
    if orientation not in _UPRIGHT:
        return bands
    swap, rows, columns = _UPRIGHT[orientation]
    bands = bands.swapaxes(1, 2) if swap else bands
    return bands[:, :: -1 if rows else 1, :: -1 if columns else 1]
