"""How far confidences can be trusted: expected calibration error, and the temperature that mends it.

Both after Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv:1706.04599), sections 2 and 4.2.

Shapes: N examples, C classes.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_softmax, softmax

ECE_BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Equal-width bins ((b-1)/bins, b/bins] of confidence: how many examples, how many of them right, and the sum of
    their confidences, [bins] each.
    """

    count: np.ndarray
    right: np.ndarray
    confidence: np.ndarray


def reliability(confidences: np.ndarray, correct: np.ndarray, bins: int = ECE_BINS) -> Reliability:
    """confidences: [N] probability of the predicted class.   correct: [N] whether it was the true one."""
    which = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidences, side="left")
    counted = (None, np.asarray(correct, np.float64), np.asarray(confidences, np.float64))
    return Reliability(*(np.bincount(which, weights, minlength=bins) for weights in counted))


def bin_calibration_error(confidences: np.ndarray, correct: np.ndarray, bins: int = ECE_BINS) -> float:
    """Σ_b |B_b|/N · |mean accuracy in b - mean confidence in b| over the bins of `reliability`."""
    found = reliability(confidences, correct, bins)
    return float(np.abs(found.right - found.confidence).sum() / found.count.sum())


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """`bin_calibration_error` of softmax(logits / temperature).   logits: [N, C]; labels: [N]."""
    probabilities = softmax(np.asarray(logits, np.float64) / temperature, axis=1)
    return bin_calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Mean cross-entropy of softmax(logits / temperature), in nats.   logits: [N, C]; labels: [N]."""
    scores = log_softmax(np.asarray(logits, np.float64) / temperature, axis=1)
    return float(-scores[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> tuple[float | None, str | None]:
    """The T > 0 that minimises the NLL of softmax(logits / T), or (None, why there is none).

    In β = 1/T the NLL is convex: its slope, E_{softmax(βz)}[z] - z_y averaged over the examples, only rises.
    The minimum is the slope's root, unique when it exists. It exists unless the slope is already positive at
    β = 0 (true classes score below average) or stays negative for ever (every example is classified right).
    """
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.mean(axis=1, keepdims=True)
    true = logits[np.arange(len(labels)), labels]

    def slope(log_beta: float) -> float:
        expected = (softmax(np.exp(log_beta) * logits, axis=1) * logits).sum(axis=1)
        return float((expected - true).mean())

    if np.all(logits.max(axis=1) == true):
        return (
            None,
            "no finite temperature: every example is classified right, so a colder softmax is always better",
        )
    if true.mean() <= 0:
        return None, "no finite temperature: the true classes score no better than average, uniform is best"
    low, high = -1.0, 1.0
    while slope(low) > 0:
        low *= 2
    while slope(high) < 0:
        high *= 2
    return float(np.exp(-brentq(slope, low, high, xtol=1e-10))), None
