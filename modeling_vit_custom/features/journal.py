"""The vectors that a build of an index has computed so far: an append-only file, which a killed build goes on from.

Shapes: n records, B batch, D width of a vector.
"""

from pathlib import Path
from typing import Any, Self
from zlib import crc32

import numpy as np

from .index_images import CONTENT


class Journal:
    """Vectors that are computed and not yet in an index: an append-only file of records with checksums.

    contents: the hashes of the images it holds, in order. A torn or damaged end is cut off. A file of another model is
    started afresh.
    """

    def __init__(self, path: Path, made_by: str):
        self.path, self.made_by = path, made_by.encode("ascii")
        self.contents: list[bytes] = []
        self.finished = False
        self.width = self._read() if path.is_file() else 0

    def __enter__(self) -> Self:
        self.file = open(self.path, "ab")
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()
        if self.finished or not self.contents:
            self.path.unlink()

    def finish(self) -> None:
        """Remove the file at the end of the `with`: its vectors are in an index."""
        self.finished = True

    def _read(self) -> int:
        """Find the whole records; return their width, 0 if there are none."""
        start, width = len(self.made_by), 0
        with open(self.path, "r+b") as file:
            head = file.read(start + 4)
            if len(head) == start + 4 and head[:start] == self.made_by:
                width = int.from_bytes(head[start:], "little")
                kind = _record_of(width)
                while len(raw := file.read(kind.itemsize)) == kind.itemsize:
                    record = np.frombuffer(raw, kind)[0]
                    if crc32(raw[:-4]) != record["sum"]:
                        break
                    self.contents.append(raw[:CONTENT])
            file.truncate(start + 4 + len(self.contents) * _record_of(width).itemsize if self.contents else 0)
        return width if self.contents else 0

    def add(self, contents: list[bytes], vectors: np.ndarray) -> None:
        """Add vectors [B, D] of images with these contents."""
        if not self.width:
            self.width = vectors.shape[1]
            self.file.write(self.made_by + self.width.to_bytes(4, "little"))
        for content, vector in zip(contents, vectors, strict=True):
            raw = content + np.ascontiguousarray(vector, np.float32).tobytes()
            self.file.write(raw + crc32(raw).to_bytes(4, "little"))
        self.file.flush()
        self.contents += contents

    def vectors(self) -> np.ndarray:
        """Return the vectors [n, D], memory-mapped."""
        if not self.contents:
            return np.empty((0, self.width), np.float32)
        kind = _record_of(self.width)
        return np.memmap(self.path, kind, "r", len(self.made_by) + 4, (len(self.contents),))["vector"]


def _record_of(width: int) -> np.dtype:
    return np.dtype([("content", f"V{CONTENT}"), ("vector", "<f4", (width,)), ("sum", "<u4")])
