"""Writing results. Only a regular file or a link is ever replaced, and no half-written file ever appears.

A link itself is replaced; the file that it leads to stays as it is. A pipe or a character device, such as a FIFO,
/dev/stdout or /dev/null, is written into and stays. Nothing is written to a folder, a socket or a disk.
"""

import errno
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .model_files import CONFIG, EXPORT, RUN_FILE, SHARDS, WEIGHTS, WEIGHTS_INDEX

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a disk",
    stat.S_IFSOCK: "a socket",
}
_ASIDE = ".unfinished-"
_STREAMS = (stat.S_IFIFO, stat.S_IFCHR)


class OutputError(ValueError):
    """The path cannot hold the output; the message says why and what to name instead."""


def kind_of(path: str | os.PathLike) -> str | None:
    """Return what lies at a path, links followed: one of `KINDS`, or None for a file, nothing or a broken link."""
    there = _stat(path)
    return None if there is None else KINDS.get(stat.S_IFMT(there.st_mode))


def is_stream(path: str | os.PathLike) -> bool:
    """Return whether output goes into what lies there: a pipe, a character device, or stdout's or stderr's own file."""
    there = _stat(path)
    return there is not None and (stat.S_IFMT(there.st_mode) in _STREAMS or _standard_stream(there) is not None)


def check_replaceable(path: str | os.PathLike) -> None:
    """Raise OutputError unless a file can be put there, in place of nothing, of a regular file or of a link."""
    if (kind := kind_of(path)) is not None:
        raise OutputError(f"{path} is {kind}: it is not replaced. Name a file.")
    _check_parent(path, OutputError)


def check_new_folder(path: str | os.PathLike, error: type[Exception] = OutputError, empty: bool = True) -> None:
    """Raise `error` unless something new can be put there: nothing lies there or, if `empty`, an empty folder."""
    if not os.path.lexists(path):
        return _check_parent(path, error)
    if not empty:
        raise error(f"{path} is there already: it must be new. Name another one, or remove it.")
    if not os.path.isdir(path):
        raise error(f"{path} is {kind_of(path) or 'a file or a link'}: it must be a new or an empty folder.")
    if os.listdir(path):
        raise error(f"{path} is not empty: it must be a new or an empty folder.")


def check_private(path: str | os.PathLike, what: str) -> None:
    """Raise OutputError for a path in the folder of a model, a run or an export, which is passed on and published.

    what: the private thing that would be written, such as "an index".
    """
    marks = (WEIGHTS, WEIGHTS_INDEX, SHARDS, EXPORT, RUN_FILE)
    for folder in Path(os.path.realpath(path)).parents:
        if folder.is_dir() and any(any(folder.glob(mark)) for mark in marks):
            raise OutputError(
                f"{path} lies in {folder}, the folder of a model, which is passed on and published; {what} shows what "
                "your images hold. Name a path elsewhere."
            )


@contextmanager
def new_folder(path: str | os.PathLike, error: type[Exception] = OutputError) -> Iterator[Path]:
    """Yield a folder to write into; it takes the place of `path`, new or an empty folder, once all went well.

    If the process is killed, `path` stays as it was. A target that cannot be renamed onto (a mount point, or a folder
    whose parent cannot be written) gets the files one by one, its config.json last. Raises `error` if something else
    has taken `path` meanwhile.
    """
    target = Path(os.path.realpath(path))
    inside = target.is_dir() and (target.is_mount() or not os.access(target.parent, os.W_OK | os.X_OK))
    beside = target if inside else target.parent
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=beside, prefix=_ASIDE) as aside:
        folder = Path(aside) / target.name
        folder.mkdir()
        yield folder
        try:
            if not inside:
                os.rename(folder, target)
                return
            if any(not name.startswith(_ASIDE) for name in os.listdir(target)):
                raise FileExistsError(target)
            for child in sorted(folder.iterdir(), key=lambda child: child.name == CONFIG):
                os.rename(child, target / child.name)
        except OSError as reason:
            if reason.errno not in (None, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            raise error(f"{path} has been taken by something else meanwhile: name another folder.") from reason


def _check_parent(path: str | os.PathLike, error: type[Exception]) -> None:
    folder = next(parent for parent in Path(os.path.abspath(path)).parents if os.path.lexists(parent))
    if not folder.is_dir():
        raise error(f"{path}: {folder} is no folder. Name a path in one.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise error(f"{path}: {folder} cannot be written. Name a path elsewhere.")


def write_whole(path: str | os.PathLike, content: str | bytes) -> Path:
    """Write a file that is there whole or not at all, or write `content` into a stream; return its path.

    Raises OutputError if neither is possible. Text is written as UTF-8. Bytes of a file name that
    errors="surrogateescape" has decoded are written as the same bytes again.
    """
    path = Path(path)
    data = content if isinstance(content, bytes) else content.encode("utf-8", errors="surrogateescape")
    if is_stream(path):
        with _opened(path) as stream:
            stream.write(data)
        return path
    check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    unfinished.write_bytes(data)
    os.replace(unfinished, path)
    return path


def _stat(path: str | os.PathLike) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:  # nothing there, or no permission to look
        return None


def _standard_stream(there: os.stat_result) -> int | None:
    """Return 1 or 2 if that is what stdout or stderr goes to, even a file: replacing it would lose later output."""
    for descriptor in (1, 2):
        try:
            if os.path.samestat(os.fstat(descriptor), there):
                return descriptor
        except OSError:  # closed
            continue
    return None


def _opened(path: Path) -> IO[bytes]:
    descriptor = _standard_stream(path.stat())
    if descriptor is None:
        return open(path, "wb")
    sys.stdout.flush()
    sys.stderr.flush()
    return open(os.dup(descriptor), "wb")
