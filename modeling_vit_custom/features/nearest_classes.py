"""The images of an index that are most like an image, of chosen classes: beside the answer, and beside the runner-up.

Shapes: Q queries, D width of a vector, B images, C channels, H×W pixels.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch

from ..common.errors import DataError
from ..inference.forward import watch_pooled
from .index_build import unit_length
from .neighbours import nearest


class Vectors(Protocol):
    """What is asked of an `Index`: a line for each image, with "path", "label" and "content", and its vector."""

    @property
    def folder(self) -> Any: ...

    @property
    def record(self) -> Mapping[str, Any]: ...

    @property
    def images(self) -> Sequence[Mapping[str, Any]]: ...

    @property
    def vectors(self) -> np.ndarray: ...


class ClassNeighbours:
    """An index asked class by class. An index holds private images' paths, as SECURITY.md says.

    Raises DataError for an index without named classes.
    """

    def __init__(self, index: Vectors):
        self.index = index
        self.rows: dict[str, np.ndarray] = {}
        found: dict[str, list[int]] = {}
        for row, line in enumerate(index.images):
            label = line.get("label")
            for name in [label] if isinstance(label, str) else label or []:
                if isinstance(name, str):
                    found.setdefault(name, []).append(row)
        if not found:
            raise DataError(
                f"{index.folder} has no classes: make an index of labelled images, in class folders or a table with a "
                "label column."
            )
        self.rows = {name: np.array(rows) for name, rows in found.items()}
        self._vectors = cache(lambda name: np.asarray(index.vectors[self.rows[name]]))

    def nearest_of(
        self, vectors: np.ndarray, classes: Sequence[Sequence[str]], count: int = 3, contents: Sequence[str | None] = ()
    ) -> list[dict[str, list[dict[str, Any]]]]:
        """Return for each query {class: its `count` nearest images}, most similar first; [] of a class without images.

        vectors: float32 [Q, D] of length 1, see `vectors_of`.   classes: for each query the classes to look in, such as
        the predicted one and the runner-up.   contents: for each query the hexadecimal hash of its own image, see
        `content_of`: the image itself is then left out.   An entry is {"path": …, "label": …, "similarity": 0.93}.

        Raises ValueError for vectors that do not fit.
        """
        width = self.index.record["width"]
        if vectors.ndim != 2 or vectors.shape[1] != width or len(classes) != len(vectors):
            raise ValueError(
                f"vectors: shape {[*vectors.shape]} for {len(classes)} lists of classes. Give [Q, {width}] and Q lists."
            )
        own = [*contents, *[None] * (len(vectors) - len(contents))]
        return [
            {name: self._of_class(name, vectors[query], count, own[query]) for name in names}
            for query, names in enumerate(classes)
        ]

    def _of_class(self, name: str, vector: np.ndarray, count: int, own: str | None) -> list[dict[str, Any]]:
        if name not in self.rows:
            return []
        extra = 0 if own is None else self._copies(name, own)
        places, similarities = nearest(self._vectors(name), vector[None], count + extra)
        entries = []
        for place, similarity in zip(places[0].tolist(), similarities[0].tolist(), strict=True):
            line = self.index.images[int(self.rows[name][place])]
            if own is None or line["content"] != own:
                entries.append({"path": line["path"], "label": line["label"], "similarity": round(similarity, 6)})
        return entries[:count]

    def _copies(self, name: str, content: str) -> int:
        return sum(self.index.images[int(row)]["content"] == content for row in self.rows[name])


def vectors_of(model: Any, pixels: torch.Tensor) -> np.ndarray:
    """Return the vectors float32 [B, D], of length 1, of pixels [B, C, H, W], as an index holds them.

    Raises ValueError for a model without a pooled vector, and for a vector that is zero or not finite.
    """
    model.eval()
    with torch.inference_mode(), watch_pooled(model) as pooled:
        found = pooled(model(pixel_values=pixels.to(model.device, model.dtype))).flatten(1).float().cpu().numpy()
    vectors, fine = unit_length(found)
    if not fine.all():
        raise ValueError(f"image {int(np.flatnonzero(~fine)[0])}: the model's vector is zero, NaN or infinite")
    return vectors
