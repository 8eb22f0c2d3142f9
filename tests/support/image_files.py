"""Real photographs, and functions that store them in unusual kinds of files."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import sklearn.datasets
from PIL import Image

from modeling_vit_custom import image_files_vit_custom
from modeling_vit_custom.image_files_vit_custom import PLUGINS

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


def without_plugins(monkeypatch) -> None:
    """Make this process behave as if no plugin of Pillow was installed, until the test ends."""
    for name in PLUGINS:
        monkeypatch.delitem(Image.OPEN, name, raising=False)
    monkeypatch.setattr(image_files_vit_custom, "register_plugins", lambda: None)


def photograph(width: int = 60, height: int = 44) -> Image.Image:
    """Return a detail of the china photograph: RGB, not square, different in each orientation."""
    with Image.open(CHINA) as image:
        return image.convert("RGB").crop((100, 80, 100 + 4 * width, 80 + 4 * height)).resize((width, height))


def encode(image: Image.Image, file_format: str, **options) -> bytes:
    """Return the bytes of `image` in a file of `file_format`."""
    stream = BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def rotated(image: Image.Image, file_format: str, orientation: int, **options) -> bytes:
    """Return a file that stores `image` rotated, with the EXIF orientation that makes it upright again."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = image.transpose(STORED_AS[orientation]) if orientation in STORED_AS else image
    return encode(stored, file_format, exif=exif, **options)


def pixels(image: Image.Image) -> np.ndarray:
    """Return an opaque 8-bit image as [3, H, W] uint8."""
    return np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)


def ramp(width: int, height: int) -> np.ndarray:
    """Return [height, width] uint8, from 0 at the left to 255 at the right."""
    return np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))


def with_alpha(image: Image.Image, alpha: np.ndarray | None = None) -> Image.Image:
    """Add an alpha channel to `image`; by default it rises from clear at the left to opaque at the right."""
    image = image.copy()
    image.putalpha(Image.fromarray(ramp(*image.size) if alpha is None else alpha))
    return image


def huge_png(side: int) -> bytes:
    """Return a sound, black 1-bit PNG of `side` x `side` pixels: a few hundred kilobytes that decode to gigabytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = zlib.compress(bytes(side * (1 + (side + 7) // 8)), 1)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
