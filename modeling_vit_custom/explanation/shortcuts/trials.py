"""Suspicions put to the test by interventions, the smallest cells of a class first.

Shapes: N images, n pairs, C channels, H×W pixels, h×w grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm.auto import tqdm

from .evidence import Answering, Evidence
from .interventions import Control, Exchange, Outcome, holm, intervene, mixed, pixels_in
from .suspicions import (
    BACKGROUND,
    BORDER,
    CELLS,
    SURROUNDINGS,
    ClassMap,
    Suspicion,
    grown,
    places,
    ring_of,
    surroundings_of,
    suspect,
)

UNSUSPECTED = 8  # images of a class without the suspicion, to compare with
ORDER = (CELLS, BORDER, SURROUNDINGS, BACKGROUND)  # the smaller first
PAIRS = 48  # at most, of a suspicion
FIRST = 16  # pairs to see whether a place is worth more, if its evidence is not striking
MOST = 60  # suspicions that are tested; those with the most evidence beyond other classes'
SPREAD = torch.tensor([0.2, 0.8])  # quantiles
ALIKE = 0.5  # of the spread of pixels at a place between images of other classes: a mark looks alike, an object varies
ALPHA = 0.01  # of p-values, corrected for their number
DROP, RISE = 0.10, 0.10  # change of the probability, and the change beyond the controls, of each kind
BEYOND = {CELLS: (0.10, 0.10), BORDER: (0.20, 0.20), SURROUNDINGS: (0.20, 0.15), BACKGROUND: (0.20, 0.15)}


@dataclass(frozen=True)
class Trial:
    """A suspicion, and what the interventions say.

    own, other: [n], the images of the pairs.   taken, pasted: the cells that were exchanged.
    alike: how far the pixels at a place differ between the suspects, as a share of how far they do between the others.
    p_value: the larger of both effects', corrected for the number of all trials.   doubt: why it is not accused, ""
    if it is.   within: smaller suspicions of the class that it explains.
    """

    suspicion: Suspicion
    own: np.ndarray
    other: np.ndarray
    taken: Exchange
    pasted: Exchange
    outcome: Outcome
    alike: float | None
    p_value: float
    doubt: str
    within: tuple["Trial", ...] = ()

    @property
    def accused(self) -> bool:
        return not self.doubt


def try_all(
    evidence: Evidence, maps: Sequence[ClassMap], off: np.ndarray | None, answering: Answering, seed: int,
    progress: bool = False,
) -> list[Trial]:  # fmt: skip
    """Return a trial of every suspicion, those with the largest effect first.   off: bool [N, h, w], off the object."""
    tried: list[Trial] = []
    for one in tqdm(_most_suspicious(evidence, maps), desc="trials", unit="class", disable=not progress):
        tried += _of_class(evidence, one, off, answering, seed)
    tried = [_tried_again(trial, tried, evidence, answering, seed) for trial in tried]
    corrected = holm([trial.p_value for trial in tried])
    final = [_judged(trial, p) for trial, p in zip(tried, corrected, strict=True)]
    return sorted(_joined(final), key=lambda trial: -trial.outcome.pasted.beyond.value)


def _tried_again(trial: Trial, tried: Sequence[Trial], evidence: Evidence, answering: Answering, seed: int) -> Trial:
    """An accusation tried again without the images of classes that are accused of less, if there are others.

    Their border or surroundings hold their own shortcut, which would raise or lower the probability of any class.
    """
    target, size = trial.suspicion.target, ORDER.index(trial.suspicion.kind)
    smaller = {one.suspicion.target for one in tried if one.accused and ORDER.index(one.suspicion.kind) < size}
    avoided = frozenset(smaller - {target})
    if not trial.accused or not avoided:
        return trial
    outside = _outside(trial.suspicion.cells, trial.suspicion.kind)
    return _tried(evidence, trial.suspicion, outside, answering, seed, avoided) or trial


def _most_suspicious(evidence: Evidence, maps: Sequence[ClassMap]) -> list[ClassMap]:
    """At most so many classes that MOST suspicions are tested."""
    order = sorted(maps, key=lambda one: -float((one.mean - one.others).clip(0).sum()))
    return order[: max(1, MOST // 5)]


def _of_class(
    evidence: Evidence, one: ClassMap, off: np.ndarray | None, answering: Answering, seed: int
) -> list[Trial]:
    """The trials of a class: places, then the border and the surroundings without the places that are blamed."""
    ring, around = ring_of(evidence.grid), surroundings_of(evidence.grid)
    count = len(evidence)
    tried: list[Trial] = []
    blamed = np.zeros(evidence.grid, bool)

    def run(cells: np.ndarray, kind: str) -> bool:
        whole = np.broadcast_to(cells, (count, *evidence.grid))
        suspicion = suspect(evidence, one.target, whole, kind)
        if suspicion is None:
            return False
        outside = _outside(whole, kind)
        if not suspicion.by_evidence and not _promising(evidence, suspicion, outside, answering, seed):
            return False
        trial = _tried(evidence, suspicion, outside, answering, seed)
        if trial is None:
            return False
        tried.append(trial)
        return trial.accused

    for group in places(one):
        group = _narrowed(evidence, one.target, group, seed)
        if run(group, CELLS):
            blamed |= group
    run(ring & ~blamed, BORDER)
    if off is None:
        run(around & ~blamed, SURROUNDINGS)
    else:
        run(off & ~blamed, BACKGROUND)
    return tried


def _outside(cells: np.ndarray, kind: str) -> np.ndarray:
    """The cells bool [N, h, w] that controls are taken from: not too near to a place, and the middle or the object."""
    grid = cells.shape[1:]
    if kind == CELLS:
        return np.broadcast_to(~grown(cells[0]), cells.shape)
    if kind == SURROUNDINGS:
        return np.broadcast_to(~surroundings_of(grid), cells.shape)
    return ~cells


@dataclass(frozen=True)
class _Pairs:
    """own, other: [n].   cells: bool [n, h, w], the suspected ones.   free: where controls may lie.   sizes: [n], how
    many of both there are at least.   regions: as many of the cells.
    """

    own: np.ndarray
    other: np.ndarray
    cells: np.ndarray
    regions: np.ndarray
    free: np.ndarray
    sizes: np.ndarray


def _pairs(
    evidence: Evidence, suspicion: Suspicion, outside: np.ndarray, most: int, rng: np.random.Generator,
    avoided: frozenset[int] = frozenset(),
) -> _Pairs | None:  # fmt: skip
    """Draw up to `most` pairs; None if there are not two. No more cells are exchanged than are left for controls.

    avoided: classes that the other images are not of.
    """
    own = rng.permutation(suspicion.suspects)[:most]
    other = _others(evidence, {suspicion.target, *avoided}, len(own), rng)
    own = own[: len(other)]
    cells, put, free = suspicion.cells[own], suspicion.put[own], outside[own]
    if suspicion.kind == BACKGROUND:
        put = put & suspicion.cells[other]
    sizes = np.minimum(put.sum(axis=(1, 2)), free.sum(axis=(1, 2)))
    kept = sizes > 0
    if kept.sum() < 2:
        return None
    regions = _random_cells(put[kept], sizes[kept], rng)
    return _Pairs(own[kept], other[kept], cells[kept], regions, free[kept], sizes[kept])


def _promising(evidence: Evidence, suspicion: Suspicion, outside: np.ndarray, answering: Answering, seed: int) -> bool:
    """Whether the cells of a few images raise the probability of others, and more than their most evident other cells.

    These pairs count for nothing else.
    """
    pairs = _pairs(evidence, suspicion, outside, FIRST, _draws(seed + 1, suspicion))
    if pairs is None:
        return False
    own, other = evidence.pixels(pairs.own), evidence.pixels(pairs.other)
    control = _top_cells(evidence.shares[pairs.own], pairs.free, pairs.sizes)
    before, after, beside = (
        answering.probability(pixels, suspicion.target).mean()
        for pixels in (other, mixed(other, own, pairs.regions), mixed(other, own, control))
    )
    return bool(after - before >= RISE / 2 and after > beside)


def _tried(
    evidence: Evidence, suspicion: Suspicion, outside: np.ndarray, answering: Answering, seed: int,
    avoided: frozenset[int] = frozenset(),
) -> Trial | None:  # fmt: skip
    rng = _draws(seed, suspicion)
    pairs = _pairs(evidence, suspicion, outside, PAIRS, rng, avoided)
    if pairs is None:
        return None
    controls = [
        Control(_random_cells(pairs.free, pairs.sizes, rng)),
        Control(_top_cells(evidence.shares[pairs.own], pairs.free, pairs.sizes)),
    ]
    controls += _elsewhere(evidence, suspicion, outside, pairs, rng)
    pasted = Exchange(pairs.regions, controls)
    taken = pasted
    if (pairs.regions != pairs.cells).any():  # what is left of them would say the same: all go, or all the others
        taken = Exchange(pairs.cells, [Control(pairs.free)])
    own, other = evidence.pixels(pairs.own), evidence.pixels(pairs.other)
    outcome = intervene(answering, suspicion.target, own, other, taken, pasted, seed)
    p_value = max(outcome.taken.p_value, outcome.pasted.p_value)
    alike = _alike(own, other, suspicion.cells[0]) if suspicion.kind == CELLS else None
    return _judged(Trial(suspicion, pairs.own, pairs.other, taken, pasted, outcome, alike, p_value, ""), p_value)


def _alike(own: torch.Tensor, other: torch.Tensor, cells: np.ndarray) -> float:
    """The spread of the pixels in cells bool [h, w] between images own [n, C, H, W], by that between the others.

    The spread is from the lowest to the highest fifth, so that a few images without the mark do not count.
    """
    inside = pixels_in(cells[None], own.shape[2:])[0]
    spreads = [float(torch.quantile(one[:, :, inside], SPREAD, dim=0).diff(dim=0).mean()) for one in (own, other)]
    return spreads[0] / spreads[1] if spreads[1] else 1.0


def _narrowed(evidence: Evidence, target: int, cells: np.ndarray, seed: int) -> np.ndarray:
    """Those of the cells bool [h, w] in which suspects look alike: a mark without the object beside it; else all."""
    suspicion = suspect(evidence, target, np.broadcast_to(cells, (len(evidence), *cells.shape)), CELLS)
    if suspicion is None:
        return cells
    rng = _draws(seed + 2, suspicion)
    images = rng.permutation(suspicion.suspects)[:PAIRS]
    own, other = evidence.pixels(images), evidence.pixels(_others(evidence, {target}, len(images), rng))
    if _alike(own, other, cells) <= ALIKE:
        return cells
    kept = np.zeros(cells.shape, bool)
    for row, column in np.argwhere(cells):
        one = np.zeros(cells.shape, bool)
        one[row, column] = True
        kept[row, column] = _alike(own, other, one) <= ALIKE
    return kept if kept.any() else cells


def _elsewhere(
    evidence: Evidence, suspicion: Suspicion, outside: np.ndarray, pairs: _Pairs, rng: np.random.Generator
) -> list[Control]:
    """The most evident other cells of images of the class that are not suspects, if there are some.

    Suspects were chosen for their evidence in the cells. If it is that of an object, which may lie there as well as
    elsewhere, then the objects of these images do as much.
    """
    rest = np.setdiff1d(np.flatnonzero(evidence.predicted == suspicion.target), suspicion.suspects)
    if len(rest) < UNSUSPECTED:
        return []
    images = np.resize(rng.permutation(rest), len(pairs.own))
    return [Control(_top_cells(evidence.shares[images], outside[images], pairs.sizes), evidence.pixels(images))]


def _draws(seed: int, suspicion: Suspicion) -> np.random.Generator:
    return np.random.default_rng((seed, suspicion.target, *map(ord, suspicion.kind)))


def _others(evidence: Evidence, classes: set[int], count: int, rng: np.random.Generator) -> np.ndarray:
    """Up to `count` images that neither are of these classes nor are called so, as many of each class as possible."""
    away = ~np.isin(evidence.predicted, list(classes)) & ~np.isin(evidence.labels, list(classes))
    order = rng.permutation(np.flatnonzero(away))
    turn = np.zeros(len(order), int)
    for label in np.unique(evidence.labels[order]):
        mine = evidence.labels[order] == label
        turn[mine] = np.arange(mine.sum())
    return rng.permutation(order[np.argsort(turn, kind="stable")][:count])


def _random_cells(cells: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`sizes` [n] of the cells bool [n, h, w], drawn at random: all of them where there are no more."""
    return _top_cells(rng.random(cells.shape), cells, sizes)


