"""When a classifier should answer "unknown": calibration of `config.unknown` on images used for nothing else.

Two promises. Both are about further images of the known classes, like those of the calibration; about images of other
classes nothing can be promised, only measured (`evaluation.unknown`).

reject: of images of known classes, on average at most a share a is answered "unknown". Split conformal prediction (Vovk
et al. 2005, "Algorithmic Learning in a Random World"); with K folds, in which each image is measured by statistics of
the others, cross-conformal prediction, whose proven bound is weaker, see `proven_bound`.

max_error: of the answers that are not "unknown", at most a share e is wrong, with a confidence of 90 %. Learn then Test
(Angelopoulos et al. 2021, arXiv 2110.01052): thresholds are tested from strict to lax until one may be too lax.

Shapes: N images, D width of the classifier's input, K classes, F folds.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..common.errors import DataError
from ..unknown_vit_custom import CONFIDENCE, ViTCustomUnknown, distances

STARTS = (
    0.999,
    0.99,
    0.95,
    0.8,
    0.5,
)  # thresholds from which the tests go on to laxer ones; each has its share of 10 %
STEP = 0.05  # in log-odds of the probability, from one threshold to the next
Statistics = tuple[torch.Tensor, torch.Tensor]  # (whitening [D, D], whitened means [K, D])


def needed_to_reject(share: float) -> int:
    """Return the smallest number of calibration images with which at most `share` can be promised: 1/share - 1."""
    return math.ceil(1 / share - 1 - 1e-9)


def needed_for_error(share: float) -> int:
    """Return the smallest number of calibration images that can show an error of at most `share`: all of them right."""
    return math.ceil(math.log((1 - CONFIDENCE) / len(STARTS)) / math.log1p(-share))


def class_statistics(unit: torch.Tensor, labels: np.ndarray, classes: int) -> Statistics:
    """Return the statistics of vectors of length 1, [N, D], for `distances`; the covariance as Ledoit & Wolf shrink it.

    A class without images is given the mean of another one.
    """
    from sklearn.covariance import ledoit_wolf

    vectors, ids = unit.double().numpy(), np.asarray(labels)
    there = np.unique(ids)
    means = np.stack([vectors[ids == label].mean(axis=0) for label in there])
    covariance, _ = ledoit_wolf(vectors - means[np.searchsorted(there, ids)], assume_centered=True)
    values, axes = np.linalg.eigh(covariance)
    whitening = axes / np.sqrt(np.maximum(values, 1e-12 * values.max()))
    every = np.full(classes, 0)
    every[there] = np.arange(len(there))
    return torch.from_numpy(whitening).float(), torch.from_numpy((means @ whitening)[every]).float()


def reject_in_split(
    vectors: torch.Tensor, labels: np.ndarray, held_out: torch.Tensor, classes: int, share: float
) -> ViTCustomUnknown:
    """Return what answers "unknown" for at most `share` of known images, with statistics of vectors [N, D].

    held_out: [M, D], vectors of calibration images, of which nothing else has been made.
    Raises DataError if there are too few.
    """
    _check_count(len(held_out), needed_to_reject(share), "reject", share)
    statistics = class_statistics(F.normalize(vectors.float(), dim=1), labels, classes)
    return _conformal([statistics], [held_out], share)


def reject_in_folds(
    vectors: torch.Tensor, labels: np.ndarray, folds: Sequence[np.ndarray], classes: int, share: float
) -> ViTCustomUnknown:
    """Return what answers "unknown" for at most about `share` of known images; each of vectors [N, D] is in a fold.

    folds: indices of the images.   Raises DataError if there are too few images.
    """
    _check_count(len(vectors), needed_to_reject(share), "reject", share)
    unit, rest = F.normalize(vectors.float(), dim=1), np.ones(len(vectors), bool)
    statistics = []
    for fold in folds:
        rest[:] = True
        rest[fold] = False
        statistics.append(class_statistics(unit[torch.from_numpy(rest)], np.asarray(labels)[rest], classes))
    return _conformal(statistics, [vectors[torch.from_numpy(fold)] for fold in folds], share)


def _conformal(statistics: Sequence[Statistics], held_out: Sequence[torch.Tensor], share: float) -> ViTCustomUnknown:
    counts = [len(part) for part in held_out]
    means = statistics[0][1]
    options = {"score": "mahalanobis", "level": share, "images": counts, "promise": "reject", "asked": share}
    found = ViTCustomUnknown(options, means.shape[1], len(means))
    parts = [
        distances(F.normalize(part.float(), dim=1), *fold) for fold, part in zip(statistics, held_out, strict=True)
    ]
    found.whitening.copy_(torch.stack([whitening for whitening, _ in statistics]))
    found.means.copy_(torch.stack([means for _, means in statistics]))
    found.distances.copy_(torch.cat(parts))
    return found


def limit_error(outputs: np.ndarray, right: np.ndarray, share: float) -> ViTCustomUnknown | None:
    """Return what answers "unknown" so that at most `share` of the other answers are wrong; None if nothing does.

    outputs: [N, K], of calibration images.   right: [N] of bool, which answers are.   Raises DataError if there are too
    few images.
    """
    _check_count(len(right), needed_for_error(share), "max_error", share)
    probabilities = torch.as_tensor(np.asarray(outputs)).float().softmax(dim=1).amax(dim=1).double().numpy()
    level = lowest_safe_threshold(probabilities, right, share)
    if level is None:
        return None
    options = {
        "score": "probability",
        "level": level,
        "images": [len(right)],
        "promise": "max_error",
        "asked": share,
    }
    return ViTCustomUnknown(options, 0, outputs.shape[1])


def lowest_safe_threshold(probabilities: np.ndarray, right: np.ndarray, share: float) -> float | None:
    """Return the lowest threshold above which, with a confidence of 90 %, at most `share` is wrong; None if none is.

    From each of STARTS, thresholds that were fixed before are tested in turn, the strictest first: the hypothesis that
    more than `share` is wrong above it is rejected where a binomial test is significant at 10 % divided by the number
    of starts. The first threshold that is not rejected ends a sequence, so that no further correction is needed.
    probabilities: [N].   right: [N] of bool.
    """
    from scipy.stats import binom

    alone, lowest = (1 - CONFIDENCE) / len(STARTS), None
    for start in STARTS:
        for odds in np.arange(math.log(start / (1 - start)), -10, -STEP):
            threshold = 1 / (1 + math.exp(-odds))
            answered = probabilities > threshold
            wrong, count = int((answered & ~right).sum()), int(answered.sum())
            if not count or binom.cdf(wrong, count, share) > alone:
                break
            lowest = threshold if lowest is None else min(lowest, threshold)
    return lowest


def _check_count(images: int, needed: int, flag: str, share: float) -> None:
    if images < needed:
        raise DataError(
            f"--{flag} {share:g} needs {needed:,} images for the calibration, here are {images:,}: give more, or "
            "a larger share."
        )


def give_unknown(model: Any, found: ViTCustomUnknown) -> None:
    """Make a classifier answer "unknown" where `found` says so."""
    model.config.unknown = found.options
    model.unknown = found.to(model.device).eval()
