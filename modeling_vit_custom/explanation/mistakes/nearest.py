"""The images that are most like an image, of the class that was answered and of the one beside it.

They are those of an index, or of the training images. Shapes: N images, D width of a vector.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from typing import Any

import numpy as np

from ...common.claims import STAMP
from ...data.examples import Examples
from ...evaluation.illustrations import Picture
from ...features.index_build import unit_length
from ...features.index_files import Index
from ...features.index_images import content_of
from ...features.nearest_classes import ClassNeighbours
from ...inference.forward import PreparedImages, run_batches
from ...reporting.page import thumbnail
from .pacing import parts_in_time

COUNT = 3  # nearest images of a class
MOST = 400  # training images that go through the model for a page
BATCH = 32


@dataclass(frozen=True)
class Bank:
    """Images to look among.   asked: their vectors.   own: (source, name) of an image → what marks it among them.

    shown: path → a small picture as a data: URL, "" if there is none.   said: where the images are from.
    """

    asked: ClassNeighbours
    own: Callable[[Any, str], str | None]
    shown: Callable[[str], str]
    said: str

    def nearest(self, vector: np.ndarray, classes: Sequence[str], image: Any, name: str) -> dict[str, list[Picture]]:
        """Return the COUNT nearest images of each class to one with the vector [D]; the image itself is left out."""
        (found,) = self.asked.nearest_of(vector[None], [classes], COUNT, [self.own(image, name)])
        return {label: [self._picture(label, entry) for entry in entries] for label, entries in found.items()}

    def _picture(self, label: str, entry: dict[str, Any]) -> Picture:
        similarity = f"{entry['similarity']:.2f}"
        return Picture(self.shown(entry["path"]), f"{label}, cosine {similarity}: {entry['path']}", similarity)


def bank_of_index(index: Index) -> Bank:
    """Return the images of an index. Of a published one only the names are shown: it may be another's, and name any
    file.

    Raises DataError for an index without named classes.
    """

    def own(image: Any, _name: str) -> str | None:
        content = content_of(image)
        return None if content is None else content.hex()

    published = STAMP in index.record
    return Bank(
        ClassNeighbours(index),
        own,
        cache(lambda path: "" if published else thumbnail(path)),
        f"the {len(index):,} images of the index {index.folder.name}",
    )


@dataclass(frozen=True)
class _InMemory:
    """Vectors of images, as an `Index` has them."""

    folder: str
    images: list[dict[str, Any]]
    vectors: np.ndarray

    @property
    def record(self) -> dict[str, Any]:
        return {"width": self.vectors.shape[1]}


@dataclass(frozen=True)
class TrainingImages:
    """The training images of a run.   names: of the classes, by id.

    features: rows [n] → the vectors [n, D] that the run has computed for the model's own head; None if it has not.
    """

    examples: Examples
    names: Mapping[int, str]
    features: Callable[[Sequence[int]], np.ndarray] | None = None

    def bank(self, model: Any, processor: Any, classes: Sequence[str], end: float) -> Bank | None:
        """Return the images of these classes; None if there are none with a vector.

        Vectors that the run has not computed are made of up to MOST images, as many of each class, until `end` by
        `time.monotonic()`.
        """
        rows = {name: self._rows(name) for name in classes}
        every = list(dict.fromkeys(row for turn in zip_longest(*rows.values()) for row in turn if row is not None))
        if self.features is not None and every:
            kept, values = every, np.asarray(self.features(every), np.float32)
        else:
            kept, values = self._computed(model, processor, every[:MOST], end)
        vectors, fine = unit_length(values)
        labels: dict[int, list[str]] = {row: [] for row, good in zip(kept, fine, strict=True) if good}
        if not labels:
            return None
        for name, own in rows.items():
            for row in labels.keys() & set(own):
                labels[row].append(name)
        names = self.examples.names
        lines = [{"path": names[row], "label": each, "content": names[row]} for row, each in labels.items()]
        places = {names[row]: row for row in labels}
        return Bank(
            ClassNeighbours(_InMemory("the training images", lines, vectors[fine])),
            lambda _image, name: name,
            cache(lambda path: thumbnail(self.examples.images[places[path]])),
            f"{'' if len(labels) == len(every) else f'{len(labels):,} of '}the {len(every):,} training images of these "
            "classes",
        )

    def _rows(self, name: str) -> list[int]:
        """The rows of the images of a class, in a random order that is always the same."""
        values, targets = self.examples.targets.values, type(self.examples.targets)
        if not targets.named:
            return []
        number = next(number for number, label in self.names.items() if label == name)
        rows = np.flatnonzero(values == number if values.ndim == 1 else values[:, number] > 0)
        return np.random.default_rng(0).permutation(rows).tolist()

    def _computed(self, model: Any, processor: Any, rows: list[int], end: float) -> tuple[list[int], np.ndarray]:
        """The rows that there was time for, and their vectors."""
        chosen = self.examples.select(rows)
        prepared = PreparedImages(chosen.images, chosen.names, processor)
        kept: list[int] = []
        vectors = []
        for part in parts_in_time(range(len(rows)), end, BATCH):
            (found,) = run_batches(model, prepared, [part], with_pooled=True)
            if found.pooled is not None and found.indices:
                kept += [rows[place] for place in found.indices]
                vectors.append(found.pooled.numpy())
        return kept, np.concatenate(vectors) if vectors else np.empty((0, 1), np.float32)
