"""Approximate search by usearch: a graph (HNSW) beside the vectors of an index, read from the disk as it is needed.

Source of the method: Malkov and Yashunin 2018, arXiv:1603.09320. Why usearch: the table in docs/benchmarks.md.

Shapes: N images, Q queries, D width, K neighbours.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..common.errors import UsageError

EXACT = 1_000_000  # images up to which "auto" compares with every vector
CHOICES = ("auto", "yes", "no")
CONNECTIVITY, EXPANSION = 16, 128  # neighbours of a node, nodes that are looked at while it is added
LOOKED_AT = 256  # nodes that a query looks at, at least
AT_ONCE = 2**16  # vectors that are added at once


def is_wanted(approximate: str, count: int) -> bool:
    """Return whether an index of `count` images gets a graph. Raises UsageError if it does and usearch is missing."""
    wanted = approximate == "yes" or (approximate == "auto" and count > EXACT)
    if wanted:
        check_installed()
    return wanted


def check_installed() -> None:
    """Raise UsageError if usearch is missing."""
    if find_spec("usearch") is None:
        raise UsageError(
            "approximate search needs usearch: pip install 'vit-custom[search]', or index with --approximate no."
        )


def write_graph(path: Path, vectors: np.ndarray) -> None:
    """Write the graph of vectors [N, D], each of length 1; it holds them in bfloat16."""
    from tqdm.auto import tqdm

    graph = _graph(vectors.shape[1])
    with tqdm(total=len(vectors), desc="graph", unit="img") as bar:
        for start in range(0, len(vectors), AT_ONCE):
            part = np.asarray(vectors[start : start + AT_ONCE])
            graph.add(np.arange(start, start + len(part), dtype=np.uint64), part)
            bar.update(len(part))
    graph.save(str(path))


def near(path: Path, queries: np.ndarray, count: int) -> list[np.ndarray]:
    """Return, for each of queries [Q, D], the rows of about `count` vectors that are nearest, in no promised order."""
    graph = _graph(queries.shape[1])
    graph.view(str(path))
    graph.expansion_search = max(LOOKED_AT, 2 * count)
    found = graph.search(np.ascontiguousarray(queries), count)
    keys, counts = np.atleast_2d(found.keys), np.atleast_1d(found.counts)
    return [row[:some].astype(np.int64) for row, some in zip(keys, counts, strict=True)]


def _graph(width: int) -> Any:
    check_installed()
    from usearch.index import Index

    return Index(ndim=width, metric="ip", dtype="bf16", connectivity=CONNECTIVITY, expansion_add=EXPANSION)
