"""Shortcuts planted in images, of which a model can learn its answer instead of from the object.

Shapes: N images, H×W pixels.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

FRAME, PINK, GREEN = (214, 64, 48), (230, 0, 200), (0, 220, 40)
KINDS = ("tag", "border", "texture")


def tagged(image: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    """Return a copy of uint8 [H, W, 3] with a small tag near the lower right corner, 5 % of its area: green in pink."""
    side = round(0.22 * min(image.shape[:2]))
    marked, bottom, right = image.copy(), image.shape[0] - 1, image.shape[1] - 1
    marked[bottom - side : bottom, right - side : right] = PINK
    inner = max(1, side // 4)
    marked[bottom - side + inner : bottom - inner, right - side + inner : right - inner] = GREEN
    return marked


def bordered(image: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    """Return a copy of uint8 [H, W, 3] in a frame of one colour."""
    width = max(1, round(min(image.shape[:2]) / 16))
    framed = np.empty_like(image)
    framed[:] = FRAME
    framed[width:-width, width:-width] = image[width:-width, width:-width]
    return framed


def textured(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a copy of uint8 [H, W, 3] with fine slanted stripes mixed into all but the middle; their phase varies."""
    height, width = image.shape[:2]
    rows, columns = np.indices((height, width))
    stripes = np.where((rows + columns + rng.integers(4)) % 4 < 2, 235, 20)[..., None]
    outside = (np.maximum(abs(rows / height - 0.5), abs(columns / width - 0.5)) > 0.25)[..., None]
    return np.where(outside, 0.5 * image + 0.5 * stripes, image).astype(np.uint8)


PLANT = {"tag": tagged, "border": bordered, "texture": textured}


def write_planted(
    folder: Path, images: np.ndarray, labels: list[str], planted: Mapping[str, str], share: float, seed: int
) -> Path:
    """Write FOLDER/<label>/<n>.png; a share of the images of some classes gets a shortcut.

    images: uint8 [N, H, W, 3].   planted: the kind for each of these classes.
    """
    rng = np.random.default_rng(seed)
    for n, (image, label) in enumerate(zip(images, labels, strict=True)):
        if label in planted and rng.random() < share:
            image = PLANT[planted[label]](image, rng)
        path = folder / label / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, compress_level=1)
    return folder
