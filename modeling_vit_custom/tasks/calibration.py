"""Calibration of confidences: expected calibration error, and the temperature that corrects it.

Both after Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv:1706.04599), sections 2 and 4.2.

Shapes: N examples, C classes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

ECE_BINS = 15
CACHED = 2**17  # float64 numbers in a part of the logits
TINY = 1e-300
TURNS = 30  # Newton steps before bisection takes over; about six are needed


@dataclass(frozen=True)
class Reliability:
    """Equal-width bins ((b-1)/bins, b/bins] of confidence: number of examples, number of right ones, and sum of their
    confidences, [bins] each.
    """

    count: np.ndarray
    right: np.ndarray
    confidence: np.ndarray

    @classmethod
    def empty(cls, bins: int = ECE_BINS) -> "Reliability":
        return cls(np.zeros(bins, np.int64), np.zeros(bins), np.zeros(bins))

    def add(self, confidences: np.ndarray, correct: np.ndarray) -> None:
        """Add [n] probabilities of the predicted classes, and whether each prediction was right, [n]."""
        which = np.searchsorted(np.linspace(0, 1, len(self.count) + 1)[1:-1], confidences, side="left")
        np.add.at(self.count, which, 1)
        np.add.at(self.right, which, np.asarray(correct, np.float64))
        np.add.at(self.confidence, which, np.asarray(confidences, np.float64))

    def error(self) -> float:
        """Return the expected calibration error: Σ_b |B_b|/N · |mean accuracy in b - mean confidence in b|."""
        return float(np.abs(self.right - self.confidence).sum() / self.count.sum())


def reliability(confidences: np.ndarray, correct: np.ndarray, bins: int = ECE_BINS) -> Reliability:
    """Return the bins for [N] probabilities of the predicted classes, and whether each was right, [N]."""
    found = Reliability.empty(bins)
    found.add(confidences, correct)
    return found


def bin_calibration_error(confidences: np.ndarray, correct: np.ndarray, bins: int = ECE_BINS) -> float:
    """Return the expected calibration error.

    confidences: [N] probabilities of the predicted classes.   correct: whether each prediction was right, [N].
    """
    return reliability(confidences, correct, bins).error()


def _rows(logits: np.ndarray) -> list[np.ndarray]:
    """Parts of [N, C] that fit into a processor's cache."""
    many = max(1, CACHED // logits.shape[1])
    return [logits[start : start + many] for start in range(0, len(logits), many)]


def _partition(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Σ exp((z - max z) / temperature) over the classes, [N] of logits [N, C]."""
    sums = [np.empty(0)]
    for part in _rows(np.asarray(logits, np.float64)):
        scaled = part / temperature
        sums.append(np.exp(scaled - scaled.max(axis=1, keepdims=True)).sum(axis=1))
    return np.concatenate(sums)


def confidences(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the probability of the most probable class, [N] of softmax(logits [N, C] / temperature)."""
    return 1 / _partition(logits, temperature)


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Return the ECE of softmax(logits / temperature).   logits: [N, C]; labels: [N]."""
    return bin_calibration_error(confidences(logits, temperature), np.argmax(logits, axis=1) == labels)


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Return the mean cross-entropy of softmax(logits / temperature), in nats.

    logits: [N, C]; labels: [N].
    """
    logits = np.asarray(logits, np.float64)
    behind = (logits.max(axis=1) - logits[np.arange(len(labels)), labels]) / temperature
    return float((behind + np.log(_partition(logits, temperature))).mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> tuple[float | None, str | None]:
    """Return (T, None) with the T > 0 that minimises the NLL of softmax(logits / T), or (None, why there is none).

    In β = 1/T the NLL is convex: its slope, E_{softmax(βz)}[z] - z_y averaged over the examples, only rises.
    The minimum is the root of the slope, which is unique if it exists. It exists unless the slope is at least 0 already
    at β = 0 (true classes score no better than average) or stays negative for every β (every example is classified
    right).
    """
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.mean(axis=1, keepdims=True)
    true = logits[np.arange(len(labels)), labels]

    if np.all(logits.max(axis=1) == true):
        return (
            None,
            "no finite temperature: every example is classified right, so a colder softmax is always better",
        )
    if true.mean() <= 0:
        return None, "no finite temperature: the true classes score no better than average, uniform is best"
    log_beta, low, high, turns = 0.0, -np.inf, np.inf, 0
    while True:  # Newton steps within the bracket of the root, then bisection
        slope, rise = _slope(logits, np.exp(log_beta))
        slope -= true.mean()
        low, high = (log_beta, high) if slope < 0 else (low, log_beta)
        step = float(np.clip(-slope / max(rise, TINY), -2, 2))
        turns += 1
        newton = turns < TURNS and low <= log_beta + step <= high
        following = log_beta + step if newton or not np.isfinite(high - low) else (low + high) / 2
        if abs(following - log_beta) < 1e-10:
            return float(np.exp(-following)), None
        log_beta = following


def _slope(logits: np.ndarray, beta: float) -> tuple[float, float]:
    """Mean over the rows of [N, C] of E_{softmax(βz)}[z], and its derivative by log β."""
    mean = rise = 0.0
    for part in _rows(logits):
        weights = np.exp(beta * (part - part.max(axis=1, keepdims=True)))
        total = weights.sum(axis=1)
        weights *= part
        expected = weights.sum(axis=1) / total
        mean += float(expected.sum())
        rise += beta * float((np.einsum("nc,nc->n", weights, part) / total - expected**2).sum())
    return mean / len(logits), rise / len(logits)


def calibrate(logits: np.ndarray, labels: np.ndarray) -> tuple[dict[str, Any], str]:
    """Return ({bins, ECE, NLL, temperature, ECE and NLL with that temperature}, a sentence on the temperature)."""
    temperature, problem = fit_temperature(logits, labels)
    result = {
        "bins": ECE_BINS,
        "ece": expected_calibration_error(logits, labels),
        "nll": negative_log_likelihood(logits, labels),
        "temperature": temperature,
        "ece_with_temperature": None,
        "nll_with_temperature": None,
    }
    if temperature is None:
        return result, str(problem)
    result["ece_with_temperature"] = expected_calibration_error(logits, labels, temperature)
    result["nll_with_temperature"] = negative_log_likelihood(logits, labels, temperature)
    return result, "the temperature is fitted to and measured on these same images: on others it will do less"
