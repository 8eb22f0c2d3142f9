"""Views kept on disk: every image is decoded once, and a batch is then one read from a memory-mapped array.

A cache is a folder named by the hash of its key, ROOT/<hash>/ with
    views.npy     uint8 [N, C, S, S'], a row for each example
    rows.npy      uint32 [N], a checksum of each row, 0 while it is missing
    key.json      what the rows were made of: the files, the processor's settings, the libraries
Until it is whole it is called ROOT/<hash>.building: a build that was killed goes on where it stopped. Removing such
folders is always safe.

Shapes: N examples, B batch, C channels, S x S' the views' size.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch.utils.data import DataLoader, Dataset

from ..image_limits_vit_custom import ImageDecodingError
from .examples import Examples
from .fingerprint import cache_key, key_hash
from .raw import DataError, listed
from .views import DecodedViews, ViewMaker

logger = logging.getLogger(__name__)

AUTO, OFF = "auto", "off"
SHARE_OF_FREE_DISK = 0.25  # that --image_cache auto takes at most
CHUNK_BYTES = 2**20  # of views in one message between processes: a container's /dev/shm may be small
MAX_CHUNK = 64  # images
MIN_IMAGES_PER_WORKER = 256
CHECKED_ROWS = 64  # whose checksums are compared when a cache is opened


class CachedViews:
    """The views of a split, from the cache in `folder`."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._rows: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_rows": None}  # a process maps the file itself; pickling would copy it

    @property
    def rows(self) -> np.ndarray:
        """uint8 [N, C, S, S'], mapped and not read."""
        if self._rows is None:
            self._rows = open_memmap(self.folder / "views.npy", mode="r").view(np.ndarray)
        return self._rows

    def __len__(self) -> int:
        return len(self.rows)

    def __call__(self, indices: Sequence[int]) -> torch.Tensor:
        """[B] positions -> uint8 [B, C, S, S'], in memory of their own."""
        return torch.from_numpy(self.rows[np.asarray(indices, np.int64)])


def cache_root() -> Path:
    """Where `auto` keeps caches: $VIT_CUSTOM_CACHE, or ~/.cache/vit_custom/images."""
    return Path(os.environ.get("VIT_CUSTOM_CACHE") or Path.home() / ".cache" / "vit_custom" / "images")


def open_views(
    split: str, examples: Examples, maker: ViewMaker, image_cache: str = AUTO, progress: bool = False
) -> tuple[CachedViews | DecodedViews, str]:
    """(the views of a split, a sentence that says where they come from); builds the cache where there is none.

    image_cache: "auto", cached under `cache_root()` if that takes a quarter of the free disk at most; "off",
    decoded each time; or the folder to hold caches, whatever they take.
    Several processes may call this at once: one builds, the others wait for it.
    Raises DataError naming every image that cannot be read, or a folder that cannot hold the cache.
    """
    if image_cache == OFF:
        return DecodedViews(examples, maker), f"{split}: images are decoded anew in each epoch"
    root = cache_root() if image_cache == AUTO else Path(image_cache)
    size = len(examples) * int(np.prod(maker.shape))
    what = f"{len(examples):,} views of {' x '.join(map(str, maker.shape))}, {_readable(size)}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        limit = SHARE_OF_FREE_DISK * shutil.disk_usage(root).free if image_cache == AUTO else None
        views, how = _open_or_build(examples, maker, root, size, limit, progress)
    except OSError as error:
        if image_cache != AUTO:
            raise DataError(f"--image_cache {root} cannot hold {what}: {error}. Name another, or off.") from error
        return DecodedViews(examples, maker), f"{split}: images are decoded anew in each epoch, no cache: {error}"
    if views is None:
        return DecodedViews(examples, maker), (
            f"{split}: images are decoded anew in each epoch: a cache, {what}, would take more than "
            f"{SHARE_OF_FREE_DISK:.0%} of the free disk at {root}. --image_cache DIR keeps it elsewhere"
        )
    return views, f"{split}: images are read from a cache, {what}, {how} in {views.folder}, which may be removed"


