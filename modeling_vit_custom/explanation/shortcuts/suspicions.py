"""Where the evidence for a class lies otherwise than for other classes: what is then looked at by interventions.

A suspicion is cheap and accuses nothing: it names a class, cells, and images to try.

Shapes: N images, n of one class, h×w grid, M cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation

from .evidence import Evidence

CELLS, BORDER, SURROUNDINGS, BACKGROUND = "cells", "border", "surroundings", "background"
FEWEST = 20  # images of a class: with fewer, nothing is said of it
SUSPECTS = 12  # images, and
SUSPECT_SHARE = 0.10  # of the class, that have more evidence there than
TYPICAL = 0.95  # of the images of other classes
TOP, TOP_RATIO, TOP_ALONE = (
    0.08,
    4.0,
    0.40,
)  # share of images whose top cell it is; times that of others; whatever others
HOT_RATIO, HOT_Z = 2.0, 3.0  # of the mean evidence of a cell, against other classes
GROWN, GROWN_RATIO = 0.15, 1.2  # of the excess of the hottest cell, and of others' evidence: taken in with it
PLACES = 3  # of a class that are looked at
OFF_OBJECT, OFF_IMAGES = 0.5, 0.3  # more evidence off the object than this, in more of the images than that


@dataclass(frozen=True)
class ClassMap:
    """The evidence of the n images that the model calls one class.

    images: [n], among the N.   mean, others: [h, w], evidence at each cell, and the mean of the other classes'.
    z: [h, w], their difference by its standard error, between images and between classes.   top, top_others: [h, w],
    share of images whose top cell it is.   ring: share in the outermost cells.   off: share off the object, None
    without boxes.
    """

    target: int
    images: np.ndarray
    mean: np.ndarray
    others: np.ndarray
    z: np.ndarray
    top: np.ndarray
    top_others: np.ndarray
    ring: float
    off: float | None


@dataclass(frozen=True)
class Suspicion:
    """Cells of a class that have more evidence than for other classes.

    kind: CELLS at one place, the BORDER, the SURROUNDINGS of the middle, or the BACKGROUND off the boxes.
    cells: bool [N, h, w], for each image.   put: those of them that are pasted: of surroundings, what is no border.
    suspects: images of the class, those with most evidence there first.   by_evidence: whether all of these have more
    than images of other classes mostly have; else they are all images of the class, and nothing but the kind of place
    gave rise to the suspicion.   share, share_others: of the evidence, mean over the class, and over the other classes.
    of_suspects: over the suspects.   top: share of the class's images whose top cell is there.
    """

    kind: str
    target: int
    cells: np.ndarray
    suspects: np.ndarray
    share: float
    share_others: float
    of_suspects: float
    top: float
    by_evidence: bool
    put: np.ndarray


def class_maps(evidence: Evidence, off: np.ndarray | None) -> list[ClassMap]:
    """Return the maps of all classes with FEWEST images or more.   off: bool [N, h, w], cells off the object."""
    classes, counts = np.unique(evidence.predicted, return_counts=True)
    kept = [int(one) for one, count in zip(classes, counts, strict=True) if count >= FEWEST]
    images = {one: np.flatnonzero(evidence.predicted == one) for one in kept}
    tops = top_cells(evidence.shares)
    means = {one: evidence.shares[images[one]].mean(axis=0) for one in kept}
    errors = {one: evidence.shares[images[one]].var(axis=0) / len(images[one]) for one in kept}
    hits = {one: tops[images[one]].mean(axis=0) for one in kept}
    ring = ring_of(evidence.grid)
    found = []
    for one in kept:
        rest = [other for other in kept if other != one]
        if not rest:
            continue
        others = np.mean([means[other] for other in rest], axis=0)
        spread = np.var([means[other] for other in rest], axis=0)
        z = (means[one] - others) / np.sqrt(errors[one] + spread + 1e-12)
        own = evidence.shares[images[one]]
        found.append(
            ClassMap(
                one, images[one], means[one], others, z, hits[one], np.mean([hits[other] for other in rest], axis=0),
                float(own[:, ring].sum(axis=1).mean()),
                None if off is None else float((own * off[images[one]]).sum(axis=(1, 2)).mean()),
            )
        )  # fmt: skip
    return found


def top_cells(shares: np.ndarray) -> np.ndarray:
    """Return bool [N, h, w], true at the cell of each image with the most evidence; nowhere without evidence."""
    flat = shares.reshape(len(shares), -1)
    tops = np.zeros(flat.shape, bool)
    tops[np.arange(len(flat)), flat.argsort(axis=1, kind="stable")[:, -1]] = True
    return (tops & (flat.sum(axis=1, keepdims=True) > 0)).reshape(shares.shape)


def ring_of(grid: tuple[int, int]) -> np.ndarray:
    """Return bool [h, w]: the outermost cells, a fourteenth of the side wide; none of a grid below 4×4."""
    return _frame(grid, max(1, round(min(grid) / 14))) if min(grid) >= 4 else np.zeros(grid, bool)


def surroundings_of(grid: tuple[int, int]) -> np.ndarray:
    """Return bool [h, w]: all but the middle, which is half as high and as wide; none of a grid below 4×4."""
    return _frame(grid, min(grid) // 4) if min(grid) >= 4 else np.zeros(grid, bool)


def _frame(grid: tuple[int, int], width: int) -> np.ndarray:
    frame = np.ones(grid, bool)
    frame[width : grid[0] - width, width : grid[1] - width] = False
    return frame


def grown(cells: np.ndarray) -> np.ndarray:
    """Return cells [h, w] and their neighbours."""
    return binary_dilation(cells, np.ones((3, 3), bool))


def suspect(evidence: Evidence, target: int, cells: np.ndarray, kind: str) -> Suspicion | None:
    """Return the suspicion that a class is decided in `cells` bool [N, h, w].

    None if too few of its images have more evidence there than other classes' have. A border and surroundings are
    suspected even then: evidence that is spread evenly has no place where it is high.
    """
    inside = (evidence.shares * cells).sum(axis=(1, 2))
    own = np.flatnonzero(evidence.predicted == target)
    other = np.flatnonzero(evidence.predicted != target)
    put = cells & ~ring_of(evidence.grid) if kind == SURROUNDINGS else cells
    if not len(other) or not put.any():
        return None
    limit = np.quantile(inside[other], TYPICAL)
    suspects = own[inside[own] > limit]
    if kind == BACKGROUND and (inside[own] > OFF_OBJECT).mean() > OFF_IMAGES:
        suspects = own[inside[own] > min(limit, OFF_OBJECT)]
    by_evidence = len(suspects) >= max(SUSPECTS, SUSPECT_SHARE * len(own))
    if not by_evidence:
        if kind == CELLS:
            return None
        suspects = own
    by_class = [inside[evidence.predicted == one].mean() for one in np.unique(evidence.predicted[other])]
    tops = (top_cells(evidence.shares) & cells).any(axis=(1, 2))
    return Suspicion(
        kind, target, cells, suspects[np.argsort(-inside[suspects], kind="stable")], float(inside[own].mean()),
        float(np.mean(by_class)), float(inside[suspects].mean()), float(tops[own].mean()), by_evidence,
        put,
    )  # fmt: skip


def places(one: ClassMap) -> list[np.ndarray]:
    """Return up to PLACES groups of cells bool [h, w] with far more evidence than for other classes."""
    excess = one.mean - one.others
    often = (one.top >= TOP) & (one.top >= TOP_RATIO * one.top_others) | (one.top >= TOP_ALONE)
    hot = (one.mean >= HOT_RATIO * one.others) & (one.z >= HOT_Z)
    found: list[np.ndarray] = []
    taken = np.zeros(excess.shape, bool)
    most = max(1, excess.size // 8)
    for cell in np.argsort(-(excess + one.top - one.top_others), axis=None, kind="stable"):
        at = np.unravel_index(int(cell), excess.shape)
        if len(found) == PLACES:
            break
        if not (often | hot)[at] or taken[at]:
            continue
        group = _grow(at, excess, (excess >= GROWN * excess[at]) & (one.mean >= GROWN_RATIO * one.others), most)
        group = _filled(group, most)
        taken |= grown(group)
        found.append(group)
    return found


def _filled(group: np.ndarray, most: int) -> np.ndarray:
    """The rectangle around a group, as marks are, if it has no more than `most` cells; else the group."""
    rows, columns = np.nonzero(group)
    whole = np.zeros(group.shape, bool)
    whole[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return whole if whole.sum() <= most else group


def _grow(start: Sequence, excess: np.ndarray, allowed: np.ndarray, most: int) -> np.ndarray:
    """The cell `start` and, one by one, the hottest allowed neighbour of the group, up to `most` cells."""
    group = np.zeros(excess.shape, bool)
    group[start] = True
    while group.sum() < most:
        edge = grown(group) & ~group & allowed
        if not edge.any():
            break
        best = np.argsort(np.where(edge, excess, -np.inf), axis=None, kind="stable")[-1]
        group[np.unravel_index(int(best), excess.shape)] = True
    return group
