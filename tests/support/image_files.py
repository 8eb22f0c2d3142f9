"""Real photographs, and writers that turn one into a file of every awkward kind."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import sklearn.datasets
from PIL import Image

PHOTOGRAPHS = Path(sklearn.datasets.__file__).parent / "images"
CHINA, FLOWER = PHOTOGRAPHS / "china.jpg", PHOTOGRAPHS / "flower.jpg"

# EXIF orientation -> the transposition by which a camera would have stored an upright picture (its inverse)
STORED_AS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def photograph(width: int = 60, height: int = 44) -> Image.Image:
    """A detail of the china photograph: RGB, not square, the same top as bottom in no orientation."""
    with Image.open(CHINA) as image:
        return image.convert("RGB").crop((100, 80, 100 + 4 * width, 80 + 4 * height)).resize((width, height))


def encode(image: Image.Image, file_format: str, **options) -> bytes:
    """The bytes of `image` in a file of `file_format`."""
    stream = BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def rotated(image: Image.Image, file_format: str, orientation: int, **options) -> bytes:
    """A file that stores `image` turned, with the EXIF orientation that turns it upright again."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = image.transpose(STORED_AS[orientation]) if orientation in STORED_AS else image
    return encode(stored, file_format, exif=exif, **options)


def pixels(image: Image.Image) -> np.ndarray:
    """[3, H, W] uint8 of an opaque 8-bit image."""
    return np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)


def ramp(width: int, height: int) -> np.ndarray:
    """[height, width] uint8, from 0 at the left to 255 at the right."""
    return np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))


def with_alpha(image: Image.Image, alpha: np.ndarray | None = None) -> Image.Image:
    """`image` with an alpha channel, from clear at the left to opaque at the right if none is given."""
    image = image.copy()
    image.putalpha(Image.fromarray(ramp(*image.size) if alpha is None else alpha))
    return image


def huge_png(side: int) -> bytes:
    """A sound, black 1-bit PNG of `side` x `side` pixels: a few hundred kilobytes that decode to gigabytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = zlib.compress(bytes(side * (1 + (side + 7) // 8)), 1)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
