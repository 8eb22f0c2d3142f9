"""A lock that lets only one run at a time write to an output, a file or a folder.

The lock is filelock's. The system drops it when the process ends, however it ends, so no lock is ever stale, and
loading processes do not keep it. If the file system has no locks, filelock says so and checks whether the process that
made the file still lives. A file beside the lock names its owner.
"""

import os
import socket
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

OWNER = ".owner"  # suffix of the file that names the lock's owner


def take_lock(path: Path, stack: ExitStack, what: str, error: type[Exception]) -> None:
    """Lock the file `path`; when `stack` is closed, release the lock and remove the file.

    what: the output in words, such as "--output out.jsonl". Raises `error`, naming the owner, if another has the lock.
    """
    lock, owner_file = FileLock(path), path.with_name(path.name + OWNER)
    try:
        lock.acquire(blocking=False)
    except Timeout as busy:
        owner = owner_file.read_text(encoding="utf-8") if owner_file.is_file() else ""
        raise error(
            f"{what} is being written by {owner or 'another process'}: wait for it, stop it, or name another."
        ) from busy
    stack.callback(lock.release)
    stack.callback(path.unlink, missing_ok=True)  # runs while the lock is still held
    owner_file.write_text(
        f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now():%Y-%m-%d %H:%M:%S}", encoding="utf-8"
    )
    stack.callback(owner_file.unlink, missing_ok=True)
