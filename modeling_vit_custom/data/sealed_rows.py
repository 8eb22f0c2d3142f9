"""Rows of an array on disk: made once, read by many runs, and compared with their checksums at every read.

A folder holds
    NAME.npy    [N, ...], the rows
    rows.npy    uint32 [N], a checksum of each row, 0 while it is missing
    key.json    what the rows were made of
    seal        written last: the SHA-256 of the other two and of the header of NAME.npy
Until it is complete it is called FOLDER.building, and a build that was killed continues where it stopped. Removing such
folders is always safe, even while they are read: the file stays open, and loading processes inherit it.

Nothing is memory-mapped. Reading a truncated mapped file, or writing one on a full disk, ends the process by a signal;
a plain read or write raises an error.

Shapes: N rows, B of them in a batch.
"""

import errno
import hashlib
import io
import json
import logging
import math
import multiprocessing.context
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import reduction
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.lib import format as npy

logger = logging.getLogger(__name__)

CHECKSUMS, KEY, SEAL = "rows.npy", "key.json", "seal"
CHECKED_ROWS = 64  # compared with their checksums when a folder is opened
CHUNK = 256  # rows that are read at once for the comparison
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
CANNOT_RESERVE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}  # of file systems without preallocation


class NoRoomError(OSError):
    """The rows would take more disk space than allowed."""


