"""Whether some cells of images decide an answer: they are exchanged between images, and the probability is watched.

Pairs of images are looked at: one that the model calls the suspected class, and one of another class. Both are at
hand with and without the cells: the first gets the other's cells, the other gets the first one's. What is put in is
then always a piece of a real image. A blurred copy is measured too; but a blur keeps a colour, such as a border's.
The same is done with other cells, as many of them: the controls. All of them must do less.

Shapes: n pairs, C channels, H×W pixels, h×w grid, c controls.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..measures.perturbed import BLUR, blurred
from .evidence import Answering

FLIPS = 20_000  # random signs of a test: the smallest p-value is 1 / (FLIPS + 1)
RESAMPLED = 2_000  # draws of an interval
LEVEL = 0.95  # of intervals


@dataclass(frozen=True)
class Mean:
    """A mean over pairs and its interval of 95 %, by the bootstrap."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray, seed: int = 0) -> "Mean":
        """Return the mean of values [n]."""
        drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLED, len(values)))
        low, high = np.quantile(values[drawn].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return cls(float(values.mean()), float(low), float(high))


@dataclass(frozen=True)
class Effect:
    """What an intervention does to the probability of the suspected class.

    before, after: the mean without and with it.   change: by how much it moves as claimed, down if cells are taken away
    and up if they are put in.   control: the change by the control that does most.   beyond: change minus that of the
    control that it exceeds least, pair by pair.   p_value: of "some control does as much", one-sided, by random signs.
    """

    before: Mean
    after: Mean
    change: Mean
    control: Mean
    beyond: Mean
    p_value: float


@dataclass(frozen=True)
class Control:
    """Other cells.   masks: bool [n, h, w].   own: the images [n, C, H, W] that they are of, None for the pairs'."""

    masks: np.ndarray
    own: torch.Tensor | None = None


@dataclass(frozen=True)
class Exchange:
    """Which cells of n pairs are exchanged.   regions: bool [n, h, w].   controls: other cells instead."""

    regions: np.ndarray
    controls: Sequence[Control]


@dataclass(frozen=True)
class Outcome:
    """What was measured of `pairs` pairs.

    taken: the suspected images get the other images' cells.   blurred: they get a blur there.   pasted: the others get
    theirs.   cells_taken, cells_pasted: mean numbers, of `of`.   probabilities: {"own", "without", "blurred", "other",
    "with"}, each [n], for pictures.
    """

    pairs: int
    cells_taken: float
    cells_pasted: float
    of: int
    taken: Effect
    blurred: Effect
    pasted: Effect
    probabilities: dict[str, np.ndarray]


def intervene(
    answering: Answering,
    target: int,
    own: torch.Tensor,
    other: torch.Tensor,
    taken: Exchange,
    pasted: Exchange,
    seed: int,
) -> Outcome:
    """Measure what exchanging cells in n pairs does to the probability of `target`.

    own, other: pixels [n, C, H, W].   taken: what the suspected images lose.   pasted: what the others get.
    """

    def probability(images: torch.Tensor) -> np.ndarray:
        return answering.probability(images, target)

    p_own, p_other = probability(own), probability(other)
    smooth = smoothed(own)
    without, hidden = probability(mixed(own, other, taken.regions)), probability(mixed(own, smooth, taken.regions))
    put = probability(mixed(other, own, pasted.regions))
    lost, faded, gained = [], [], []
    for one in taken.controls:
        base = own if one.own is None else one.own
        before = p_own if one.own is None else probability(base)
        lost.append(before - probability(mixed(base, other, one.masks)))
        faded.append(before - probability(mixed(base, smooth if one.own is None else smoothed(base), one.masks)))
    for one in pasted.controls:
        gained.append(probability(mixed(other, own if one.own is None else one.own, one.masks)) - p_other)
    return Outcome(
        len(own),
        float(taken.regions.sum(axis=(1, 2)).mean()),
        float(pasted.regions.sum(axis=(1, 2)).mean()),
        int(np.prod(taken.regions.shape[1:])),
        _effect(p_own, without, -1.0, lost, seed),
        _effect(p_own, hidden, -1.0, faded, seed),
        _effect(p_other, put, 1.0, gained, seed),
        {"own": p_own, "without": without, "blurred": hidden, "other": p_other, "with": put},
    )


def mixed(base: torch.Tensor, source: torch.Tensor, masks: np.ndarray) -> torch.Tensor:
    """Return images [n, C, H, W] that show `source` in the cells bool [n, h, w], and `base` elsewhere."""
    return torch.where(pixels_in(masks, base.shape[2:])[:, None], source, base)


def pixels_in(masks: np.ndarray, size: Sequence[int]) -> torch.Tensor:
    """Return bool [n, H, W]: the pixels of `size` that lie in the cells bool [n, h, w]."""
    rows, columns = (torch.arange(size[i]) * masks.shape[1 + i] // size[i] for i in (0, 1))
    return torch.from_numpy(np.array(masks))[:, rows][:, :, columns]


def smoothed(images: torch.Tensor) -> torch.Tensor:
    """Return images [n, C, H, W] under the blur of `perturbed`."""
    return torch.stack([blurred(image, BLUR * min(image.shape[1:])) for image in images])


def _effect(before: np.ndarray, after: np.ndarray, sign: float, controls: Sequence[np.ndarray], seed: int) -> Effect:
    """before, after: [n].   controls: the changes by other cells, each [n]."""
    change = sign * (after - before)
    differences = [change - one for one in controls]
    least = min(differences, key=lambda one: float(one.mean()))
    return Effect(
        Mean.of(before), Mean.of(after), Mean.of(change), Mean.of(max(controls, key=lambda one: float(one.mean()))),
        Mean.of(least), max(sign_flip_p(one, seed) for one in differences),
    )  # fmt: skip


def sign_flip_p(values: np.ndarray, seed: int) -> float:
    """Return the one-sided p-value of "the mean of values [n] is not above 0", by random changes of their signs."""
    signs = np.random.default_rng(seed).integers(2, size=(FLIPS, len(values))) * 2 - 1
    return float((1 + ((signs * values).mean(axis=1) >= values.mean() - 1e-12).sum()) / (FLIPS + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(order))
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected.tolist()
