"""Near duplicates between splits: the same picture resized, re-encoded, brightened or slightly cropped.

Candidates are pairs whose perceptual hashes (the signs of the 64 lowest DCT coefficients about their median, as in
Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010) differ in at most 12 bits. They are
confirmed by the cosine similarity of their thumbnails' gradients. How similar two *different* images can be depends on
the data: photographs stay below 0.2, handwriting reaches above 0.9. So the threshold (the bar) comes from the data
itself, well above the similarity of pairs of one class.

Shapes: N images, S the side of a thumbnail, R x K images of one block.
"""

from collections.abc import Iterator

import numpy as np
from scipy.fft import dctn

from .findings import WARNING, Catalogue, Example, Finding, finding

HASH_SIDE, MAX_BITS = 8, 12
LOWEST_BAR = 0.5
DEVIATIONS = 7.0  # above the median of a class; the closest two of 5,000 MNIST digits, class by class, reach 6.4
PAIRS_SAMPLED, FEW = 2000, 10  # pairs of one class; images that a class needs for a bar of its own
FLAT = 0.6  # grey levels: a thumbnail whose gradient is weaker shows little but rounding (which makes 0.4)
BLOCK = 2048


def perceptual_hashes(thumbnails: np.ndarray) -> np.ndarray:
    """Return [N, 64] of ±1 for thumbnails [N, S, S], grey."""
    hashes = np.empty((len(thumbnails), HASH_SIDE**2), np.float32)
    for start in range(0, len(thumbnails), BLOCK):
        block = thumbnails[start : start + BLOCK].astype(np.float32)
        low = dctn(block, axes=(1, 2))[:, :HASH_SIDE, :HASH_SIDE].reshape(len(block), -1)
        hashes[start : start + BLOCK] = np.where(low > np.median(low, axis=1, keepdims=True), 1, -1)
    return hashes


def gradients(thumbnails: np.ndarray) -> np.ndarray:
    """Return [N, 2·(S-1)²] of length 1, or 0 where the thumbnail is flat, for thumbnails [N, S, S], grey."""
    grey = thumbnails.astype(np.float32)
    right, down = np.diff(grey, axis=2)[:, :-1], np.diff(grey, axis=1)[:, :, :-1]
    both = np.stack([right, down], axis=1).reshape(len(grey), -1)
    length = np.linalg.norm(both, axis=1, keepdims=True)
    flat = length < FLAT * both.shape[1] ** 0.5
    return np.where(flat, 0, both / np.maximum(length, 1e-6))


def similarity_bars(catalogue: Catalogue, thumbnails: np.ndarray) -> np.ndarray:
    """Return [N] similarity that a duplicate of each image must exceed: more than chance reaches within its class.

    Computed from the median and the 90 % quantile of Fisher's z over sampled pairs: a few real duplicates do not move
    them.
    """
    rng = np.random.default_rng(0)
    labels = catalogue.labels if catalogue.targets.single else [""] * len(catalogue)
    bars = np.full(len(labels), _bar(thumbnails, rng))
    _, ids = np.unique(np.array(labels, dtype=str), return_inverse=True)
    order = np.argsort(ids, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(ids[order])) + 1):
        if len(members) >= FEW:
            bars[members] = _bar(thumbnails[members], rng)
    return bars


def _bar(thumbnails: np.ndarray, rng: np.random.Generator) -> float:
    if len(thumbnails) < 2:
        return LOWEST_BAR
    first = rng.integers(len(thumbnails), size=PAIRS_SAMPLED)
    second = (first + rng.integers(1, len(thumbnails), size=PAIRS_SAMPLED)) % len(thumbnails)
    cosine = (gradients(thumbnails[first]) * gradients(thumbnails[second])).sum(axis=1)
    z = np.arctanh(np.clip(cosine, -0.999999, 0.999999))
    median, high = np.quantile(z, [0.5, 0.9])
    deviation = (high - median) / 1.2816  # of a normal distribution with that quantile
    return max(LOWEST_BAR, float(np.tanh(median + DEVIATIONS * deviation)))


def nearest_leaks(catalogue: Catalogue, records: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """Yield (image, the most similar image that leaks it, similarity) for each image that has one.

    See `Catalogue.leaks_to`. Images that decode to the same pixels are left out. Images are compared block by block:
    memory grows with N, not N².
    """
    thumbnails = records["thumbnail"]
    bars, hashes = similarity_bars(catalogue, thumbnails), perceptual_hashes(thumbnails)
    usable = np.flatnonzero((records["height"] > 0) & ~records["blank"])
    for start in range(0, len(usable), BLOCK):
        rows = usable[start : start + BLOCK]
        best, partner = np.zeros(len(rows)), np.zeros(len(rows), np.int64)
        row_gradients = gradients(thumbnails[rows])
        for first in range(0, start + 1, BLOCK):
            columns = usable[first : first + BLOCK]
            close = hashes[rows] @ hashes[columns].T >= HASH_SIDE**2 - 2 * MAX_BITS
            r, k = np.nonzero(close & catalogue.leaks_to(rows[:, None], columns[None]))
            other = (records["pixels"][rows[r]] != records["pixels"][columns[k]]).any(axis=1)
            r, k = r[other], k[other]
            if not len(r):
                continue
            column_gradients = gradients(thumbnails[columns])
            for part in range(0, len(r), BLOCK):
                a, b = r[part : part + BLOCK], k[part : part + BLOCK]
                cosine = np.einsum("nd,nd->n", row_gradients[a], column_gradients[b])
                cosine[cosine <= np.maximum(bars[rows[a]], bars[columns[b]])] = 0
                better = np.flatnonzero(cosine > best[a])
                better = better[np.argsort(cosine[better])]  # so that the best for an image is written last
                best[a[better]], partner[a[better]] = cosine[better], columns[b[better]]
        for i in np.flatnonzero(best):
            yield int(rows[i]), int(partner[i]), float(best[i])


def similar_findings(catalogue: Catalogue, records: np.ndarray) -> list[Finding]:
    """Return a finding on images that look like one of another split, most similar first."""
    pairs = sorted(nearest_leaks(catalogue, records), key=lambda pair: -pair[2])
    return finding(
        WARNING,
        "near-duplicates",
        "images that look like one of another split"
        + (", or of the train that validation will be drawn from" if catalogue.self_leaks else ""),
        "Look at them. Copies, bursts and film frames belong into one split together: figures would be too good.",
        [Example(f"{catalogue.text(i)} ~ {catalogue.text(j)}, similarity {s:.3f}", (j, i)) for i, j, s in pairs],
    )
