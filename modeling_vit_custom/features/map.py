"""`vit-custom map`: the images of an index as points of a plane, near one another where their vectors are; one page.

Shapes: N images of the index, M points, D width.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..common.errors import UsageError
from ..common.outputs import check_private, check_replaceable
from ..data.source import Columns, Source
from .index_build import build_index
from .index_files import Index
from .index_images import list_images
from .map_page import write_map
from .projection import project, trustworthiness_of

POINTS = 3000


@dataclass(frozen=True)
class Mapped:
    """A finished page.

    output: its file.   images: N.   points: M, those of them that are drawn.   classes: how many there are.
    trustworthiness: of the points, see `trustworthiness_of`.
    pictures: points with a picture.   notes: sentences for the user.
    """

    output: Path
    images: int
    points: int
    classes: int
    trustworthiness: float | None
    pictures: int
    notes: list[str]


def map_index(
    output: str | os.PathLike,
    index: str | os.PathLike | None = None,
    model: str | None = None,
    source: Source | None = None,
    columns: Columns = Columns(),
    points: int = POINTS,
    seed: int = 0,
    batch_size: int = 32,
    num_workers: int = 0,
    trust_remote_code: bool = False,
    revision: str | None = None,
    progress: bool = True,
) -> Mapped:
    """Write the page of an index, or of the images of `source` as `model` sees them; return what it shows.

    Pictures are those of `source`, or of the files that the index names. Of more than `points` images, so many are
    drawn at random with `seed`.
    Raises OutputError for a file in a model's folder, UsageError unless an index or a model with its images is named.
    """
    check_private(output, "a map with its pictures")
    check_replaceable(output)
    if (index is None) == (model is None):
        raise UsageError("name --index, or --model and its images: one of the two.")
    if model is not None and source is None:
        raise UsageError("--model needs images: name --data_dir or --dataset_name.")
    options = (batch_size, num_workers, "no", False, trust_remote_code, revision, progress)
    with tempfile.TemporaryDirectory() as place:
        notes: list[str] = []
        if index is None:
            built = build_index(str(model), source or Source(), Path(place) / "index", columns, *options)
            index, notes = built.output, [*built.notes, *built.failures]
        opened = Index(index)
        rows = np.arange(len(opened))
        if len(rows) > points:
            rows = np.sort(np.random.default_rng(seed).choice(len(rows), points, replace=False))
        records = [opened.images[row] for row in rows.tolist()]
        vectors = np.asarray(opened.vectors[rows])
        places = project(vectors, seed)
        labels = [record["label"] if isinstance(record.get("label"), str) else None for record in records]
        facts: dict[str, Any] = {
            "model": opened.record["model"]["name"],
            "images": len(opened),
            "points": len(rows),
            "seed": seed,
            "trustworthiness": trustworthiness_of(vectors, places),
        }
        listed = None if source is None else list_images(source, columns)
        row_of = {} if listed is None else {name: row for row, name in enumerate(listed.names)}

        def image_of(point: int) -> Any:
            row = row_of.get(records[point]["path"])
            return records[point]["path"] if listed is None or row is None else listed.images[row]

        names = [record["path"] for record in records]
        pictures = write_map(output, facts, places, names, labels, image_of, progress)
    classes = len({*labels} - {None})
    return Mapped(Path(output), facts["images"], len(rows), classes, facts["trustworthiness"], pictures, notes)
