"""The images that an index is made of: every image of a folder, a table or a dataset, with its label if it has one."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from ..common.errors import DataError
from ..data.examples import Joined, LazySelection
from ..data.folders import find_split_folders, folder_of_split, metadata_files
from ..data.hub_datasets import open_dataset, read_opened
from ..data.metadata_folders import read_metadata_folder
from ..data.names import canonical_name
from ..data.raw import RawSplit
from ..data.source import Columns, Source
from ..data.tables import is_table, open_table, read_table
from ..data.targets import ClassIds
from ..data.unlabelled import read_rows
from ..inference.inputs import find_images

CONTENT = 16  # bytes of a hash


@dataclass(frozen=True)
class Listed:
    """images: N sources that `decode_image` accepts.   names: [N].   labels: [N] fit for JSON, None without a label.

    kind: the problem_type of the labels, "" without any.   notes: sentences for the user.
    """

    images: Sequence[Any]
    names: list[str]
    labels: list[Any]
    kind: str
    notes: list[str]

    def __len__(self) -> int:
        return len(self.names)


def list_images(source: Source, columns: Columns = Columns()) -> Listed:
    """Return every image of `source` once, of all its splits unless `source.split` names one; no image is decoded.

    Labels are those that training would read: the class folder, the metadata file or the label column.
    Raises DataError or ValueError for a source without images, and for labels that cannot be read.
    """
    if (source.train is None) == (source.dataset_name is None):
        raise DataError("name the images once: by --data_dir, or by --dataset_name.")
    if source.dataset_name is None and os.path.isdir(source.place):
        return _of_folder(source, columns)
    parts = _of_dataset(source, columns) if source.dataset_name is not None else _of_table(source, columns)
    if parts is None:
        raw = read_rows(source, columns)
        return Listed(raw.images, list(raw.names), [None] * len(raw), "", raw.notes)
    if len({part.targets for part in parts}) > 1:
        raise DataError(f"the splits of {source.place} have labels of several kinds: --problem_type settles it.")
    names = [name for part in parts for name in part.names]
    labels = [label for part in parts for label in _plain(part)]
    notes = [note for part in parts for note in part.notes]
    first = sorted({name: row for row, name in reversed(list(enumerate(names)))}.values())
    if len(first) < len(names):
        notes.append(f"{len(names) - len(first)} rows name an image that another names too, and which is taken once")
    return Listed(
        LazySelection(Joined([part.images for part in parts]), first),
        [names[row] for row in first],
        [labels[row] for row in first],
        parts[0].targets.problem_type,
        notes,
    )


def content_of(image: Any) -> bytes | None:
    """Return a hash of an image's bytes, or of its pixels if it is decoded already; None for an unreadable file."""
    if isinstance(image, str | os.PathLike):
        try:
            if not os.path.isfile(image):  # opening a named pipe would wait forever
                return None
            return blake2b(Path(image).read_bytes(), digest_size=CONTENT).digest()
        except OSError:
            return None
    if isinstance(image, bytes):
        return blake2b(image, digest_size=CONTENT).digest()
    pixels = np.asarray(image)
    return blake2b(f"{pixels.dtype} {pixels.shape}".encode() + pixels.tobytes(), digest_size=CONTENT).digest()


def _of_folder(source: Source, columns: Columns) -> Listed:
    root = folder_of_split(source)
    paths, notes = find_images([str(root)], source.follow_links)
    splits = find_split_folders(root, source.follow_links) if source.split is None else {}
    labels: dict[str, Any] = {}
    kind = ""
    for folder in [*splits.values()] or [root]:
        inside = [path for path in paths if Path(path).is_relative_to(folder)]
        raw = None
        if any(_has_labels(list(open_table(file, "index").columns), columns) for file in metadata_files(folder)):
            raw = read_metadata_folder(folder, "index", columns, source.follow_links)
        if raw is not None:
            labels |= {os.path.normpath(name): label for name, label in zip(raw.names, _plain(raw), strict=True)}
            kind = raw.targets.problem_type
            continue
        for path in inside:
            if len(parts := Path(path).relative_to(folder).parts) > 1:
                labels[os.path.normpath(path)] = canonical_name(parts[0])
                kind = ClassIds.problem_type
    return Listed(paths, paths, [labels.get(os.path.normpath(path)) for path in paths], kind, notes)


def _of_table(source: Source, columns: Columns) -> list[RawSplit] | None:
    if not is_table(source.place):
        raise DataError(f"{source.place} is no folder and no table of images.")
    source.check_split(())
    if not _has_labels(list(open_table(source.place, "table").columns), columns):
        return None
    return [read_table(source.place, "table", columns, source.follow_links)]


def _of_dataset(source: Source, columns: Columns) -> list[RawSplit] | None:
    opened, _ = open_dataset(source, needs_train=False)
    source.check_split(opened)
    chosen = opened if source.split is None else {source.split: opened[source.split]}
    names = [list(part[0].columns) if isinstance(part, list) else part.column_names for part in chosen.values()]
    if not all(_has_labels(each, columns) for each in names):
        return None
    return [read_opened(part, split, source, columns) for split, part in chosen.items()]


def _has_labels(available: Sequence[str], columns: Columns) -> bool:
    """Whether to read labels: there is such a column, or the user has named one, and its lack is then an error."""
    return columns.label != Columns().label or columns.label in available


def _plain(raw: RawSplit) -> list[Any]:
    """The labels of a split, fit for JSON: names, lists of names, or numbers."""
    if raw.targets is ClassIds:
        return [canonical_name(label) for label in raw.labels]
    if raw.targets.named:
        return [[canonical_name(name) for name in raw.targets.names_of(label)] for label in raw.labels]
    return np.asarray(raw.labels).tolist()
