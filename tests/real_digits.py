"""Folders of real images for tests: scikit-learn's handwritten digits as 8x8 PNG files."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """([1797, 8, 8] uint8, [1797] labels)"""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images * 255 / 16).round().astype(np.uint8), data.target


def digit_image(digit: int, number: int = 0) -> Image.Image:
    images, labels = digits()
    return Image.fromarray(images[np.flatnonzero(labels == digit)[number]])


def write_digit(path: Path, digit: int, number: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    digit_image(digit, number).save(path)
    return path


def write_class_folder(root: Path, counts: dict[str, int], first: int = 0) -> Path:
    """ROOT/<name>/<n>.png: `counts[name]` images of the digit that the name's last figure says."""
    for name, count in counts.items():
        for n in range(count):
            write_digit(root / name / f"{first + n}.png", int(name[-1]), first + n)
    return root
