"""The libraries for approximate search and for maps, compared on the vectors of an index; prints rows of Markdown.

    python tests/support/search_tables.py search INDEX 1000000 usearch|hnswlib|faiss_hnsw|faiss_ivf
    python tests/support/search_tables.py map INDEX 3000 sklearn|umap|opentsne|pacmap

For more vectors than INDEX has, they are repeated with normal noise as large as the median distance to the nearest one.
Queries are 1,000 vectors with other noise. Seconds are those of processors, all threads together, so that other work on
the machine matters less. The libraries are not among the requirements of the tests.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from modeling_vit_custom.features.index_files import Index
from modeling_vit_custom.features.neighbours import best_of, exact_similarities, nearest
from modeling_vit_custom.features.projection import trustworthiness_of

QUERIES, NEAREST, AT_ONCE = 1000, 10, 50_000
M, EXPANSION, LOOKED_AT = 16, 128, (64, 256)  # of all graphs
LISTS, PROBES = 4096, (16, 64)


def noisy(vectors: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """Return vectors[rows] with noise, of length 1."""
    _, similar = nearest(vectors, vectors[:500], 1, left_out=np.arange(500))
    size = np.sqrt(2 * float(np.median(1 - similar)) / vectors.shape[1])
    found = vectors[rows] + size * np.random.default_rng(seed).standard_normal((len(rows), vectors.shape[1]))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def base_of(vectors: np.ndarray, count: int, path: Path) -> np.ndarray:
    """Return [count, D] on the disk: the vectors, then copies of them with noise."""
    made = np.lib.format.open_memmap(path, "w+", np.float32, (count, vectors.shape[1]))
    for start in range(0, count, len(vectors)):
        rows = np.arange(min(len(vectors), count - start))
        made[start : start + len(rows)] = noisy(vectors, rows, start) if start else vectors[rows]
    return made


class Usearch:
    """The graph that `index` makes, asked for twice as many and sorted by the vectors themselves, as `search` does."""

    effort = LOOKED_AT

    def __init__(self, base):
        from usearch.index import Index as Graph

        self.base = base
        self.graph = Graph(ndim=base.shape[1], metric="ip", dtype="bf16", connectivity=M, expansion_add=EXPANSION)
        for start in range(0, len(base), AT_ONCE):
            part = np.asarray(base[start : start + AT_ONCE])
            self.graph.add(np.arange(start, start + len(part)), part)

    def save(self, path):
        self.graph.save(str(path))

    def search(self, queries, effort):
        self.graph.expansion_search = effort
        found = []
        for query, keys in zip(queries, self.graph.search(queries, 2 * NEAREST).keys.astype(np.int64), strict=True):
            rows = np.sort(keys)
            found.append(best_of(rows, exact_similarities(self.base[rows], query), NEAREST)[0])
        return np.array(found)


class Hnswlib:
    effort = LOOKED_AT

    def __init__(self, base):
        import hnswlib

        self.graph = hnswlib.Index(space="ip", dim=base.shape[1])
        self.graph.init_index(len(base), ef_construction=EXPANSION, M=M)
        for start in range(0, len(base), AT_ONCE):
            self.graph.add_items(np.asarray(base[start : start + AT_ONCE]))

    def save(self, path):
        self.graph.save_index(str(path))

    def search(self, queries, effort):
        self.graph.set_ef(effort)
        return self.graph.knn_query(queries, NEAREST)[0].astype(np.int64)


class FaissHnsw:
    effort = LOOKED_AT

    def __init__(self, base):
        import faiss

        self.faiss = faiss
        self.made = self.start(base)
        for start in range(0, len(base), AT_ONCE):
            self.made.add(np.asarray(base[start : start + AT_ONCE]))

    def start(self, base):
        made = self.faiss.IndexHNSWFlat(base.shape[1], M, self.faiss.METRIC_INNER_PRODUCT)
        made.hnsw.efConstruction = EXPANSION
        return made

    def save(self, path):
        self.faiss.write_index(self.made, str(path))

    def search(self, queries, effort):
        self.made.hnsw.efSearch = effort
        return self.made.search(queries, NEAREST)[1]


class FaissIvf(FaissHnsw):
    effort = PROBES

    def start(self, base):
        faiss = self.faiss
        self.lists = faiss.IndexFlatIP(base.shape[1])
        made = faiss.IndexIVFScalarQuantizer(
            self.lists, base.shape[1], LISTS, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
        chosen = np.random.default_rng(0).choice(len(base), min(len(base), 40 * LISTS), replace=False)
        made.train(np.asarray(base[np.sort(chosen)]))
        return made

    def search(self, queries, effort):
        self.made.nprobe = effort
        return self.made.search(queries, NEAREST)[1]


LIBRARIES = {"usearch": Usearch, "hnswlib": Hnswlib, "faiss_hnsw": FaissHnsw, "faiss_ivf": FaissIvf}


def search_rows(vectors: np.ndarray, count: int, library: str, place: Path) -> None:
    """Print a row for each effort: build, size of the file, time of a query, recall@10 against exact search."""
    base = base_of(vectors, count, place / "base.npy")
    queries = noisy(vectors, np.random.default_rng(7).choice(len(vectors), QUERIES, replace=False), 1)
    began = time.process_time()
    exact, _ = nearest(base, queries, NEAREST)
    print(f"| exact, {count:,} | - | {base.nbytes / 1e6:.0f} MB | {_ms(began, QUERIES)} | 1 |", flush=True)
    began = time.process_time()
    made = LIBRARIES[library](base)
    built = time.process_time() - began
    made.save(place / "made")
    size = os.path.getsize(place / "made") / 1e6
    for effort in made.effort:
        began = time.process_time()
        found = made.search(queries, effort)
        each = _ms(began, QUERIES)
        recall = np.mean([len({*a} & {*b}) / NEAREST for a, b in zip(exact.tolist(), found.tolist(), strict=True)])
        print(f"| {library}, {count:,}, {effort} | {built:.0f} s | {size:.0f} MB | {each} | {recall:.4f} |", flush=True)


def _ms(began: float, count: int) -> str:
    return f"{1000 * (time.process_time() - began) / count:.2f} ms"


def projected(vectors: np.ndarray, library: str) -> np.ndarray:
    """Return places [M, 2] by a library with its own defaults."""
    if library == "sklearn":
        from modeling_vit_custom.features.projection import project

        return project(vectors)
    if library == "umap":
        from umap import UMAP

        return UMAP(metric="cosine", random_state=0).fit_transform(vectors)
    if library == "opentsne":
        from openTSNE import TSNE

        return np.array(TSNE(random_state=0).fit(vectors))
    from pacmap import PaCMAP

    return PaCMAP(random_state=0).fit_transform(vectors)


def map_row(index: Index, count: int, library: str) -> None:
    """Print a row: seconds, trustworthiness, accuracy of the 10 nearest in the plane and of the 10 nearest vectors."""
    from sklearn.neighbors import NearestNeighbors

    rows = np.sort(np.random.default_rng(0).choice(len(index), min(count, len(index)), replace=False))
    vectors = np.asarray(index.vectors[rows])
    names = [index.images[row]["label"] for row in rows.tolist()]
    classes = np.unique(names, return_inverse=True)[1]
    began = time.process_time()
    places = projected(vectors, library)
    seconds = time.process_time() - began
    right = []
    for points in (places, vectors):
        near = NearestNeighbors(n_neighbors=NEAREST + 1).fit(points).kneighbors(return_distance=False)[:, 1:]
        right.append(np.mean([np.bincount(classes[a]).argmax() == own for a, own in zip(near, classes, strict=True)]))
    trust = trustworthiness_of(vectors, places)
    print(f"| {library} | {len(rows):,} | {seconds:.0f} s | {trust:.3f} | {right[0]:.3f} | {right[1]:.3f} |")


if __name__ == "__main__":
    what, folder, count, library = sys.argv[1:]
    opened = Index(folder)
    if what == "map":
        map_row(opened, int(count), library)
    else:
        with tempfile.TemporaryDirectory() as place:
            search_rows(np.array(opened.vectors), int(count), library, Path(place))
