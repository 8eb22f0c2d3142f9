"""Data larger than memory or disk: shards that `datasets` reads from front to back, one example at a time.

Labels are read once, before training, from their columns alone if the file format allows it. So the number of examples,
their labels and any errors in them are known before work can be lost. Images are read again in each epoch, in the order
of the shards. They stay encoded (`Row`) until they reach the process that decodes them.

Shapes: N examples, K shards, B batch, C channels, S x S' the views' size.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from tarfile import TarError
from typing import Any

import numpy as np
import torch

from ..common.errors import DataError
from .examples import Examples, LazySelection
from .views import ImageResizer

MAX_PARTS = 1024  # a dataset of more shards (each file of an imagefolder is one) is read in this many parts
READ_ERRORS = (OSError, ValueError, TarError)  # Arrow's errors are ValueErrors and OSErrors


class Row(int):
    """An example's index that carries its encoded image through samplers and to loading processes."""

    source: bytes

    def __new__(cls, index: int, source: bytes) -> "Row":
        row = super().__new__(cls, index)
        row.source = source
        return row

    def __reduce__(self):
        return Row, (int(self), self.source)


@dataclass(frozen=True)
class Shards:
    """The shards of a dataset.

    names: [K] as errors show them.   counts: [K] int64, how many examples each holds.
    """

    names: Sequence[str]
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @property
    def starts(self) -> np.ndarray:
        """[K] int64, the index of each shard's first example."""
        return np.cumsum(self.counts) - self.counts

    def place(self, index: int) -> tuple[int, int]:
        """Return (shard, row in it) of an example."""
        shard = int(np.searchsorted(np.cumsum(self.counts), index, side="right"))
        return shard, int(index - self.starts[shard])


class RowNames(Sequence):
    """[N] "row 17 of train-00003.parquet", made when asked for."""

    def __init__(self, shards: Shards):
        self.shards = shards

    def __len__(self) -> int:
        return int(self.shards.counts.sum())

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard, row = self.shards.place(index)
        return f"row {row + 1} of {self.shards.names[shard]}"


class ShardedImages(Sequence):
    """The encoded images of a `datasets.IterableDataset`, [N] bytes; read them in the order of the shards.

    Reading item i goes through its shard, which suits a few items, not all.

    dataset: its image column alone, not decoded.   files: the shards, paths or addresses.
    opens_files: whether cells may name files that hold the images (an imagefolder's, which `datasets` found itself).
    """

    def __init__(self, dataset: Any, column: str, shards: Shards, files: Sequence[str] = (), opens_files: bool = False):
        self.dataset, self.column, self.shards, self.files = dataset, column, shards, files
        self.opens_files = opens_files

    @property
    def record(self) -> list[tuple[str, int | None]]:
        """Names and sizes that identify these files, fit for JSON."""
        return file_record(self.files)

    def __len__(self) -> int:
        return int(self.shards.counts.sum())

    def __getitem__(self, index):
        shard, row = self.shards.place(int(index))
        wanted = np.zeros(self.shards.counts[shard], bool)
        wanted[row] = True
        return next(self.read(shard, wanted))[1]

    def read(self, shard: int, wanted: np.ndarray) -> Iterator[tuple[int, bytes]]:
        """Yield (index, encoded image) of a shard's examples where `wanted`, bool, is True; stop after the last one.

        Raises DataError for a shard that cannot be read, or holds other examples than before.
        """
        name, start, count = self.shards.names[shard], int(self.shards.starts[shard]), self.shards.counts[shard]
        last = int(np.flatnonzero(wanted)[-1]) if wanted.any() else -1
        rows, row = iter(self.dataset.shard(len(self.shards), shard)), -1
        while row < last:
            row += 1
            try:
                cell = next(rows)[self.column]
                image = self._encoded(cell) if wanted[row] else None
            except StopIteration:
                raise DataError(f"{name} held {count:,} examples and now ends after {row:,}: it has changed.") from None
            except READ_ERRORS as error:
                raise DataError(f"row {row + 1} of {name} cannot be read: {error}") from error
            if wanted[row] and not image:
                raise DataError(f"row {row + 1} of {name}: column {self.column!r} holds no image.")
            if image:
                yield start + row, image

    def fetched(self, indices: np.ndarray) -> list[bytes]:
        """Return the images at `indices`, held in memory."""
        wanted = np.zeros(len(self), bool)
        wanted[indices] = True
        parts = np.split(wanted, np.cumsum(self.shards.counts)[:-1])
        found = dict(item for shard, part in enumerate(parts) for item in self.read(shard, part))
        return [found[index] for index in indices.tolist()]

    def _encoded(self, cell: Any) -> bytes | None:
        if not isinstance(cell, dict):
            return cell
        if self.opens_files and cell["bytes"] is None:
            from datasets.utils.file_utils import xopen

            with xopen(cell["path"], "rb") as file:  # may be on the Hub
                return file.read()
        return cell["bytes"]


def stream_of(examples: Examples) -> tuple[ShardedImages, np.ndarray] | None:
    """Return (the stream of a split's images, [N] int64 their positions in it), or None if they are not streamed."""
    images: Any = examples.images
    indices = np.arange(len(examples))
    while isinstance(images, LazySelection):
        images, indices = images.items, np.asarray(images.indices, np.int64)[indices]
    return (images, indices) if isinstance(images, ShardedImages) else None


class StreamedViews:
    """The views of a training split whose rows carry their images.

    buffer: size of the shuffle buffer, in rows: the next row is drawn from it.
    """

    def __init__(self, examples: Examples, maker: ImageResizer, buffer: int):
        found = stream_of(examples)
        assert found is not None
        self.examples, self.maker, self.buffer = examples, maker, buffer
        self.images, indices = found
        self.position = np.full(len(self.images), -1, np.int64)  # in the split; -1: not in it
        self.position[indices] = np.arange(len(indices))

    def __len__(self) -> int:
        return len(self.examples)

    def __call__(self, rows: Sequence[Row]) -> torch.Tensor:
        """Return uint8 [B, C, S, S'] of B rows."""
        return self.maker([row.source for row in rows], [self.examples.names[row] for row in rows])

    def rows(self, rng: np.random.Generator) -> Iterator[Row]:
        """Yield each example once: shards in random order, and each row drawn at random from the buffer."""
        return shuffled(self._read(rng.permutation(len(self.images.shards))), self.buffer, rng)

    def _read(self, order: np.ndarray) -> Iterator[Row]:
        parts = np.split(self.position, np.cumsum(self.images.shards.counts)[:-1])
        for shard in order:
            for index, image in self.images.read(shard, parts[shard] >= 0):
                yield Row(self.position[index], image)


def shuffled(items: Iterator[Any], size: int, rng: np.random.Generator) -> Iterator[Any]:
    """Yield all items, each drawn from a shuffle buffer of `size`; the items left at the end follow, permuted."""
    buffer: list[Any] = []
    for item in items:
        if len(buffer) < size:
            buffer.append(item)
        else:
            drawn = int(rng.integers(size))
            yield buffer[drawn]
            buffer[drawn] = item
    for drawn in rng.permutation(len(buffer)).tolist():
        yield buffer[drawn]


def file_record(files: Sequence[str]) -> list[tuple[str, int | None]]:
    """Return (name, size) of each local file, (address, None) of a remote one; Hub addresses hold their commit."""
    return [(os.path.basename(file), os.path.getsize(file)) if os.path.isfile(file) else (file, None) for file in files]
