"""Which features and which head: chosen by cross-validation on the training examples alone.

Shapes: N examples, D width of the features, K outputs (classes, labels or targets).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from ..data.examples import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from ..data.labels import strata
from ..data.splits import draw_subset
from .closed_forms import (
    NEVER,
    RIDGE_STRENGTHS,
    SHRINKAGES,
    Scaling,
    fit_discriminants,
    fit_ridge,
    leave_one_out_answers,
    leave_one_out_errors,
)
from .logistic import STRENGTHS, fit_logistic

KINDS = ("logistic", "discriminant", "prototypes", "ridge")
KINDS_OF = {
    SINGLE_LABEL: ("logistic", "discriminant", "prototypes"),
    MULTI_LABEL: ("logistic",),
    REGRESSION: ("ridge",),
}
FOLDS = 5
REPEATS = ((200, 4), (1000, 2))  # (up to so many examples, times that the folds are drawn); otherwise once
LOOKED_AT = 20_000  # examples that selection reads at most
TEMPERATURES = np.geomspace(0.05, 20, 61)
Name = TypeVar("Name")


@dataclass(frozen=True)
class Head:
    """weight [K, D], bias [K]: float64, of the features as they are.

    kind, strength: of KINDS, and its penalty or shrinkage.
    held_out: (indices [n], float64 [n, K]) what a head with the same settings gives for examples that it was not fitted
    to; None where there are too few.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    kind: str
    strength: float
    held_out: tuple[np.ndarray, torch.Tensor] | None = None

    def __str__(self) -> str:
        what = "shrinkage" if self.kind in ("discriminant", "prototypes") else "L2 penalty"
        return f"{self.kind}, {what} {self.strength:g}"


def choose_features(
    candidates: Sequence[Name], features_of: Callable[[Name], torch.Tensor], labels: np.ndarray, outputs: int
) -> tuple[Name, dict[Name, float]]:
    """Return the candidate whose features predict best, and the error of each: the first unless another is better.

    The error is that of ridge regression on each example by all the others, as a share of what always answering the
    mean leaves, at the best strength. labels: class ids [N], multi-hot [N, K] or values [N] or [N, K].
    """
    targets = as_targets(labels, outputs)
    alone = float((targets - targets.mean(dim=0)).square().sum(dim=1).mean()) or 1.0
    errors = {}
    for name in candidates:
        features = features_of(name)
        found = leave_one_out_errors(Scaling(features)(features), targets, RIDGE_STRENGTHS)
        errors[name] = float(found.min()) / alone
    return min(candidates, key=lambda name: errors[name]), errors


def as_targets(labels: np.ndarray, outputs: int) -> torch.Tensor:
    """Return float64 [N, K]: class ids as one-hot rows, anything else as it is."""
    values = torch.as_tensor(np.asarray(labels))
    if not values.is_floating_point():
        return F.one_hot(values, outputs).double()
    return values.double().reshape(len(values), -1)


def fit_head(
    features: torch.Tensor,
    labels: np.ndarray,
    problem_type: str,
    outputs: int,
    kind: str | None = None,
    seed: int = 0,
    views: torch.Tensor | None = None,
) -> Head:
    """Return the best head for features [N, D] of a task; with a `kind`, only its strength is chosen.

    Single labels: logistic regression or a shrunken discriminant, by accuracy in repeated stratified cross-validation;
    multi-label: logistic regression, by its loss there; regression: ridge, by its leave-one-out error.
    views: features [V·N, D] of V views of each example, to which the head is fitted in the end.
    """
    scaling = Scaling(features)
    scaled = scaling(features)
    count = 1 if views is None else len(views) // len(features)
    if problem_type == REGRESSION:
        targets = as_targets(labels, outputs)
        spread = targets.std(dim=0, correction=0).clamp_min(1e-12)
        errors = leave_one_out_errors(scaled, targets / spread, RIDGE_STRENGTHS)
        strength = RIDGE_STRENGTHS[int(errors.argmin())]
        held_out = np.arange(len(targets)), leave_one_out_answers(scaled, targets, strength)
        if views is not None:
            scaling = Scaling(views)
            scaled, targets = scaling(views), targets.repeat(count, 1)
        weight, bias = fit_ridge(scaled, targets, strength * count)
        return Head(*scaling.folded(weight, bias), "ridge", strength, held_out)
    kinds = (kind,) if kind else ("logistic",) if problem_type == MULTI_LABEL else ("logistic", "discriminant")
    values = torch.as_tensor(np.asarray(labels))
    found = cross_validate(scaled, values, outputs, kinds, seed)
    unchosen: Any = (kinds[0], _middle(kinds[0]), 1.0, None)
    best, strength, temperature, held_out = found or unchosen
    if views is not None:
        scaled, values = scaling(views), values.repeat(count, *(1,) * (values.ndim - 1))
    penalty = strength * count if best == "logistic" else strength
    weight, bias = next(_fits(best, scaled, values, outputs, (penalty,)))
    return Head(*scaling.folded(weight / temperature, bias / temperature), best, strength, held_out)


