"""The processes of `accelerate launch` or `torchrun`, as far as sharded prediction needs them."""

import atexit
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import parent_process
from typing import Any

import torch.distributed as dist

PATIENCE = timedelta(days=7)  # how long a process that is done waits for the slowest


@dataclass(frozen=True)
class Processes:
    """The processes of one launch.

    rank: the number of this one; rank 0 plans, merges and prints.   count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def from_first(self, make: Callable[[], Any]) -> Any:
        """Run `make` in the first process; return or raise its outcome in all of them. The others wait for it."""
        box: list[Any] = [None, None]
        if self.is_first:
            try:
                box[0] = make()
            except Exception as error:
                box[1] = error
        if self.count > 1:
            dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        return box[0]

    def together(self, act: Callable[[], Any]) -> None:
        """Run `act` in every process; if it fails in one, raise in all, so that none goes on, or waits, alone."""
        mine: Exception | None = None
        try:
            act()
        except Exception as error:
            mine = error
        for error in (mine, *self.gathered(mine)):
            if error is not None:
                raise error

    def gathered(self, mine: Any) -> list[Any]:
        """Return the value `mine` of each process, by rank."""
        all_of_them = [mine] * self.count
        if self.count > 1:
            dist.all_gather_object(all_of_them, mine)
        return all_of_them

    def wait(self) -> None:
        if self.count > 1:
            dist.barrier()


def leave_processes() -> None:
    """End this process with exit code 0, if a launcher started it, it has joined a group, and its work is done.

    Python's exit functions run, its finalisation does not: a thread of gloo that releases a tensor at that moment
    aborts the process, and the launcher would report a finished training as failed. Children of `multiprocessing`
    never finalise, and their exit functions are their parent's.
    """
    if not (dist.is_available() and dist.is_initialized()) or parent_process() is not None:
        return
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Yield the processes this one was launched with (over gloo: only Python objects travel), or it alone."""
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1:
        yield Processes()
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), count)
    finally:
        dist.destroy_process_group()
