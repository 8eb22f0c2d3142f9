"""One run to an output: a file, or a folder.

The lock is filelock's: the system drops it when the process ends, however it ends, so that no lock is ever stale, and
loading processes do not keep it. Where the file system has none, filelock says so and looks whether the process that
made the file still lives. Who has the lock is told by a file beside it.
"""

import os
import socket
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

OWNER = ".owner"  # what the name of the file that tells who has it ends with


def take_lock(path: Path, stack: ExitStack, what: str, error: type[Exception]) -> None:
    """Locks the file `path`, and removes it with the lock when `stack` is closed.

    what: the output in words, such as "--output out.jsonl". Raises `error` naming the one who has it.
    """
    lock, told = FileLock(path), path.with_name(path.name + OWNER)
    try:
        lock.acquire(blocking=False)
    except Timeout as busy:
        owner = told.read_text(encoding="utf-8") if told.is_file() else ""
        raise error(
            f"{what} is being written by {owner or 'another process'}: wait for it, stop it, or name another."
        ) from busy
    stack.callback(lock.release)
    stack.callback(path.unlink, missing_ok=True)  # while it is held
    told.write_text(
        f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now():%Y-%m-%d %H:%M:%S}", encoding="utf-8"
    )
    stack.callback(told.unlink, missing_ok=True)
