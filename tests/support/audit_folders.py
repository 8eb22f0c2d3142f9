"""Folders of real photographs for the audit: different tiles of scikit-learn's two pictures."""

from functools import cache
from pathlib import Path

from image_files import CHINA, FLOWER
from PIL import Image

SIDE = 80
COLUMNS = 8


@cache
def _picture(name: str) -> Image.Image:
    with Image.open({"china": CHINA, "flower": FLOWER}[name]) as image:
        return image.convert("RGB")


def tile(name: str, number: int, side: int = SIDE) -> Image.Image:
    """Return tile `number` of a picture; there are 40."""
    left, top = number % COLUMNS * SIDE, number // COLUMNS * SIDE
    return _picture(name).crop((left, top, left + side, top + side))


def put(path: Path, content: Image.Image | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path)
    return path


def write_clean(root: Path) -> Path:
    """Write ROOT/{train,validation}/{china,flower}/*.png without any defect: 12 and 3 images of each class."""
    for name in ("china", "flower"):
        for number in range(15):
            put(root / ("train" if number < 12 else "validation") / name / f"{number:02}.png", tile(name, 10 + number))
    return root
