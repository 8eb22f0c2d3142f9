"""The choice of features and head, by cross-validation on the training examples alone.

Shapes: N examples, D width of the features, K outputs (classes, labels or targets).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from ..common.errors import DataError
from ..data.splits import draw_subset
from ..data.targets import Targets
from ..tasks.registry import task_named
from ..tasks.task import Task
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
ON_REQUEST = ("prototypes",)
FOLDS = 5
REPEATS = ((200, 4), (1000, 2))  # (up to so many examples, how often the folds are drawn); otherwise once
LOOKED_AT = 20_000  # the most examples that selection uses
TEMPERATURES = np.geomspace(0.05, 20, 61)
Name = TypeVar("Name")


@dataclass(frozen=True)
class Head:
    """A fitted linear head.

    weight [K, D], bias [K]: float64, for unscaled features.   kind: of KINDS.   strength: its penalty or shrinkage.
    held_out: (indices [n], float64 [n, K]): the outputs for held-out examples of heads with the same settings; None
    where there are too few examples.
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
    """Return (the candidate whose features predict best, the error of each); of equal ones the first.

    The error is ridge regression's leave-one-out error at the best strength, divided by the error of always predicting
    the mean. labels: class ids [N], multi-hot [N, K] or values [N] or [N, K].
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
    """Return labels as float64 [N, K]: class ids as one-hot rows, anything else unchanged."""
    values = torch.as_tensor(np.asarray(labels))
    if not values.is_floating_point():
        return F.one_hot(values, outputs).double()
    return values.double().reshape(len(values), -1)


def fit_head(
    features: torch.Tensor,
    targets: Targets,
    outputs: int,
    kind: str | None = None,
    seed: int = 0,
    views: torch.Tensor | None = None,
) -> Head:
    """Return the best head for features [N, D] among the kinds for the targets' task, or of `kind` alone.

    The strength of ridge is chosen by leave-one-out error. Other kinds and their strengths are chosen by repeated
    stratified cross-validation: by the share of right answers, where the task has such (`in_points`), then by the loss.
    views: features [V·N, D] of V views of each example, to which the head is fitted in the end.
    """
    scaling = Scaling(features)
    scaled = scaling(features)
    count = 1 if views is None else len(views) // len(features)
    task = task_named(targets.problem_type)
    kinds = (kind,) if kind else tuple(kind for kind in task.heads if kind not in ON_REQUEST)
    if kinds == ("ridge",):
        numbers = as_targets(targets.values, outputs)
        spread = numbers.std(dim=0, correction=0).clamp_min(1e-12)
        errors = leave_one_out_errors(scaled, numbers / spread, RIDGE_STRENGTHS)
        strength = RIDGE_STRENGTHS[int(errors.argmin())]
        held_out = np.arange(len(numbers)), leave_one_out_answers(scaled, numbers, strength)
        if views is not None:
            scaling = Scaling(views)
            scaled, numbers = scaling(views), numbers.repeat(count, 1)
        weight, bias = fit_ridge(scaled, numbers, strength * count)
        return Head(*scaling.folded(weight, bias), "ridge", strength, held_out)
    values = torch.as_tensor(targets.values)
    found = cross_validate(scaled, targets, task, outputs, kinds, seed)
    unchosen: Any = (kinds[0], _middle(kinds[0]), 1.0, None)
    best, strength, temperature, held_out = found or unchosen
    if views is not None:
        scaled, values = scaling(views), values.repeat(count, *(1,) * (values.ndim - 1))
    penalty = strength * count if best == "logistic" else strength
    weight, bias = next(_fits(best, scaled, values, outputs, (penalty,)))
    return Head(*scaling.folded(weight / temperature, bias / temperature), best, strength, held_out)


def cross_validate(
    scaled: torch.Tensor, targets: Targets, task: Task, outputs: int, kinds: Sequence[str], seed: int
) -> tuple[str, float, float, tuple[np.ndarray, torch.Tensor]] | None:
    """Return (kind, strength, temperature, `held_out` of `Head`) of the head that predicts held-out examples best.

    The temperature divides its logits so that their probabilities fit best. Returns None where no class has two
    examples.
    """
    groups, labels = targets.strata(), torch.as_tensor(targets.values)
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
        right = float(task.score(one.numpy(), answers.numpy()).mean()) if task.in_points else 0.0
        scores.append((right, -loss, temperature))
    best = max(range(len(candidates)), key=lambda place: scores[place][:2])
    temperature = scores[best][2]
    return *candidates[best], temperature, (chosen, logits[best, 0].clamp_min(NEVER) / temperature)


def held_out_logits(
    features: torch.Tensor,
    labels: np.ndarray,
    outputs: int,
    kind: str,
    strength: float,
    copies: np.ndarray | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """Return float64 [N, K]: the logits of each example by a head that was fitted to the other folds alone.

    Their temperature is chosen so that their probabilities fit the labels best.   labels: class ids [N].   kind,
    strength: of the heads.   copies: [N] numbers, equal for examples that must lie in one fold, such as copies of one
    image; their first label decides on the fold. Raises DataError for fewer than two such groups.
    """
    scaled, answers = Scaling(features)(features), torch.as_tensor(labels)
    _, first, group = np.unique(np.arange(len(labels)) if copies is None else copies, True, True)
    folds = stratified_folds(labels[first], FOLDS, seed)
    if len(folds) < 2:
        raise DataError(f"{len(folds)} image(s) cannot be held out from one another: at least two are needed.")
    logits = torch.empty(len(labels), outputs, dtype=torch.float64)
    for fold in folds:
        inside = np.isin(group, fold)
        rest = np.flatnonzero(~inside)
        weight, bias = next(_fits(kind, scaled[rest], answers[rest], outputs, (strength,)))
        logits[inside] = F.linear(scaled[inside], weight, bias)
    logits = logits.clamp_min(NEVER)
    return logits / _calibrated(logits, answers)[1]


def stratified_folds(groups: np.ndarray, folds: int, seed: int) -> list[np.ndarray]:
    """Return the indices of each stratified fold; each group is dealt out over the folds where the last one ended."""
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(np.flatnonzero(groups == group)) for group in np.unique(groups)])
    return [np.sort(part) for fold in range(folds) if len(part := order[fold::folds])]


def nearest_neighbours(features: torch.Tensor, labels: np.ndarray, neighbours: int = 5) -> float:
    """Return the leave-one-out accuracy of k-NN by cosine similarity, a baseline for a fitted head."""
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
    """(mean loss, temperature) at the temperature of least loss."""
    single = labels.ndim == 1
    losses = []
    for temperature in TEMPERATURES:
        scaled = logits / temperature
        measured = F.cross_entropy if single else F.binary_cross_entropy_with_logits
        losses.append(float(measured(scaled, labels if single else labels.double())))
    best = int(np.argmin(losses))
    return losses[best], float(TEMPERATURES[best])
