"""Vectors of images as points of a plane: t-SNE, by scikit-learn.

Source of the method: van der Maaten and Hinton 2008, JMLR 9. Why this library: the table in docs/benchmarks.md.

Shapes: M points, D width.
"""

import numpy as np

PERPLEXITY = 30
FEWEST = 4  # points for which t-SNE is defined in two dimensions
NEAR = 10


def project(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return places [M, 2] float64 of vectors [M, D] of length 1, in the square from 0 to 1 with equal scales.

    Equal vectors may lie apart. Fewer than FEWEST points lie on a line.
    """
    if len(vectors) < FEWEST or (vectors == vectors[0]).all():
        found = np.stack([np.arange(len(vectors)), np.zeros(len(vectors))], axis=1).astype(np.float64)
    else:
        from sklearn.manifold import TSNE

        perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
        # Of vectors of length 1, Euclidean distance orders as the cosine does, and its search is faster.
        made = TSNE(init="pca", perplexity=perplexity, learning_rate="auto", random_state=seed)
        found = made.fit_transform(np.asarray(vectors, np.float32)).astype(np.float64)
    low, high = found.min(axis=0), found.max(axis=0)
    return (found - (low + high) / 2) / (float((high - low).max()) or 1.0) + 0.5


def trustworthiness_of(vectors: np.ndarray, places: np.ndarray) -> float | None:
    """Return the trustworthiness of places [M, 2]: 1 if the NEAR nearest points of each are near as vectors, too.

    Random places have about 0.5. Returns None for too few points to tell. Source: Venna and Kaski 2001.
    """
    if len(vectors) <= 2 * NEAR:
        return None
    from sklearn.manifold import trustworthiness

    return float(trustworthiness(vectors, places, n_neighbors=NEAR))