class SealedRows:
    """The [N, ...] rows of a sealed folder. Raises OSError or ValueError, with the reason, if it is not intact."""

    _fd: Any = None
    _gone = False  # True once it could not be opened by name

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = Path(folder), name
        record, sums = ((self.folder / part).read_bytes() for part in (KEY, CHECKSUMS))
        if not (self.folder / SEAL).is_file():
            raise ValueError("it has no seal: an earlier version's, or not whole")
        self._fd = os.open(self.folder / self.name, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        first = np.zeros(4096, np.uint8)  # more than our headers take
        header = io.BytesIO(first[: _read_at(self._fd, 0, first)].tobytes())
        npy.read_magic(header)
        self.shape, _, self.dtype = npy.read_array_header_1_0(header)
        self.offset, self.row_bytes = header.tell(), _row_bytes(self.shape, self.dtype)
        self.seal = _digest(record, sums, header.getvalue()[: self.offset])
        if self.seal != (self.folder / SEAL).read_text(encoding="ascii", errors="replace"):
            raise ValueError("its seal is of other contents")
        self.key = json.loads(record)
        self.checksums = npy.read_array(io.BytesIO(sums), allow_pickle=False)
        if self.checksums.shape != self.shape[:1]:
            raise ValueError(f"{CHECKSUMS} is of another size")
        if os.fstat(self._fd).st_size != self.offset + self.row_bytes * len(self):
            raise ValueError(f"{self.name} is of another size")

    def __del__(self) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def __len__(self) -> int:
        return self.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        """A process that is being started gets the open file; any other opens the folder by name when it reads."""
        if multiprocessing.context.get_spawning_popen() is not None and hasattr(reduction, "DupFd"):
            return self.__dict__ | {"_fd": None if self._fd is None else reduction.DupFd(self._fd)}
        return self.__dict__ | {"_fd": None, "checksums": None, "key": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        if self._fd is not None:
            self._fd = self._fd.detach()

    def read(self, indices: Sequence[int]) -> tuple[np.ndarray, list[int]]:
        """Return (rows [B, ...] in memory of their own, the places in `indices` of unusable rows).

        A row is unusable if it is not what was written, or cannot be read.
        """
        raw = np.empty((len(indices), self.row_bytes), np.uint8)
        wrong = list(range(len(indices)))
        if self._can_read():
            wrong = [place for place in wrong if not self._read_row(range(len(self))[indices[place]], raw[place])]
        return raw.view(self.dtype).reshape(len(indices), *self.shape[1:]), wrong

    def _can_read(self) -> bool:
        if self._fd is None and not self._gone:
            try:
                found = SealedRows(self.folder, self.name)
                self._gone = found.seal != self.seal  # rebuilt with other contents
                self._fd, found._fd, self.checksums = found._fd, None, found.checksums
            except (OSError, ValueError):
                self._gone = True
        return not self._gone

    def _read_row(self, row: int, into: np.ndarray) -> bool:
        try:
            count = _read_at(self._fd, self.offset + row * self.row_bytes, into)
        except OSError:
            return False
        return count == len(into) and checksum(into) == self.checksums[row]

    def find_wrong(self, count: int | None = None) -> list[int]:
        """Return which of `count` evenly spread rows are not what was written; None checks all rows."""
        number = len(self) if count is None else min(count, len(self))
        looked_at = np.linspace(0, len(self) - 1, number).astype(int).tolist()
        chunks = [looked_at[i : i + CHUNK] for i in range(0, number, CHUNK)]
        return [chunk[place] for chunk in chunks for place in self.read(chunk)[1]]


class UnfinishedRows:
    """Rows that one process is making in FOLDER.building; an earlier build of the same key is continued.

    missing: the rows that are still to be made. Raises OSError on a full disk.
    """

    def __init__(self, folder: Path, name: str, key: dict[str, Any], shape: tuple[int, ...], dtype: Any):
        self.folder, self.partial, self.name = folder, folder.with_name(folder.name + ".building"), name
        self.header = _header(shape, dtype)
        self.sums_header = _header(shape[:1], np.uint32)
        self.row_bytes = _row_bytes(shape, dtype)
        self.record = json.dumps(key).encode()
        count, seal = shape[0], len(_digest())
        sizes = (len(self.header) + count * self.row_bytes, len(self.sums_header) + 4 * count, seal)
        whole = dict(zip((name, CHECKSUMS, SEAL), sizes, strict=True))
        if not self._is_of_this_key(whole):
            self._start(whole)
        self._rows, self._sums, self._seal = (open(self.partial / part, "r+b", buffering=0) for part in whole)  # noqa: SIM115
        sums = np.frombuffer((self.partial / CHECKSUMS).read_bytes(), np.uint32, offset=len(self.sums_header))
        row = np.empty(self.row_bytes, np.uint8)
        self.missing = [i for i, known in enumerate(sums) if not known or known != self._checksum_of(i, row)]

    def _is_of_this_key(self, whole: dict[str, int]) -> bool:
        with suppress(OSError, ValueError):
            right = (self.partial / KEY).read_bytes() == self.record
            return right and all((self.partial / part).stat().st_size == size for part, size in whole.items())
        return False

    def _start(self, whole: dict[str, int]) -> None:
        """Reserve all the space that will be needed, so that a full disk is noticed before any row is made."""
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir()
        try:
            for (part, size), header in zip(whole.items(), (self.header, self.sums_header, b""), strict=True):
                with open(self.partial / part, "wb", buffering=0) as file:
                    _reserve(file, size)
                    _write(file, 0, header)
            (self.partial / KEY).write_bytes(self.record)
        except OSError:
            self.remove()
            raise

    def _checksum_of(self, row: int, into: np.ndarray) -> int:
        count = _read_at(self._rows.fileno(), len(self.header) + row * self.row_bytes, into)
        return checksum(into) if count == len(into) else 0

    def write(self, indices: Sequence[int], rows: np.ndarray, checksums: Sequence[int] | None = None) -> None:
        """Write rows [B, ...], each before its checksum: a row that has a checksum is there, even after a kill."""
        for place, index in enumerate(indices):
            row = np.ascontiguousarray(rows[place])
            _write(self._rows, len(self.header) + index * self.row_bytes, row.data.cast("B"))
            known = checksum(row) if checksums is None else checksums[place]
            _write(self._sums, len(self.sums_header) + 4 * index, np.uint32(known).tobytes())

    def seal(self) -> None:
        """Flush all files to the disk and give the folder its final name."""
        _write(self._seal, 0, _digest(self.record, (self.partial / CHECKSUMS).read_bytes(), self.header).encode())
        for file in (self._rows, self._sums, self._seal):
            os.fsync(file.fileno())
        self.close()
        self.partial.rename(self.folder)

    def close(self) -> None:
        for file in (self._rows, self._sums, self._seal):
            file.close()

    def remove(self) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)


def find_or_build(
    folder: Path,
    name: str,
    key: dict[str, Any],
    shape: tuple[int, ...],
    dtype: Any,
    build: Callable[[UnfinishedRows], None],
    limit: float | None = None,
    checked: int | None = CHECKED_ROWS,
) -> tuple[SealedRows, str]:
    """Return (the rows of a key, "found" or "built"); `build` writes the missing ones.

    limit: bytes that may be built.   checked: how many rows are compared before a folder counts as found; None for all.
    Several processes may call this at once: one builds, the others wait for it.
    Raises NoRoomError above the limit, OSError if the disk cannot hold the rows; a full disk is left as it was.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning(f"waiting for the process that builds {folder}")
        lock.acquire()
    try:
        if folder.exists():
            try:
                return _found(folder, name, key, shape, dtype, checked), "found"
            except (OSError, ValueError) as error:
                logger.warning(f"{folder} is damaged ({error}): it is built again")
                shutil.rmtree(folder)
        size = shape[0] * _row_bytes(shape, dtype)
        if limit is not None and size > limit:
            raise NoRoomError(f"{size:,} bytes are more than the {int(limit):,} that may be taken at {folder.parent}")
        unfinished = UnfinishedRows(folder, name, key, shape, dtype)
        try:
            build(unfinished)
            unfinished.seal()
        except OSError as error:
            if error.errno in FULL:
                unfinished.remove()
            raise
        finally:
            unfinished.close()
        return SealedRows(folder, name), "built"
    finally:
        lock.release()


def checksum(row: np.ndarray) -> int:
    """Return the checksum of one row's bytes; never 0, which marks a missing row."""
    return crc32(row.data) or 1


def _found(
    folder: Path, name: str, key: dict[str, Any], shape: tuple[int, ...], dtype: Any, checked: int | None
) -> SealedRows:
    rows = SealedRows(folder, name)
    if rows.key != key:
        raise ValueError(f"{KEY} is of another")
    if (rows.shape, rows.dtype) != (shape, np.dtype(dtype)):
        raise ValueError(f"{name} holds {rows.dtype} {rows.shape}")
    if wrong := rows.find_wrong(checked):
        raise ValueError(f"row {wrong[0]} is not what was written")
    return rows


def _header(shape: tuple[int, ...], dtype: Any) -> bytes:
    header = io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape})
    return header.getvalue()


def _row_bytes(shape: tuple[int, ...], dtype: Any) -> int:
    return math.prod(shape[1:]) * np.dtype(dtype).itemsize


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def _reserve(file: Any, size: int) -> None:
    """Give `file` its size, and reserve the disk space if the file system can do that."""
    if hasattr(os, "posix_fallocate"):
        try:
            return os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in CANNOT_RESERVE:
                raise
    file.truncate(size)


def _write(file: Any, offset: int, data: Any) -> None:
    """Write all of `data`. On a disk that fills up, one call may write only a part, and the next raises OSError."""
    view = memoryview(data)
    file.seek(offset)
    while view:
        view = view[file.write(view) :]


def _read_at(fd: int, offset: int, into: np.ndarray) -> int:
    """Fill `into` [n bytes] from `offset`; return how many bytes there were. Processes may share the open file."""
    if hasattr(os, "preadv"):  # leaves the file's position alone
        return os.preadv(fd, [into.data], offset)
    os.lseek(fd, offset, os.SEEK_SET)
    data = os.read(fd, len(into))
    into[: len(data)] = np.frombuffer(data, np.uint8)
    return len(data)
