"""The nearest vectors of an index by cosine similarity: exact, and the same whatever the blocks, threads and library.

Similarities of all vectors are a matrix product in float32, block by block. What may be among the nearest by it is
computed again in float64, so that equal vectors have equal similarities; of equals, the one that comes first counts.

Shapes: N vectors, D width, Q queries, K neighbours.
"""

from collections.abc import Sequence

import numpy as np

QUERIES = 256  # at once
BLOCK = 2**25  # bytes of a block of vectors, and of its similarities
SLACK = 1e-5  # of two similarities; rounding in float32 is off by about 1e-7
NONE = -1


def nearest(
    vectors: np.ndarray, queries: np.ndarray, count: int, left_out: Sequence[int] | np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows [Q, K] int64, similarities [Q, K] float64) of the nearest vectors, best first.

    K is `count`, or the number of vectors if that is smaller.   vectors: [N, D], may be memory-mapped; a block of them
    is in memory at a time.   queries: [Q, D]. All are of length 1, float32.   left_out: for each query a row that is
    not looked at, as its own.
    """
    hidden = None if left_out is None else np.asarray(left_out, np.int64)
    count = min(count, len(vectors) - (hidden is not None))
    rows = np.full((len(queries), count), NONE, np.int64)
    similarities = np.full((len(queries), count), -np.inf)
    if count < 1:
        return rows, similarities
    for start in range(0, len(queries), QUERIES):
        part = slice(start, start + QUERIES)
        _search(vectors, queries[part], None if hidden is None else hidden[part], rows[part], similarities[part])
    return rows, similarities


def exact_similarities(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return [n] float64, the similarities of vectors [n, D] to a query [D]; equal vectors have equal ones."""
    return (vectors.astype(np.float64) * query.astype(np.float64)).sum(axis=1)


def best_of(rows: np.ndarray, similarities: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the `count` best of candidates [n]: by similarity downwards, equals by row."""
    order = np.lexsort((rows, -similarities))[:count]
    return rows[order], similarities[order]


def _search(
    vectors: np.ndarray, queries: np.ndarray, hidden: np.ndarray | None, rows: np.ndarray, similarities: np.ndarray
) -> None:
    """Fill `rows` and `similarities` [q, K] with the nearest of all vectors to queries [q, D]."""
    count = rows.shape[1]
    size = max(1, BLOCK // (4 * max(vectors.shape[1], len(queries))))
    for start in range(0, len(vectors), size):
        block = np.asarray(vectors[start : start + size])
        found = queries @ block.T  # [q, n]
        if hidden is not None:
            own = hidden - start
            mine = np.flatnonzero((own >= 0) & (own < len(block)))
            found[mine, own[mine]] = -np.inf
        least = similarities[:, -1] - SLACK  # minus infinity until there are K
        if len(block) > count:
            least = np.maximum(least, np.partition(found, -count, axis=1)[:, -count] - SLACK)
        least = np.maximum(least, -2.0)  # a row that is left out has minus infinity
        for query in np.flatnonzero((found >= least[:, None]).any(axis=1)).tolist():
            candidates = np.flatnonzero(found[query] >= least[query])
            known = rows[query] != NONE
            both = (
                np.concatenate([rows[query][known], candidates + start]),
                np.concatenate([similarities[query][known], exact_similarities(block[candidates], queries[query])]),
            )
            kept = best_of(*both, count)
            rows[query, : len(kept[0])], similarities[query, : len(kept[1])] = kept
