"""Groups of images of a class whose evidence lies alike: where to look, without a claim (as SpRAy; Lapuschkin 2019).

Shapes: n images of a class, h×w grid.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

SIDE = 8  # of the maps that are compared
FEWEST = 30  # images of a class
MOST_CLUSTERS = 6
SILHOUETTE = 0.15  # below this, the maps of a class make no groups


@dataclass(frozen=True)
class Cluster:
    """Images of one class.   members: [m], among all images, the most typical first.   mean: [h, w], their evidence."""

    members: np.ndarray
    mean: np.ndarray


@dataclass(frozen=True)
class Clusters:
    """The clusters of a class, largest first; none if its maps make no groups.   silhouette: -1 to 1, of the best."""

    target: int
    clusters: tuple[Cluster, ...]
    silhouette: float


def cluster(target: int, images: np.ndarray, shares: np.ndarray, seed: int) -> Clusters | None:
    """Return the clusters of a class; None with fewer than FEWEST images.

    images: [n], among all.   shares: [n, h, w]. k-means on the square roots of maps pooled to 8×8; of 2 to 6 clusters
    the number with the highest mean silhouette.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    if len(images) < FEWEST:
        return None
    rows = np.sqrt(pooled(shares))
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for count in range(2, min(MOST_CLUSTERS, len(np.unique(rows, axis=0)) - 1) + 1):
        found = KMeans(count, n_init=4, random_state=seed).fit(rows)
        score = float(silhouette_score(rows, found.labels_))
        if best is None or score > best[0]:
            best = (score, found.labels_, found.cluster_centers_)
    if best is None or best[0] < SILHOUETTE:
        return Clusters(target, (), 0.0 if best is None else best[0])
    score, labels, centres = best
    groups = []
    for label, centre in enumerate(centres):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(((rows[members] - centre) ** 2).sum(axis=1), kind="stable")]
        groups.append(Cluster(images[members], shares[members].mean(axis=0)))
    return Clusters(target, tuple(sorted(groups, key=lambda one: -len(one.members))), score)


def pooled(shares: np.ndarray) -> np.ndarray:
    """Return maps [n, h, w] averaged to at most 8×8 cells, [n, cells], each adding up to 1; 0 where there is none."""
    side = tuple(min(SIDE, length) for length in shares.shape[1:])
    small = F.adaptive_avg_pool2d(torch.from_numpy(shares)[:, None], side).flatten(1).numpy()
    totals = small.sum(axis=1, keepdims=True)
    return np.divide(small, totals, out=np.zeros_like(small), where=totals > 0)