def _top_cells(values: np.ndarray, cells: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The `sizes` [n] of the cells bool [n, h, w] with the highest values."""
    flat = np.where(cells, values, -np.inf).reshape(len(cells), -1)
    rank = np.argsort(np.argsort(-flat, axis=1, kind="stable"), axis=1, kind="stable")
    return (rank < sizes[:, None]).reshape(cells.shape)


def _judged(trial: Trial, p_value: float) -> Trial:
    """The trial with its verdict, given its corrected p-value."""
    taken, pasted = trial.outcome.taken, trial.outcome.pasted
    beyond_drop, beyond_rise = BEYOND[trial.suspicion.kind]
    reasons = []
    if taken.change.value < DROP:
        reasons.append("without these patches the probability hardly falls")
    elif taken.beyond.value < beyond_drop:
        reasons.append("without other patches the probability falls about as much")
    if pasted.change.value < RISE:
        reasons.append("these patches hardly raise the probability of other images")
    elif pasted.beyond.value < beyond_rise:
        reasons.append("other patches raise the probability of other images about as much")
    if trial.alike is not None and trial.alike > ALIKE:
        reasons.append("what is there varies from image to image as an object does: look yourself")
    if not reasons and p_value > ALPHA:
        reasons.append("the effects may be chance")
    return replace(trial, p_value=p_value, doubt="; ".join(reasons))


def _joined(trials: Sequence[Trial]) -> list[Trial]:
    """The trials with those that a larger one explains put inside it.

    Of one class, the border without accused places explains places in it; the surroundings explain both.
    """
    kept: list[Trial] = []
    for trial in sorted(trials, key=lambda one: -ORDER.index(one.suspicion.kind)):
        target, kind = trial.suspicion.target, trial.suspicion.kind
        larger = next(
            (
                one
                for one in kept
                if one.accused and one.suspicion.target == target
                and ORDER.index(one.suspicion.kind) > ORDER.index(kind) and _covers(one.suspicion, trial.suspicion)
            ),
            None,
        )  # fmt: skip
        if larger is None:
            kept.append(trial)
        else:
            place = kept.index(larger)
            kept[place] = replace(larger, within=(*larger.within, trial))
    return kept


def _covers(larger: Suspicion, smaller: Suspicion) -> bool:
    """Whether the smaller one's cells lie in the kind of place that the larger one is."""
    grid = smaller.cells.shape[1:]
    zone = {BORDER: ring_of(grid), SURROUNDINGS: surroundings_of(grid)}.get(larger.kind, larger.cells[0])
    return smaller.cells[0][zone].sum() >= 0.5 * smaller.cells[0].sum()
