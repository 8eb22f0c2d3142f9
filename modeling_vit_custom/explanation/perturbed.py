"""An image whose cells can be replaced, and the score that a model gives each version.

Works with any map and any model: it needs a function from images to scores, such as the probability of a class.
Shapes: C channels, H x W pixels, h x w cells of a map, n = h * w, B images in a batch.
Words: a *cell* is one value of the map and the pixels under it. *Replaced* cells show a baseline: a blurred copy of the
image or its mean colour. A map's *order* is from its highest value to its lowest, signs kept.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

Score = Callable[[torch.Tensor], torch.Tensor]
"""From images [B, C, H, W] to scores [B]."""

BASELINES = ("blur", "mean")
BLUR = 1 / 8  # standard deviation of the blur, as a share of the shorter side


class PerturbedImage:
    """One image with a score for each choice of replaced cells; a choice that was scored is not scored again.

    So several maps and several measures of one image share their forward passes. `forwards` counts the images that the
    model was given.
    """

    def __init__(
        self,
        score: Score,
        image: torch.Tensor,
        size: tuple[int, int],
        *,
        baseline: str | torch.Tensor = "blur",
        batch_size: int = 16,
    ):
        """
        score: from images [B, C, H, W] to scores [B].   image: [C, H, W] as the model gets it.   size: (h, w) of the
        maps. Each cell covers H/h x W/w pixels: cut off pixels that the model does not see.   baseline: "blur", "mean"
        (of this image, per channel), or pixels [C, H, W].

        Raises ValueError for an image, a size or a baseline that do not fit.
        """
        if image.ndim != 3:
            raise ValueError(f"image: shape {[*image.shape]}. Give one image [C, H, W].")
        height, width = image.shape[1:]
        if not (1 <= size[0] <= height and 1 <= size[1] <= width):
            raise ValueError(f"size={(*size,)}: the image has {height} x {width} pixels. Give 1 to as many cells.")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: give 1 or more.")
        self.score, self.image, self.batch_size = score, image.detach(), batch_size
        self.size = (int(size[0]), int(size[1]))
        self.baseline = baseline_of(self.image, baseline)
        self.forwards = 0
        self._rows = torch.arange(height, device=image.device) * self.size[0] // height
        self._columns = torch.arange(width, device=image.device) * self.size[1] // width
        self._known: dict[bytes, float] = {}

    @property
    def cells(self) -> int:
        """The number of cells, n."""
        return self.size[0] * self.size[1]

    def scores(self, replaced: np.ndarray) -> np.ndarray:
        """Return float64 [K]: the score for each row of `replaced`, bool [K, n]: the cells, row by row."""
        keys = [row.tobytes() for row in np.packbits(replaced, axis=1)]
        new = {key: place for place, key in enumerate(keys) if key not in self._known}
        places = list(new.values())
        for start in range(0, len(places), self.batch_size):
            part = places[start : start + self.batch_size]
            for place, value in zip(part, self._scored(replaced[part]), strict=True):
                self._known[keys[place]] = value
        return np.array([self._known[key] for key in keys])

    @torch.no_grad()
    def _scored(self, replaced: np.ndarray) -> list[float]:
        cells = torch.from_numpy(replaced.reshape(-1, *self.size)).to(self.image.device)
        pixels = cells[:, self._rows][:, :, self._columns]
        scores = self.score(torch.where(pixels[:, None], self.baseline, self.image))
        self.forwards += len(replaced)
        if scores.shape != (len(replaced),):
            raise ValueError(f"score: it gave shape {[*scores.shape]} for {len(replaced)} images. Give one score each.")
        if not torch.isfinite(scores).all():
            raise ValueError("score: it gave a value that is not finite. Give a score that is finite for every image.")
        return scores.double().tolist()

    def values(self, grid: Any) -> np.ndarray:
        """Return a map [h, w] (tensor or array) as float64 [n]; raises ValueError if it does not fit or has NaN."""
        values = checked_grid(grid)
        if values.shape != self.size:
            raise ValueError(f"grid: shape {[*values.shape]}, the image has {[*self.size]} cells. Give one value each.")
        return values.reshape(-1)


def checked_grid(grid: Any) -> np.ndarray:
    """Return a map [h, w] (tensor or array) as float64; raises ValueError for other shapes, NaN or infinity."""
    values = np.asarray(grid.detach().cpu().float() if isinstance(grid, torch.Tensor) else grid, np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"grid: shape {[*values.shape]}. Give one map [h, w].")
    if not np.isfinite(values).all():
        raise ValueError("grid: it holds a value that is not finite, so its cells have no order. Give finite values.")
    return values


def baseline_of(image: torch.Tensor, baseline: str | torch.Tensor) -> torch.Tensor:
    """Return what replaced cells of an image [C, H, W] show, in its shape: "blur", "mean", or the pixels given."""
    if isinstance(baseline, torch.Tensor):
        if baseline.shape != image.shape:
            raise ValueError(f"baseline: shape {[*baseline.shape]}, the image has {[*image.shape]}. Give that shape.")
        return baseline.to(image)
    if baseline == "mean":
        return image.mean(dim=(1, 2), keepdim=True).expand_as(image)
    if baseline == "blur":
        return blurred(image, BLUR * min(image.shape[1:]))
    raise ValueError(f"baseline={baseline!r}: give one of {', '.join(BASELINES)}, or pixels [C, H, W].")


def blurred(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return [C, H, W] under a Gaussian of `sigma` pixels, cut off at 4 sigma; edges are mirrored."""
    radius = min(int(4 * sigma + 0.5), min(image.shape[1:]) - 1)
    if radius < 1:
        return image.clone()
    distance = torch.arange(-radius, radius + 1, device=image.device, dtype=torch.float32)
    weights = torch.exp(-0.5 * (distance / sigma) ** 2)
    weights = (weights / weights.sum()).to(image.dtype)
    padded = torch.nn.functional.pad(image[:, None], (radius,) * 4, mode="reflect")
    along_rows = torch.nn.functional.conv2d(padded, weights[None, None, None])
    return torch.nn.functional.conv2d(along_rows, weights[None, None, :, None])[:, 0]


def orders(values: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """Return orders of the cells from the highest value [n] to the lowest: one, or two if there are ties.

    Equal values are in a random order in the first, and in its reverse in the second.
    """
    shuffled = np.random.default_rng(seed).permutation(len(values))
    first = _descending(values, shuffled)
    return [first] if len(np.unique(values)) == len(values) else [first, _descending(values, shuffled[::-1])]


def random_orders(cells: int, draws: int, seed: int = 0) -> list[np.ndarray]:
    """Return `draws` random orders of the cells; independent of the orders of ties of the same seed."""
    if draws < 1:
        raise ValueError(f"draws={draws}: give 1 or more.")
    return [np.random.default_rng((seed, 1 + draw)).permutation(cells) for draw in range(draws)]


def _descending(values: np.ndarray, start: np.ndarray) -> np.ndarray:
    return start[np.argsort(-values[start], kind="stable")]


def first(order: np.ndarray, counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return bool [K, n]: the first counts[k] cells of an order."""
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order))
    return rank < np.asarray(counts)[:, None]
