"""Whether a map lies on an object: measures that need the object's mask.

Shapes: H x W pixels, h x w cells of a map. A mask is bool [H, W]; each cell of the map stands for the pixels under it,
so a cell may lie on the object in part. Cells of equal value have no order: no measure depends on where they lie.
A faithful map need not lie on the object, when the model looks elsewhere: these measures test maps of models that are
known to use the object.
"""

from typing import Any

import numpy as np
import torch

from .perturbed import checked_grid


def average_precision(grid: Any, mask: Any) -> float:
    """Return the average precision, 0 to 1, of "this pixel is on the object" by the value of its cell.

    A map of random order gives about the object's share of the pixels. Equal to scikit-learn's
    `average_precision_score` on the map enlarged to [H, W] without interpolation.
    """
    _, inside, pixels = _groups(grid, mask)
    found = np.cumsum(inside)
    return float((inside / found[-1] * found / np.cumsum(pixels)).sum())


def hits(grid: Any, mask: Any) -> float:
    """Return whether the highest cell touches the object (the pointing game): 1 or 0, of tied cells the share."""
    values, inside, _ = _cells(grid, mask)
    return float((inside[values == values.max()] > 0).mean())


def discrimination(grid: Any, mask: Any, other: Any) -> float:
    """Return whether the mean over one object's pixels is above that over another's: 1, 0, or 0.5 if equal.

    mask: the object of the class that the map explains.   other: an object of another class, in the same image.
    """
    means = []
    for one in (mask, other):
        values, inside, _ = _cells(grid, one)
        means.append((values * inside).sum() / inside.sum())
    return float(np.heaviside(means[0] - means[1], 0.5))


def iou_at_area(grid: Any, mask: Any) -> float:
    """Return the intersection over union, 0 to 1, of the object with the highest cells that make up its area."""
    _, inside, pixels = _groups(grid, mask)
    area = inside.sum()
    taken = np.clip((area - (np.cumsum(pixels) - pixels)) / pixels, 0, 1)
    both = (taken * inside).sum()
    return float(both / (2 * area - both))


def cell_shares(mask: Any, size: tuple[int, int]) -> np.ndarray:
    """Return float64 [h, w]: the share of each cell's pixels that a mask [H, W] covers."""
    inside, pixels = _counted(_checked(mask), size)
    return inside / pixels


def _checked(mask: Any) -> np.ndarray:
    mask = np.asarray(mask.cpu() if isinstance(mask, torch.Tensor) else mask)
    if mask.ndim != 2 or mask.dtype != bool:
        raise ValueError(f"mask: {mask.dtype} of shape {[*mask.shape]}. Give bool [H, W].")
    if not mask.any():
        raise ValueError("mask: it is empty. Leave out images without the object.")
    return mask


def _counted(mask: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the object and all pixels in each cell, both [h, w]."""
    if size[0] > mask.shape[0] or size[1] > mask.shape[1]:
        raise ValueError(f"grid: {[*size]} cells for a mask of {[*mask.shape]} pixels. Give a mask at least as large.")
    rows, columns = (np.arange(side) * cells // side for side, cells in zip(mask.shape, size, strict=True))
    inside, pixels = np.zeros(size), np.zeros(size)
    where = (rows[:, None], columns[None])
    np.add.at(inside, where, mask)
    np.add.at(pixels, where, 1)
    return inside, pixels


def _cells(grid: Any, mask: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value, pixels of the object and all pixels of each cell, three arrays [n]."""
    values = checked_grid(grid)
    inside, pixels = _counted(_checked(mask), values.shape)
    return values.reshape(-1), inside.reshape(-1), pixels.reshape(-1)


def _groups(grid: Any, mask: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `_cells`, from the highest value to the lowest, with cells of equal value joined."""
    values, inside, pixels = _cells(grid, mask)
    distinct, group = np.unique(-values, return_inverse=True)
    return -distinct, np.bincount(group, inside), np.bincount(group, pixels)
