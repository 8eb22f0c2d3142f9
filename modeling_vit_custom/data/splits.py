"""Seeded, stratified drawing: a validation split if none was given, and subsets of a given size.

Shapes: N examples, G strata.
"""

import numpy as np

from ..common.errors import DataError


def draw_validation(strata: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return (train indices, validation indices, strata left without validation), indices ascending.

    Every stratum gives round(n·fraction) of its n examples, at least one if it has two, and never all. A single example
    stays in training.
    Raises DataError unless 0 < fraction < 1 and both parts get an example.
    """
    if not 0 < fraction < 1:
        raise DataError(f"train_val_split is {fraction}: give a fraction between 0 and 1, such as 0.15.")
    rng = np.random.default_rng(seed)
    held_out, uncovered = [], []
    for stratum in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == stratum))
        if len(members) == 1:
            uncovered.append(int(stratum))
            continue
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        held_out.append(members[:count])
    if not held_out:
        raise DataError(
            f"no validation split can be drawn from {len(strata)} example(s), one of each kind: "
            "give --validation_dir, or more images of each class."
        )
    validation = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(strata)), validation), validation, uncovered


def draw_of_each(strata: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Return `size` ascending indices of every stratum, or all of a smaller one; larger draws contain smaller ones."""
    rng = np.random.default_rng(seed)
    return np.sort(np.concatenate([rng.permutation(np.flatnonzero(strata == s))[:size] for s in np.unique(strata)]))


def draw_subset(strata: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Return `size` ascending indices in which every stratum has its share (largest remainders get the rest)."""
    if size < 1:
        raise DataError(f"max_…_samples is {size}: give a positive number of examples, or leave it out.")
    if size >= len(strata):
        return np.arange(len(strata))
    rng = np.random.default_rng(seed)
    groups, counts = np.unique(strata, return_counts=True)
    share = counts * size / len(strata)
    taken = np.floor(share).astype(int)
    order = np.lexsort((rng.permutation(len(groups)), taken - share))  # largest remainder first, ties at random
    taken[order[: size - taken.sum()]] += 1
    drawn = [rng.permutation(np.flatnonzero(strata == g))[:n] for g, n in zip(groups, taken, strict=True)]
    return np.sort(np.concatenate(drawn))
