"""How well a model tells images that it does not know from those of its classes: measured, never promised.

Shapes: N images of known classes, M unknown ones, P points of a curve.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

POINTS = 101


@dataclass(frozen=True)
class Typicality:
    """values: [N], from 0 to 1, or the largest probability of a class.   unknown: [N], whether each is below the line.

    level: the line; None of a model that answers every image, whose `unknown` is all False.
    """

    values: np.ndarray
    unknown: np.ndarray
    level: float | None


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """Return the share of pairs in which a known image [N] is more typical than an unknown one [M]; ties count half."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([known, unknown]))[: len(known)]
    return float((ranks.sum() - len(known) * (len(known) + 1) / 2) / (len(known) * len(unknown)))


def false_alarms(known: np.ndarray, unknown: np.ndarray, recall: float = 0.95) -> float:
    """Return the share of known images [N] that a line refuses which recognises `recall` of the unknown ones [M]."""
    line = np.sort(unknown)[int(np.ceil(recall * len(unknown))) - 1]
    return float((known <= line).mean())


def risk_coverage(typicality: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return [P, 2] of float64: the share of images answered, most typical first, and the share of those that is wrong.

    right: [N], from 0 to 1.   El-Yaniv & Wiener 2010, "On the foundations of noise-free selective classification".
    """
    order = np.argsort(-typicality, kind="stable")
    wrong = np.cumsum(1 - right[order])
    counts = np.unique(np.ceil(np.linspace(0, 1, POINTS)[1:] * len(order)).astype(int))
    return np.stack([counts / len(order), wrong[counts - 1] / counts], axis=1)


def measure_unknown(known: Typicality, right: np.ndarray, unknown: Typicality | None = None) -> dict[str, Any]:
    """Return the entry "unknown" of an evaluation's JSON.

    known: of the evaluated images.   right: [N], how right each answer is, from 0 to 1.   unknown: of images of none of
    the classes.
    """
    answered = ~known.unknown
    found: dict[str, Any] = {
        "by": "probability" if known.level is None else "typicality",
        "level": known.level,
        "answered": float(answered.mean()),
        "error_of_answers": float(1 - right[answered].mean()) if answered.any() else None,
        "risk_coverage": risk_coverage(known.values, right).round(6).tolist(),
    }
    if unknown is not None:
        found |= {
            "n_unknown": len(unknown.values),
            "recognised": None if known.level is None else float(unknown.unknown.mean()),
            "auroc": auroc(known.values, unknown.values),
            "false_alarms_at_95_recognised": false_alarms(known.values, unknown.values),
        }
    return found
