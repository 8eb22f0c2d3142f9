"""How faithful a map is: cells of the image are replaced in the order of the map, and the model's score is watched.

Works with any map and any model, through a `PerturbedImage`. h x w cells of a map, n = h * w.
Sources: deletion and insertion (Petsiuk et al. 2018, RISE); SRG, their difference (Blücher et al. 2024); SaCo (Wu et
al., CVPR 2024).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .perturbed import PerturbedImage, first, orders, random_orders


@dataclass(frozen=True)
class Curve:
    """Scores against the share of cells that are replaced (deletion) or shown (insertion), both from 0 to 1."""

    shares: tuple[float, ...]
    scores: tuple[float, ...]

    @property
    def area(self) -> float:
        """The area under the curve, by trapezoids."""
        return float(np.diff(self.shares) @ (np.add(self.scores[1:], self.scores[:-1]) / 2))


def deletion(image: PerturbedImage, grid: Any, *, steps: int = 8, seed: int = 0) -> Curve:
    """Return the scores while the most important cells are replaced first. A faithful map gives a small area.

    grid: map [h, w], signed.   steps: intervals of the curve; both ends are scored too.
    Cells of equal value have no order: the curve is the mean of those of a random order of them and of its reverse.
    """
    return _mean([_deletion(image, order, steps) for order in orders(image.values(grid), seed)])


def insertion(image: PerturbedImage, grid: Any, *, steps: int = 8, seed: int = 0) -> Curve:
    """Return the scores while the most important cells are shown first, on the baseline. A faithful map gives a large
    area. Arguments as for `deletion`.
    """
    return _mean([_insertion(image, order, steps) for order in orders(image.values(grid), seed)])


@dataclass(frozen=True)
class Faithfulness:
    """Both curves of a map, and the same of random orders on the same image.

    srg: insertion's area minus deletion's, -1 to 1 for probabilities. Random orders give 0 on the average.
    srg_random: the mean over the random orders.   forwards: images that the model was given for this.
    """

    deletion: Curve
    insertion: Curve
    srg: float
    srg_random: float
    forwards: int


def srg(image: PerturbedImage, grid: Any, *, steps: int = 8, draws: int = 1, seed: int = 0) -> Faithfulness:
    """Return the SRG (symmetric relevance gain) of a map beside that of `draws` random orders of the same cells.

    The difference of the two areas removes most of what the baseline does to the score by itself. Exactly 0 for a
    constant map; a map and its negative have opposite values.
    """
    before = image.forwards
    out, into = deletion(image, grid, steps=steps, seed=seed), insertion(image, grid, steps=steps, seed=seed)
    gains = [_gain(image, order, steps) for order in random_orders(image.cells, draws, seed)]
    return Faithfulness(out, into, into.area - out.area, float(np.mean(gains)), image.forwards - before)


def saco(image: PerturbedImage, grid: Any, *, groups: int = 8, seed: int = 0) -> float:
    """Return the SaCo of a map, -1 to 1: whether replacing groups of cells with a larger sum lowers the score by more.

    The cells are split by their order into `groups` of equal size. Each pair of groups counts by the difference of
    their sums: for the map if the group with the larger sum, replaced alone, lowers the score at least as much, else
    against it. If the sizes differ by one cell, sums and losses are taken per cell. 0 for a constant map. SaCo depends
    on the scale of values, not on their order alone: compare with it only maps whose values are meant as sizes.
    """
    values = image.values(grid)
    groups = min(groups, image.cells)
    if groups < 2:
        raise ValueError(f"groups={groups}: there is nothing to compare. Give 2 or more, and a map of 2 or more cells.")
    whole = image.scores(np.zeros((1, image.cells), bool))
    return float(np.mean([_saco(image, values, order, groups, whole) for order in orders(values, seed)]))


def _saco(image: PerturbedImage, values: np.ndarray, order: np.ndarray, groups: int, whole: np.ndarray) -> float:
    parts = np.array_split(order, groups)
    replaced = np.zeros((groups, image.cells), bool)
    for row, part in zip(replaced, parts, strict=True):
        row[part] = True
    means = np.array([values[part].mean() for part in parts])
    drops = (whole - image.scores(replaced)) / replaced.sum(axis=1)
    one, other = np.triu_indices(groups, 1)
    weights = means[one] - means[other]
    weights[np.abs(weights) < 1e-12 * np.abs(means).max()] = 0  # the rounding of a mean
    agrees = weights * (drops[one] - drops[other]) >= 0
    total = np.abs(weights).sum()
    return float(np.where(agrees, np.abs(weights), -np.abs(weights)).sum() / total) if total else 0.0


@dataclass(frozen=True)
class Confirmation:
    """The top cells of a map, highest first, and what the score loses when each is replaced alone.

    cells: (row, column).   drops: score of the image minus score without the cell.
    """

    cells: tuple[tuple[int, int], ...]
    drops: tuple[float, ...]

    @property
    def confirmed(self) -> tuple[bool, ...]:
        """Whether replacing each cell lowers the score."""
        return tuple(drop > 0 for drop in self.drops)

    @property
    def unconfirmed(self) -> tuple[tuple[int, int], ...]:
        """The (row, column) of cells that the map calls important and whose loss does not lower the score."""
        return tuple(cell for cell, drop in zip(self.cells, self.drops, strict=True) if drop <= 0)


def confirm(image: PerturbedImage, grid: Any, *, top: int = 8, seed: int = 0) -> Confirmation:
    """Return what the score loses when each of the `top` cells of a map is replaced alone.

    Give a logit as the score: a probability near 1 hardly moves. A map alone does not show a cause; this does, one cell
    at a time.
    """
    order = orders(image.values(grid), seed)[0][:top]
    replaced = np.zeros((len(order) + 1, image.cells), bool)
    replaced[np.arange(len(order)), order] = True
    scores = image.scores(replaced)
    cells = tuple((int(cell) // image.size[1], int(cell) % image.size[1]) for cell in order)
    return Confirmation(cells, tuple((scores[-1] - scores[:-1]).tolist()))


@dataclass(frozen=True)
class Hiding:
    """The score of the whole image, without its most important cells, and without as many random ones.

    share: of the cells, rounded to whole cells.
    """

    share: float
    before: float
    after: float
    random: float

    def __str__(self) -> str:
        share = f"{self.share:.0%}".replace("%", " %")
        return (
            f"hides the {share} most important patches: {self.before:.2f} → {self.after:.2f}; "
            f"random {share}: {self.before:.2f} → {self.random:.2f}"
        )


def hides(image: PerturbedImage, grid: Any, *, share: float = 0.25, draws: int = 1, seed: int = 0) -> Hiding:
    """Return what the score falls to without the most important `share` of the cells, beside random cells.

    With the steps of `srg`, of which one is at `share`, and its seed and draws, this needs no further forward passes.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share}: give a share of the cells, 0 to 1.")
    count = [round(share * image.cells)]
    own = orders(image.values(grid), seed)
    hidden = [first(order, count)[0] for order in (*own, *random_orders(image.cells, draws, seed))]
    before, *scores = image.scores(np.stack([np.zeros(image.cells, bool), *hidden]))
    return Hiding(share, float(before), float(np.mean(scores[: len(own)])), float(np.mean(scores[len(own) :])))


# ---------- curves


def _deletion(image: PerturbedImage, order: np.ndarray, steps: int) -> Curve:
    if steps < 1:
        raise ValueError(f"steps={steps}: give 1 or more.")
    counts = np.linspace(0, image.cells, steps + 1).round().astype(int)
    return Curve(tuple((counts / image.cells).tolist()), tuple(image.scores(first(order, counts)).tolist()))


def _insertion(image: PerturbedImage, order: np.ndarray, steps: int) -> Curve:
    """Showing the first cells is replacing the last ones: the reversed order's deletion, read backwards."""
    back = _deletion(image, order[::-1], steps)
    return Curve(tuple(1 - share for share in reversed(back.shares)), back.scores[::-1])


def _gain(image: PerturbedImage, order: np.ndarray, steps: int) -> float:
    return _insertion(image, order, steps).area - _deletion(image, order, steps).area


def _mean(curves: Sequence[Curve]) -> Curve:
    return Curve(curves[0].shares, tuple(np.mean([curve.scores for curve in curves], axis=0).tolist()))
