"""Whether images have changed: compares the size and modification time of every file, and the content of many.

A file of another size is noticed, and one with another modification time unless its content is the same. Content is
compared for at most CONTENT images, evenly spread if there are more. Of a file above PIECES * PIECE bytes only pieces
are compared. An image that keeps its size, its time and all that is read of it counts as unchanged.

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
# size in bytes, modification time in nanoseconds, both -1 if the image is not a file; content: hash, 0 if unread.
IDENTITY = np.dtype([("size", "<i8"), ("time", "<i8"), ("content", "<u8")])


def identify(images: Sequence[Any], workers: int = 8) -> np.ndarray:
    """Return [N] of IDENTITY. images: sources that `decode_image` accepts; a missing file has size -1."""
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
                if stat.S_ISREG(status.st_mode):  # opening a named pipe would wait forever
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

    # All items of a list; of other sequences, whose items must be read, only the sample.
    indices = list(range(len(images))) if isinstance(base, list) else sorted(read)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(look_at, (indices[k::CHUNKS] for k in range(CHUNKS))))
    return found


def changed(before: np.ndarray, now: np.ndarray) -> tuple[list[int], int]:
    """Return (indices of changed images, how many more have another modification time but the same content).

    If an image's content is not known, another time counts as a change, unless images with another time and known
    content exist and all of these have the same content.
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
    """Write `identities` to `path`; replace the file there in one step."""
    unfinished = path.with_name(path.name + ".tmp")
    with open(unfinished, "wb") as file:
        np.savez_compressed(file, **identities)  # type: ignore[arg-type]
    os.replace(unfinished, path)


def read_identities(path: Path) -> dict[str, np.ndarray] | None:
    """Read what `write_identities` wrote; return None if it is missing or damaged."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            return dict(stored)
    except Exception:  # zip and numpy raise errors of many types for a damaged file
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
