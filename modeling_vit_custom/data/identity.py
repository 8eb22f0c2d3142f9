"""Whether images are still those they were: the size and time of change of every file, the content of many.

What is promised: a file of another size is noticed, and one of another time of change unless its content is the same.
Content is compared of all images up to CONTENT of them, of more than these of so many, evenly spread; of a file above
PIECES * PIECE bytes in pieces. What keeps its size, its time and all that is read of it passes for the same.

Shapes: N images.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from .examples import LazySelection

CONTENT = 10_000  # images whose content is read
PIECES, PIECE = 16, 2**16
CHUNKS = 64  # of work for threads
# size in bytes and time of change in nanoseconds, both -1 of what is no file of its own; content: 0 if not read.
IDENTITY = np.dtype([("size", "<i8"), ("time", "<i8"), ("content", "<u8")])


def identify(images: Sequence[Any], workers: int = 8) -> np.ndarray:
    """[N] of IDENTITY. images: sources that `decode_image` accepts; a file that is not there has no size."""
    found = np.zeros(len(images), IDENTITY)
    found["size"] = found["time"] = -1
    read = set(np.linspace(0, len(images) - 1, min(CONTENT, len(images))).astype(int).tolist())
    base: Any = images
    while isinstance(base, LazySelection):
        base = base.items

    def look(index: int) -> None:
        source = images[index]
        if isinstance(source, str | os.PathLike):
            try:
                status = os.stat(source)
                if stat.S_ISREG(status.st_mode):  # to open a named pipe is to wait for ever
                    content = _of_file(source, status.st_size) if index in read else 0
                    found[index] = status.st_size, status.st_mtime_ns, content
            except OSError:
                pass
        elif index in read:
            pixels = source if isinstance(source, bytes) else np.ascontiguousarray(source).tobytes()
            found["content"][index] = _digest(pixels)

    def look_at(chunk: list[int]) -> None:
        for index in chunk:
            look(index)

    # All of a list; of what must be read to be had, only the sample.
    indices = list(range(len(images))) if isinstance(base, list) else sorted(read)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(look_at, (indices[k::CHUNKS] for k in range(CHUNKS))))
    return found


def changed(before: np.ndarray, now: np.ndarray) -> tuple[list[int], int]:
    """(which of N images have changed, how many more have another time of change, but not another content).

    Of those whose content is not known the time decides, unless the content of others with another time is the same.
    """
    size = before["size"] != now["size"]
    known = (before["content"] != 0) & (now["content"] != 0)
    content = known & (before["content"] != now["content"])
    touched = (before["time"] != now["time"]) & ~size & ~content
    unsure = touched & ~known
    if not (touched & known).any():
        content |= unsure
    touched &= ~content
    return np.flatnonzero(size | content).tolist(), int(touched.sum())


def write_identities(path: Path, identities: Mapping[str, np.ndarray]) -> None:
    """Replaces the file at `path` in one step."""
    unfinished = path.with_name(path.name + ".tmp")
    with open(unfinished, "wb") as file:
        np.savez_compressed(file, **identities)  # type: ignore[arg-type]
    os.replace(unfinished, path)


def read_identities(path: Path) -> dict[str, np.ndarray] | None:
    """What `write_identities` wrote; None where that is missing or damaged."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            return dict(stored)
    except Exception:  # whatever zip or numpy make of a damaged file
        return None


def _of_file(path: Any, size: int) -> int:
    with open(path, "rb") as file:
        if size <= PIECES * PIECE:
            return _digest(file.read())
        pieces = []
        for start in np.linspace(0, size - PIECE, PIECES).astype(int).tolist():
            file.seek(start)
            pieces.append(file.read(PIECE))
    return _digest(b"".join(pieces))


def _digest(content: bytes) -> int:
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little") or 1