def cross_validate(
    scaled: torch.Tensor, labels: torch.Tensor, outputs: int, kinds: Sequence[str], seed: int
) -> tuple[str, float, float, tuple[np.ndarray, torch.Tensor]] | None:
    """Return (kind, strength, temperature, `held_out` of `Head`) of the head that answers best for held-out examples.

    The temperature divides its logits so that their probabilities fit best. None where no class has two examples.
    """
    groups = strata(labels.numpy(), SINGLE_LABEL if labels.ndim == 1 else MULTI_LABEL)
    chosen = draw_subset(groups, LOOKED_AT, seed)
    scaled, labels, groups = scaled[chosen], labels[chosen], groups[chosen]
    if np.bincount(groups).max() < 2:
        return None
    candidates = [(kind, strength) for kind in kinds for strength in _strengths(kind)]
    repeats = next((times for most, times in REPEATS if len(scaled) <= most), 1)
    logits = torch.empty(len(candidates), repeats, len(scaled), outputs, dtype=torch.float64)
    for repeat in range(repeats):
        for held_out in stratified_folds(groups, FOLDS, seed + repeat):
            rest = np.setdiff1d(np.arange(len(scaled)), held_out)
            fits = (fit for kind in kinds for fit in _fits(kind, scaled[rest], labels[rest], outputs, _strengths(kind)))
            for place, (weight, bias) in enumerate(fits):
                logits[place, repeat, held_out] = F.linear(scaled[held_out], weight, bias)
    flat = logits.flatten(1, 2).clamp_min(NEVER)
    answers = labels.repeat(repeats, *(1,) * (labels.ndim - 1))
    scores = []
    for one in flat:
        loss, temperature = _calibrated(one, answers)
        right = float((one.argmax(dim=1) == answers).double().mean()) if labels.ndim == 1 else 0.0
        scores.append((right, -loss, temperature))
    best = max(range(len(candidates)), key=lambda place: scores[place][:2])
    temperature = scores[best][2]
    return *candidates[best], temperature, (chosen, logits[best, 0].clamp_min(NEVER) / temperature)


def stratified_folds(groups: np.ndarray, folds: int, seed: int) -> list[np.ndarray]:
    """Return the indices of each fold: every group is dealt out in turn, beginning where the one before ended."""
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(np.flatnonzero(groups == group)) for group in np.unique(groups)])
    return [np.sort(part) for fold in range(folds) if len(part := order[fold::folds])]


def nearest_neighbours(features: torch.Tensor, labels: np.ndarray, neighbours: int = 5) -> float:
    """Return the accuracy of k-NN by cosine on each example by all others: a yardstick for a fitted head."""
    chosen = draw_subset(labels, LOOKED_AT, 0)
    unit = F.normalize(features[chosen].float(), dim=1)
    classes = torch.as_tensor(labels)[chosen]
    right = 0
    for part in torch.arange(len(unit)).split(1024):
        alike = unit[part] @ unit.T
        alike[torch.arange(len(part)), part] = -2.0
        nearest = classes[alike.topk(min(neighbours, len(unit) - 1), dim=1).indices]
        right += int((nearest.mode(dim=1).values == classes[part]).sum())
    return right / len(unit)


def _strengths(kind: str) -> tuple[float, ...]:
    return {"logistic": STRENGTHS, "discriminant": SHRINKAGES, "prototypes": (1.0,)}[kind]


def _middle(kind: str) -> float:
    return {"logistic": 0.1, "discriminant": 0.7, "prototypes": 1.0}[kind]


def _fits(
    kind: str, scaled: torch.Tensor, labels: torch.Tensor, outputs: int, strengths: Sequence[float]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    if kind == "logistic":
        return fit_logistic(scaled, labels, outputs, strengths)
    return fit_discriminants(scaled, labels, outputs, strengths)


def _calibrated(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Return (mean loss, temperature) at the temperature of least loss."""
    single = labels.ndim == 1
    losses = []
    for temperature in TEMPERATURES:
        scaled = logits / temperature
        measured = F.cross_entropy if single else F.binary_cross_entropy_with_logits
        losses.append(float(measured(scaled, labels if single else labels.double())))
    best = int(np.argmin(losses))
    return losses[best], float(TEMPERATURES[best])
