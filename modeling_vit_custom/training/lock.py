"""One run to a folder.

The lock is POSIX's (`fcntl.lockf`): the system drops it when the process ends, however it ends, and loading processes
do not inherit it, so that no lock is ever stale. It holds between machines on NFS 4, and on NFS 3 with its lock
service. Where locks are not to be had (some network file systems, Windows) that is said, and the run goes on without.
It is the first process's alone; no other code may open the file, since closing it would drop the lock.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from ..inference.processes import Processes
from .flags import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LOCK = ".lock"


@contextmanager
def run_lock(run: str | Path, processes: Processes) -> Iterator[None]:
    """Holds the folder `run` for these processes. Raises UsageError, in all of them, naming the one that has it."""
    with ExitStack() as stack:
        processes.from_first(lambda: _take(Path(run) / LOCK, stack))
        yield


def _take(path: Path, stack: ExitStack) -> None:
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - closing it drops the lock
        try:
            if fcntl is None:
                raise OSError("this system has none")
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            owner = file.read().strip() or "another process"
            file.close()
            raise UsageError(
                f"--output_dir {path.parent} is being written by {owner}: wait for it, stop it, or name another."
            ) from error
        except OSError as error:
            logger.warning(f"{path.parent} cannot be locked ({error}): nothing would stop a second run in it")
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()  # whoever had it removed it meanwhile
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now():%Y-%m-%d %H:%M:%S}")
    file.flush()
    stack.callback(file.close)
    stack.callback(path.unlink, missing_ok=True)
