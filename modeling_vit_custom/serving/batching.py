"""Dynamic batching in an event loop: items that arrive close to one another in time are processed together.

What takes longer than a batch, in another thread, takes turns with them.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any


class Batcher:
    """Calls `run` on lists of waiting items in a thread of its own, one list at a time.

    A list is closed when it holds `max_size` items, or `timeout` seconds after its first item was taken up. Items that
    arrive while `run` works wait for the next list. `items` and `batches` count what was run; `on_run` is called after
    each list with the seconds that its items had waited, and those that it took.
    """

    def __init__(
        self,
        run: Callable[[list[Any]], Sequence[Any]],
        max_size: int,
        timeout: float,
        on_run: Callable[[list[float], float], None] = lambda waits, seconds: None,
    ):
        self.run, self.max_size, self.timeout, self.on_run = run, max_size, timeout, on_run
        self.items = self.batches = 0
        self._waiting: asyncio.Queue[tuple[Any, asyncio.Future, float]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "batches")

    async def __call__(self, item: Any) -> Any:
        """Return the result of `run` for `item`; raises what `run` raises."""
        answer = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((item, answer, time.perf_counter()))
        return await answer

    async def work(self) -> None:
        """Run list after list until cancelled."""
        while True:
            if batch := await self._next_batch():
                await self._answer(batch)

    async def _next_batch(self) -> list[tuple[Any, asyncio.Future, float]]:
        batch = [await self._waiting.get()]
        with suppress(TimeoutError):
            async with asyncio.timeout(self.timeout):
                while len(batch) < self.max_size:
                    batch.append(await self._waiting.get())
        return [one for one in batch if not one[1].cancelled()]  # nobody waits for a cancelled one

    async def _answer(self, batch: list[tuple[Any, asyncio.Future, float]]) -> None:
        self.batches += 1
        self.items += len(batch)
        items, answers, arrived = zip(*batch, strict=True)
        start = time.perf_counter()
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self.run, list(items))
            pairs = list(zip(answers, results, strict=True))
        except Exception as error:
            for answer in answers:
                if not answer.done():
                    answer.set_exception(error)
            return
        finally:
            self.on_run([start - one for one in arrived], time.perf_counter() - start)
        for answer, result in pairs:
            if not answer.done():  # it may have been cancelled meanwhile
                answer.set_result(result)


class Turns:
    """Lets one thread compute at a time; long work lets every batch that waits go first, as often as it pauses."""

    def __init__(self) -> None:
        self._changed, self._busy, self._batches = threading.Condition(), False, 0  # batches that wait

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Hold the turn for a batch."""
        with self._changed:
            self._batches += 1
            self._changed.wait_for(lambda: not self._busy)
            self._batches, self._busy = self._batches - 1, True
        try:
            yield
        finally:
            self._free()

    @contextmanager
    def long_work(self) -> Iterator[None]:
        """Hold the turn for work that pauses."""
        self._take()
        try:
            yield
        finally:
            self._free()

    def pause(self) -> None:
        """Let the batches that wait go first; called within `long_work`."""
        with self._changed:
            waiting = self._batches > 0
        if waiting:
            self._free()
            self._take()

    def _take(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._busy and not self._batches)
            self._busy = True

    def _free(self) -> None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()
