"""An index: the vectors of images, and what they are of, in a folder of four files.

    vectors.npy     float32 [N, D], each of length 1: the dot product of two is their cosine similarity
    images.jsonl    a line for each: {"path": …, "label": …, "content": …}; without labels, no "label"
    index.json      what made the vectors: the model, its preprocessing, the libraries
    graph.usearch   for approximate search, if there are many images or it was asked for

One that was published with its model, in MODEL/image_index, holds vectors.safetensors (one tensor, "vectors") and no
graph.

"label" is a name, a list of names (several labels) or numbers (regression). "content" is a hash of the image's bytes.

Shapes: N images, D width of a vector.
"""

import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ..common.claims import STAMP
from ..common.errors import DataError
from ..common.fingerprint import OTHER_KEYS, fingerprint
from ..common.json_files import json_safe, read_json

FORMAT = 1
VECTORS, IMAGES, RECORD, GRAPH = "vectors.npy", "images.jsonl", "index.json", "graph.usearch"
PUBLISHED_VECTORS = "vectors.safetensors"
KINDS = {"format": int, "count": int, "width": int, "model": dict, "preprocessing": dict, "labels": str}
AGAIN = "Remove the folder, and run `vit-custom index` again."


class Lines(Sequence):
    """The records of a file of JSON lines, each parsed when it is asked for."""

    def __init__(self, path: Path):
        self.data = path.read_bytes()
        self.ends = np.flatnonzero(np.frombuffer(self.data, np.uint8) == ord("\n")).tolist()

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index):
        return json.loads(self.data[self.ends[index - 1] + 1 if index else 0 : self.ends[index]])


class Index:
    """An index that is opened; its vectors are memory-mapped.   record: the content of index.json.

    Raises DataError for a folder that is no index, is of another version or is damaged.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        if not (self.folder / RECORD).is_file():
            raise DataError(f"{folder} is no index, it holds no {RECORD}: make one with `vit-custom index`.")
        try:
            self.record = read_json(self.folder / RECORD)
            if (found := self.record.get("format")) != FORMAT:
                raise DataError(f"{folder} has format {found}, this version reads {FORMAT}. {AGAIN}")
            if wrong := [name for name, kind in KINDS.items() if not isinstance(self.record.get(name), kind)]:
                raise ValueError(f"{RECORD} has no usable {', '.join(wrong)}")
            self.vectors = _vectors(self.folder)
            self.images = Lines(self.folder / IMAGES)
            shape = (self.record["count"], self.record["width"])
            if self.vectors.shape != shape or self.vectors.dtype != np.float32 or len(self.images) != shape[0]:
                raise ValueError(f"it should hold {shape[0]} images and vectors of {shape[1]} numbers")
        except DataError:
            raise
        except (OSError, ValueError, SafetensorError) as error:
            raise DataError(f"{folder} is damaged: {error}. {AGAIN}") from error

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """The lines of images.jsonl, all in memory."""
        return list(self.images)

    @property
    def graph(self) -> Path | None:
        """The file for approximate search, if there is one."""
        return self.folder / GRAPH if self.record.get("graph") else None

    @property
    def model(self) -> tuple[str, str | None]:
        """(model, revision): the one that the index was published with, or else the one that its record names."""
        if STAMP in self.record:
            return str(self.folder.resolve().parent), None
        return self.record["model"]["name"], self.record["model"]["revision"]

    def check_model(self, name: str, model: Any, processor: Any) -> None:
        """Raise DataError, naming both models, unless this one makes the vectors that the index holds."""
        own = self.record["model"]
        if own.get("fingerprint") == fingerprint(model, processor, {}):
            return
        same = self.record["preprocessing"] == preprocessing_of(processor)
        what = "weights or another configuration" if same else "preprocessing"
        raise DataError(
            f"{self.folder} was made by {own.get('name')}, and {name} has other {what}: their vectors cannot be "
            f"compared. Give --model {own.get('name')}, as it was then, or index the images again in another --output."
        )


def _vectors(folder: Path) -> np.ndarray:
    """The vectors float32 [N, D] of an index; memory-mapped unless it was published."""
    if (folder / PUBLISHED_VECTORS).is_file():
        return load_file(folder / PUBLISHED_VECTORS)["vectors"]
    return np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)


def preprocessing_of(processor: Any) -> dict[str, Any]:
    """Return what an image processor does, fit for JSON and equal for equal settings."""
    kept: Mapping[str, Any] = {key: value for key, value in processor.to_dict().items() if key not in OTHER_KEYS}
    return json.loads(json.dumps(json_safe(kept), sort_keys=True, default=str))
