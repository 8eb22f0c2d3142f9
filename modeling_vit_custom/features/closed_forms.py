"""Linear heads with a closed form: ridge regression with leave-one-out errors, and regularized discriminant analysis.

Shapes: N examples, D width of the features, K outputs (classes or targets), S strengths, r ≤ min(N, D) rank.
"""

from collections.abc import Iterator, Sequence

import torch

RIDGE_STRENGTHS = tuple(10.0 ** (power / 2) for power in range(-6, 5))  # for features scaled by `Scaling`
SHRINKAGES = (1.0, 0.9, 0.7, 0.5, 0.3, 0.1, 0.03, 0.01)
NEVER = -1e4  # a logit that is never the highest; half precision holds it
ALIKE = 1e-10  # eigenvalues below this share of the largest count as rounding errors


class Scaling:
    """Scaling of each feature to mean 0 and standard deviation 1/√D, by the statistics of `features` [N, D].

    A constant feature becomes 0.
    """

    def __init__(self, features: torch.Tensor):
        features = features.double()
        self.mean = features.mean(dim=0)
        deviation = (features - self.mean).square().mean(dim=0).sqrt()
        varies = deviation > ALIKE * (1 + self.mean.abs())
        self.factor = torch.where(varies, 1 / deviation.clamp_min(1e-300), 0.0) / features.shape[1] ** 0.5

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Return the scaled features, float64 [N, D]."""
        return (features.double() - self.mean) * self.factor

    def folded(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weight [K, D] and bias [K] for unscaled features, given those for scaled ones."""
        own = weight * self.factor
        return own, bias - own @ self.mean


def spectrum(scaled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return U [N, r], squared singular values [r] and V [D, r] of a matrix [N, D], by its smaller Gram matrix."""
    count, width = scaled.shape
    small = scaled @ scaled.T if count <= width else scaled.T @ scaled
    values, vectors = torch.linalg.eigh(small)
    kept = values > ALIKE * values[-1].clamp_min(1e-300)
    values, vectors = values[kept], vectors[:, kept]
    if count <= width:
        return vectors, values, scaled.T @ vectors / values.sqrt()
    return scaled @ vectors / values.sqrt(), values, vectors


def leave_one_out_errors(scaled: torch.Tensor, targets: torch.Tensor, strengths: Sequence[float]) -> torch.Tensor:
    """Return [S]: ridge regression's leave-one-out squared error at each strength, summed over K, mean over N.

    scaled [N, D] has mean 0; targets [N, K]. The hat matrix gives it without N fits (PRESS, Allen 1974).
    """
    decomposed, targets = spectrum(scaled), targets.double()
    answers = (_without_each(decomposed, targets, strength) for strength in strengths)
    return torch.stack([(targets - answer).square().sum(dim=1).mean() for answer in answers])


def leave_one_out_answers(scaled: torch.Tensor, targets: torch.Tensor, strength: float) -> torch.Tensor:
    """Return [N, K]: the prediction for each example by ridge regression on all others (leave-one-out)."""
    return _without_each(spectrum(scaled), targets.double(), strength)


def _without_each(decomposed: Sequence[torch.Tensor], targets: torch.Tensor, strength: float) -> torch.Tensor:
    left, values, _ = decomposed
    centred = targets - targets.mean(dim=0)
    kept = values / (values + strength)
    leverage = left.square() @ kept + 1 / len(targets)
    residual = centred - left @ (kept[:, None] * (left.T @ centred))
    return targets - residual / (1 - leverage).clamp_min(1e-6)[:, None]


def fit_ridge(scaled: torch.Tensor, targets: torch.Tensor, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight [K, D] and bias [K] of ridge regression; scaled [N, D] has mean 0, targets [N, K]."""
    left, values, right = spectrum(scaled)
    mean = targets.double().mean(dim=0)
    projected = left.T @ (targets.double() - mean)
    return (right @ (projected * (values.sqrt() / (values + strength))[:, None])).T, mean


def fit_discriminants(
    scaled: torch.Tensor, labels: torch.Tensor, classes: int, shrinkages: Sequence[float]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield weight [K, D] and bias [K] of linear discriminant analysis for each shrinkage (Friedman 1989).

    The covariance within classes is blended with its mean variance. At shrinkage 1 only class prototypes are left, and
    the nearest by Euclidean distance wins. A class without examples gets a very low but finite logit (`NEVER`), so that
    the head can be stored and trained further.
    """
    counts = torch.bincount(labels, minlength=classes).double()
    sums = torch.zeros(classes, scaled.shape[1], dtype=scaled.dtype).index_add_(0, labels, scaled)
    means = sums / counts.clamp_min(1)[:, None]
    within = scaled - means[labels]
    freedom = max(1, len(labels) - int((counts > 0).sum()))
    variance = float(within.square().sum()) / freedom / scaled.shape[1] or 1.0  # 0 with one example per class
    prior = (counts / counts.sum()).log().clamp_min(NEVER)
    _, values, right = spectrum(within) if bool((within != 0).any()) else (None, torch.zeros(0), torch.zeros(0))
    projected = means @ right if len(values) else None
    for shrinkage in shrinkages:
        ridge = shrinkage * variance
        weight = means / ridge
        if projected is not None:
            spread = (1 - shrinkage) * values / freedom
            weight = weight - (projected * (spread / (spread + ridge) / ridge)) @ right.T
        yield weight, prior - (weight * means).sum(dim=1) / 2
