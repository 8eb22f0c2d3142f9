"""A cache of views on disk: every image is decoded once, and batches are then read from one file.

A cache is a folder of `sealed_rows`, ROOT/<hash>/, named by the hash of its key. Its rows are in views.npy, uint8 [N,
C, S, S']. The key names the files, the processor's settings and the libraries.

Shapes: N examples, B batch, C channels, S x S' the views' size.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..common.cache_folders import cache_root, make_folders
from ..common.errors import DataError
from ..image_limits_vit_custom import ImageDecodingError
from ..weight_files_vit_custom import shorten_list
from .examples import Examples
from .fingerprint import cache_key, key_hash
from .sealed_rows import NoRoomError, SealedRows, UnfinishedRows, checksum, find_or_build
from .views import DecodedViews, ImageResizer

logger = logging.getLogger(__name__)

AUTO, OFF = "auto", "off"
SHARE_OF_FREE_DISK = 0.25  # the most that --image_cache auto takes
CHUNK_BYTES = 2**20  # of views in one message between processes: a container's /dev/shm may be small
MAX_CHUNK = 64  # images
MIN_IMAGES_PER_WORKER = 256
VIEWS = "views.npy"


class CachedViews:
    """The views of a split, read from its cache. A damaged or missing row is decoded again."""

    def __init__(self, rows: SealedRows, decoded: DecodedViews):
        self.rows, self.decoded = rows, decoded
        self._warned = False

    @property
    def folder(self) -> Path:
        return self.rows.folder

    def __len__(self) -> int:
        return len(self.rows)

    def __call__(self, indices: Sequence[int]) -> torch.Tensor:
        """Return uint8 [B, C, S, S'] for [B] positions, in memory of their own."""
        views, wrong = self.rows.read(indices)
        if wrong:
            again = [int(indices[place]) for place in wrong]
            if not self._warned:
                logger.warning(
                    f"{self.folder} does not hold what was written for {self.decoded.examples.names[again[0]]}: this "
                    "image, and others like it, are decoded again. Remove that folder, and the next run builds it again"
                )
                self._warned = True
            views[wrong] = self.decoded(again).numpy()
        return torch.from_numpy(views)


def place_of(image_cache: str) -> Path:
    """Return the folder that --image_cache means; for "auto" it is `cache_root("images")`."""
    return cache_root("images") if image_cache == AUTO else Path(image_cache)


def room_in(root: Path, image_cache: str) -> float | None:
    """Make the folder `root`; return how many bytes may be built there, or None for no limit. Raises OSError."""
    if image_cache != AUTO:
        root.mkdir(parents=True, exist_ok=True)
        return None
    make_folders(root.parent)
    root.mkdir(exist_ok=True)
    return SHARE_OF_FREE_DISK * shutil.disk_usage(root).free


def open_views(
    split: str, examples: Examples, maker: ImageResizer, image_cache: str = AUTO, progress: bool = False
) -> tuple[CachedViews | DecodedViews, str]:
    """Return (the views of a split, a sentence that says where they come from); build the cache if there is none.

    image_cache: "auto" caches under `cache_root("images")` if that takes at most a quarter of the free disk; "off"
    decodes images each time; the name of a folder puts caches there, whatever they take.
    Several processes may call this at once: one builds, the others wait for it.
    Raises DataError naming every image that cannot be read, or a folder that cannot hold the cache.
    """
    if image_cache == OFF:
        return DecodedViews(examples, maker), f"{split}: images are decoded again in each epoch"
    root, decoded = place_of(image_cache), DecodedViews(examples, maker)
    shape = (len(examples), *maker.shape)
    what = f"{len(examples):,} views of {' x '.join(map(str, maker.shape))}, {_readable(int(np.prod(shape)))}"
    build = partial(_build, examples, maker, progress=progress)
    try:
        limit, key = room_in(root, image_cache), cache_key(examples, maker)
        rows, how = find_or_build(root / key_hash(key), VIEWS, key, shape, np.uint8, build, limit)
    except NoRoomError:
        return decoded, (
            f"{split}: images are decoded again in each epoch: a cache, {what}, would take more than "
            f"{SHARE_OF_FREE_DISK:.0%} of the free disk at {root}. --image_cache DIR keeps it elsewhere"
        )
    except OSError as error:
        if image_cache != AUTO:
            raise DataError(f"--image_cache {root} cannot hold {what}: {error}. Name another, or off.") from error
        return decoded, f"{split}: images are decoded again in each epoch, no cache: {error}"
    note = f"{split}: images are read from a cache, {what}, {how} in {rows.folder}, which may be removed"
    return CachedViews(rows, decoded), note


def _build(examples: Examples, maker: ImageResizer, rows: UnfinishedRows, progress: bool) -> None:
    """Make the missing rows; raise DataError naming all images that cannot be read."""
    errors: dict[int, str] = {}
    for done, views, sums, failed in _made(examples, maker, rows.missing, progress):
        rows.write(done, views, sums)
        errors |= failed
    if errors:
        reasons = shorten_list([errors[row] for row in sorted(errors)])
        raise DataError(f"{len(errors)} of {len(examples)} images cannot be read, remove or replace them: {reasons}")


def _made(examples: Examples, maker: ImageResizer, indices: list[int], progress: bool) -> Iterator[tuple]:
    """Yield (rows, their views, their checksums, {row: why it cannot be read}) in chunks, decoded by all cores."""
    from tqdm import tqdm

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, len(indices) // MIN_IMAGES_PER_WORKER)
    size = min(max(1, CHUNK_BYTES // int(np.prod(maker.shape))), MAX_CHUNK)
    chunks = [indices[i : i + size] for i in range(0, len(indices), size)]
    loader = DataLoader(
        _Rows(examples, maker),
        batch_sampler=chunks,
        num_workers=workers if workers > 1 else 0,
        collate_fn=_as_it_is,
    )
    with tqdm(total=len(indices), desc="decoding", unit=" images", disable=not progress) as bar:
        for done, views, sums, failed in loader:
            yield done, views.numpy(), sums, failed
            bar.update(len(done) + len(failed))


def _as_it_is(chunk: Any) -> Any:
    return chunk


class _Rows(Dataset):
    """Dataset whose batches are chunks of rows for `_build`; an unreadable image does not affect the others."""

    def __init__(self, examples: Examples, maker: ImageResizer):
        self.examples, self.maker = examples, maker

    def __getitems__(self, indices: list[int]) -> tuple[list[int], torch.Tensor, list[int], dict[int, str]]:
        done, views, failed = [], [], {}
        for i in indices:
            try:
                views.append(self.maker([self.examples.images[i]], [self.examples.names[i]]))
                done.append(i)
            except (ImageDecodingError, OSError) as error:
                failed[i] = str(error)
        stacked = torch.cat([torch.empty(0, *self.maker.shape, dtype=torch.uint8), *views])
        return done, stacked, [checksum(view) for view in stacked.numpy()], failed


def _readable(size: int) -> str:
    """A number of bytes as readable text."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
