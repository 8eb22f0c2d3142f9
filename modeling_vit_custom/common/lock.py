"""One run to an output: a file, or a folder.

The lock is POSIX's (`fcntl.lockf`): the system drops it when the process ends, however it ends, and loading processes
do not inherit it, so that no lock is ever stale. It holds between machines on NFS 4, and on NFS 3 with its lock
service. Where locks are not to be had (some network file systems, Windows) that is said, and the run goes on without.
Of several processes the first takes it; no other code may open the file, since closing it would drop the lock.
"""

import logging
import os
import socket
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)


def take_lock(path: Path, stack: ExitStack, what: str, error: type[Exception]) -> None:
    """Locks the file `path`, and removes it with the lock when `stack` is closed.

    what: the output in words, such as "--output out.jsonl". Raises `error` naming the one who has it.
    """
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - closing it drops the lock
        try:
            if fcntl is None:
                raise OSError("this system has none")
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as busy:
            file.seek(0)
            owner = file.read().strip() or "another process"
            file.close()
            raise error(f"{what} is being written by {owner}: wait for it, stop it, or name another.") from busy
        except OSError as unlocked:
            logger.warning(f"{path.parent} cannot be locked ({unlocked}): nothing would stop a second run in it")
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()  # whoever had it removed it meanwhile
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now():%Y-%m-%d %H:%M:%S}")
    file.flush()
    stack.callback(file.close)
    stack.callback(path.unlink, missing_ok=True)