def _open_or_build(
    examples: Examples, maker: ViewMaker, root: Path, size: int, limit: float | None, progress: bool
) -> tuple[CachedViews | None, str]:
    from filelock import FileLock, Timeout

    key = cache_key(examples, maker)
    folder = root / key_hash(key)
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning(f"waiting for the process that builds {folder}")
        lock.acquire()
    try:
        if folder.exists():
            if (defect := _defect(folder, key, maker.shape)) is None:
                return CachedViews(folder), "found"
            logger.warning(f"{folder} is damaged ({defect}): it is built anew")
            shutil.rmtree(folder)
        if limit is not None and size > limit:
            return None, ""
        _build(examples, maker, folder, key, progress)
        return CachedViews(folder), "built"
    finally:
        lock.release()


def _defect(folder: Path, key: dict[str, Any], shape: tuple[int, ...]) -> str | None:
    """What makes a folder no cache of this key, or None. Of its rows only some are read."""
    try:
        if json.loads((folder / "key.json").read_text(encoding="utf-8")) != key:
            return "key.json is of another"
        rows, checksums = (open_memmap(folder / name, mode="r") for name in ("views.npy", "rows.npy"))
    except (OSError, ValueError) as error:
        return str(error)
    if rows.dtype != np.uint8 or rows.shape != (key["examples"], *shape):
        return f"views.npy holds {rows.dtype} {rows.shape}"
    if checksums.shape != rows.shape[:1] or checksums.dtype != np.uint32:
        return "rows.npy is of another size"
    sample = np.linspace(0, len(rows) - 1, min(CHECKED_ROWS, len(rows))).astype(int)
    wrong = [row for row in sample if checksums[row] != _checksum(rows[row])]
    return f"row {wrong[0]} is not what was written" if wrong else None


def _build(examples: Examples, maker: ViewMaker, folder: Path, key: dict[str, Any], progress: bool) -> None:
    """Fills FOLDER.building and renames it to FOLDER; raises DataError naming all images that cannot be read."""
    partial = folder.with_name(folder.name + ".building")
    rows, checksums = _prepare(partial, key, (len(examples), *maker.shape))
    missing = [i for i, known in enumerate(checksums) if not known or known != _checksum(rows[i])]
    errors: dict[int, str] = {}
    for done, views, sums, failed in _made(examples, maker, missing, progress):
        rows[done] = views
        checksums[done] = sums  # after the rows: what a killed process has marked is there
        errors |= failed
    if errors:
        reasons = listed([errors[row] for row in sorted(errors)])
        raise DataError(f"{len(errors)} of {len(examples)} images cannot be read, remove or replace them: {reasons}")
    for array, name in ((rows, "views.npy"), (checksums, "rows.npy")):
        array.flush()
        with open(partial / name, "r+b") as file:
            os.fsync(file.fileno())
    partial.rename(folder)


def _prepare(partial: Path, key: dict[str, Any], shape: tuple[int, ...]) -> tuple[np.memmap, np.memmap]:
    """(rows, checksums) of a build, an earlier one's where it was of the same key; raises OSError on a full disk."""
    try:
        if json.loads((partial / "key.json").read_text(encoding="utf-8")) == key:
            rows, checksums = (open_memmap(partial / name, mode="r+") for name in ("views.npy", "rows.npy"))
            if rows.shape == shape and checksums.shape == shape[:1]:
                return rows, checksums
    except (OSError, ValueError):
        pass
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        rows = open_memmap(partial / "views.npy", mode="w+", dtype=np.uint8, shape=shape)
        if hasattr(os, "posix_fallocate"):  # a mapped file that outgrows its disk kills the process
            with open(partial / "views.npy", "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        checksums = open_memmap(partial / "rows.npy", mode="w+", dtype=np.uint32, shape=shape[:1])
        (partial / "key.json").write_text(json.dumps(key), encoding="utf-8")
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return rows, checksums


def _made(examples: Examples, maker: ViewMaker, indices: list[int], progress: bool) -> Iterator[tuple]:
    """(rows, their views, their checksums, row -> why another could not be read), in chunks, by all cores."""
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
    """Chunks of rows for `_build`; an unreadable image costs only itself."""

    def __init__(self, examples: Examples, maker: ViewMaker):
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
        return done, stacked, [_checksum(view) for view in stacked.numpy()], failed


def _checksum(row: np.ndarray) -> int:
    """Of one view's bytes; never 0, which marks a row that is missing."""
    return crc32(row.data) or 1


def _readable(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
