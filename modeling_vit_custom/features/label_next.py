"""Which images to label next: typical ones among the uncertain ones, one of each part of the feature space.

Shapes: U images without labels, D width of the features, K classes, B budget.
"""

import numpy as np
import torch
import torch.nn.functional as F

from .closed_forms import Scaling

NEIGHBOURS = 20  # whose mean distance says how typical an image is (TypiClust, arXiv 2202.02794)
UNCERTAIN = 0.5  # share of each cluster among which the most typical image is chosen
BLOCK = 1024
ROUNDS = 50  # of k-means


def choose_next(features: np.ndarray, probabilities: np.ndarray, budget: int, seed: int = 0) -> np.ndarray:
    """Return [≤ B] indices of the images to label, those of the largest clusters first.

    features: [U, D], scaled here by means and deviations.   probabilities: [U, K], by a head that was fitted to the
    labelled images. The images are divided into B clusters by k-means. In each, the most typical one among the
    uncertain half is chosen: the half with the smaller margin between the two most probable classes.
    """
    from sklearn.cluster import KMeans

    count = len(features)
    if count <= budget:
        return np.argsort(margins(probabilities), kind="stable")
    scaled = torch.from_numpy(features)
    unit = F.normalize(Scaling(scaled)(scaled), dim=1).float().numpy()
    clusters = KMeans(budget, n_init=1, max_iter=ROUNDS, random_state=seed).fit(unit).labels_
    margin, chosen = margins(probabilities), []
    for cluster in np.argsort(-np.bincount(clusters, minlength=budget), kind="stable"):
        members = np.flatnonzero(clusters == cluster)
        if len(members):
            typical = typicality(unit[members])
            kept = np.argsort(margin[members], kind="stable")[: max(1, round(UNCERTAIN * len(members)))]
            chosen.append(members[max(kept, key=lambda place: typical[place])])
    return np.array(chosen, np.int64)


def margins(probabilities: np.ndarray) -> np.ndarray:
    """Return [U]: the difference between the two highest probabilities, small where a head is uncertain."""
    highest = np.partition(probabilities, -2, axis=1)[:, -2:]
    return highest[:, 1] - highest[:, 0]


def typicality(unit: np.ndarray) -> np.ndarray:
    """Return [n]: 1 / the mean distance of each of n vectors [n, D] of length 1 to its nearest neighbours."""
    if len(unit) < 2:
        return np.ones(len(unit))
    count, found = min(NEIGHBOURS, len(unit) - 1), np.empty(len(unit))
    for start in range(0, len(unit), BLOCK):
        part = np.arange(start, min(start + BLOCK, len(unit)))
        alike = unit[part] @ unit.T
        alike[np.arange(len(part)), part] = -2.0
        nearest = np.partition(alike, -count, axis=1)[:, -count:]
        found[part] = np.sqrt(np.maximum(2 - 2 * nearest, 0)).mean(axis=1)
    return 1 / np.maximum(found, 1e-12)
