"""The lock that allows one run at a time in an output folder."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ...common.errors import UsageError
from ...common.lock import take_lock
from ...common.model_files import LOCK
from ...common.processes import Processes


@contextmanager
def run_lock(run: str | Path, processes: Processes) -> Iterator[None]:
    """Hold the lock of folder `run` for these processes. Raises UsageError, in all of them, naming the holder."""
    run = Path(run)
    with ExitStack() as stack:
        processes.from_first(lambda: take_lock(run / LOCK, stack, f"--output_dir {run}", UsageError))
        yield
