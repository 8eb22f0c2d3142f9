"""`vit-custom search`: the images of an index that are most like others, and how often these are of the same class.

A record is {"path": …, "neighbours": [{"path": …, "label": …, "similarity": 0.93}, …]} or {"path": …, "error": …}.

Shapes: N images of the index, Q queries, D width, K neighbours.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..common.errors import DataError
from ..common.model_names import named_model
from ..data.targets import ClassIds
from ..inference.forward import PreparedImages, run_batches
from ..inference.inputs import find_images
from ..inference.loading import load_classifier
from .graph import near
from .index_build import unit_length
from .index_files import Index
from .neighbours import best_of, exact_similarities, nearest

MEASURED = 10_000  # images of a larger index for which the share of same-class neighbours is measured


@dataclass(frozen=True)
class SameClass:
    """How often the nearest images are of an image's own class; itself is left out.

    top_k: K.   images: how many were looked at, of `of` labelled ones.   classes: how many there are.
    any: share of images with at least one of their own class among the K nearest (recall@K).
    share: mean share of the K nearest that are of the same class (precision@K).
    chance: the expected `share` of random neighbours.   copies: images whose content another one has too.
    """

    top_k: int
    images: int
    of: int
    classes: int
    any: float
    share: float
    chance: float
    copies: int

    def record(self) -> dict[str, Any]:
        """Return the figures, fit for JSON."""
        return asdict(self)


def search_index(
    index: Index,
    inputs: Sequence[str],
    model: str | None = None,
    top_k: int = 10,
    exact: bool = False,
    batch_size: int = 32,
    follow_links: bool = False,
    trust_remote_code: bool = False,
    revision: str | None = None,
    progress: bool = True,
) -> Iterator[dict[str, Any]]:
    """Yield a record for each image that `inputs` names (see `find_images`), with its `top_k` nearest of the index.

    model: by default the one that made the index.   exact: compare with every vector, also if the index has a graph.
    Similarities are exact in both cases.
    Raises DataError for a model that makes other vectors, ValueError for inputs without images.
    """
    paths, _ = find_images(inputs, follow_links)
    if model is None:
        model, made = index.model
        revision = revision or made
    model, revision = named_model(model, revision)
    net, processor = load_classifier(model, trust_remote_code, revision=revision, listing=None)
    index.check_model(model, net, processor)
    batches = [list(range(start, min(start + batch_size, len(paths)))) for start in range(0, len(paths), batch_size)]
    prepared = PreparedImages(paths, paths, processor)
    with tqdm(total=len(paths), desc="search", unit="img", disable=not progress or len(batches) < 2) as bar:
        for result in run_batches(net, prepared, batches, with_pooled=True):
            records: dict[int, dict[str, Any]] = {
                row: {"path": paths[row], "error": error} for row, error in result.errors.items()
            }
            if result.pooled is not None:
                vectors, fine = unit_length(result.pooled.numpy())
                for place, found in zip(np.flatnonzero(fine), _found(index, vectors[fine], top_k, exact), strict=True):
                    path = paths[result.indices[place]]
                    records[result.indices[place]] = {"path": path, "neighbours": _entries(index, *found)}
                for place in np.flatnonzero(~fine):
                    path = paths[result.indices[place]]
                    said = f"{path}: the model's vector is zero, NaN or infinite"
                    records[result.indices[place]] = {"path": path, "error": said}
            yield from (records[row] for row in sorted(records))
            bar.update(len(records))


def same_class(index: Index, top_k: int = 10) -> SameClass:
    """Measure how often the `top_k` nearest images are of an image's own class, leaving the image itself out.

    Of an index with more than MEASURED images, evenly spread ones are measured, against all others. Images without a
    label are left out altogether.
    Raises DataError for an index without one label an image, or with fewer than two labelled images.
    """
    if index.record["labels"] != ClassIds.problem_type:
        kind = index.record["labels"] or "no labels"
        raise DataError(f"{index.folder} has {kind}: neighbours of the same class need one class an image.")
    names = [line.get("label") for line in index.images]
    labelled = np.array([row for row, name in enumerate(names) if name is not None], np.int64)
    if len(labelled) < 2:
        raise DataError(f"{index.folder} has {len(labelled)} labelled image(s): give it two or more.")
    ids = {name: number for number, name in enumerate(dict.fromkeys(names[row] for row in labelled))}
    classes = np.array([ids[names[row]] for row in labelled])
    vectors = index.vectors if len(labelled) == len(index) else index.vectors[labelled]
    chosen = np.unique(np.linspace(0, len(labelled) - 1, min(MEASURED, len(labelled))).astype(int))
    rows, _ = nearest(vectors, vectors[chosen], top_k, left_out=chosen)
    same = classes[rows] == classes[chosen][:, None]
    counts = np.bincount(classes)
    chance = (counts[classes[chosen]] - 1) / (len(classes) - 1)
    contents = [index.images[row]["content"] for row in labelled]
    return SameClass(
        top_k=rows.shape[1],
        images=len(chosen),
        of=len(labelled),
        classes=len(ids),
        any=float(same.any(axis=1).mean()),
        share=float(same.mean()),
        chance=float(chance.mean()),
        copies=len(contents) - len(set(contents)),
    )


def open_index(folder: str | os.PathLike) -> Index:
    """Open an index. Raises DataError for a folder that holds none, or a damaged one."""
    return Index(folder)


def _found(index: Index, queries: np.ndarray, top_k: int, exact: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """(rows, similarities) of the nearest vectors to each of queries [Q, D]."""
    if index.graph is None or exact:
        return list(zip(*nearest(index.vectors, queries, top_k), strict=True))
    found = []
    candidates = min(2 * top_k, len(index))  # the graph holds rounded vectors: its order among them is not exact
    for query, rows in zip(queries, near(index.graph, queries, candidates), strict=True):
        rows = np.sort(rows)  # the order in which they lie on the disk
        found.append(best_of(rows, exact_similarities(index.vectors[rows], query), top_k))
    return found


def _entries(index: Index, rows: np.ndarray, similarities: np.ndarray) -> list[dict[str, Any]]:
    entries = []
    for row, similarity in zip(rows.tolist(), similarities.tolist(), strict=True):
        line = index.images[row]
        label = {"label": line["label"]} if "label" in line else {}
        entries.append({"path": line["path"], **label, "similarity": round(similarity, 6)})
    return entries
