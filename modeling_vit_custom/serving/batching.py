"""Items that arrive close to one another in time, worked on together: dynamic batching in an event loop."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any


class Batcher:
    """Calls `run` on lists of waiting items in a thread of its own, one list at a time.

    A list is closed when it holds `max_size` items, or `timeout` seconds after its first item was taken up. What
    arrives while `run` works waits for the next list. `items` and `batches` count what was run.
    """

    def __init__(self, run: Callable[[list[Any]], Sequence[Any]], max_size: int, timeout: float):
        self.run, self.max_size, self.timeout = run, max_size, timeout
        self.items = self.batches = 0
        self._waiting: asyncio.Queue[tuple[Any, asyncio.Future]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "batches")

    async def __call__(self, item: Any) -> Any:
        """What `run` answers for `item`; raises what it raises."""
        answer = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((item, answer))
        return await answer

    async def work(self) -> None:
        """Runs list after list until it is cancelled."""
        while True:
            if batch := await self._next_batch():
                await self._answer(batch)

    async def _next_batch(self) -> list[tuple[Any, asyncio.Future]]:
        batch = [await self._waiting.get()]
        with suppress(TimeoutError):
            async with asyncio.timeout(self.timeout):
                while len(batch) < self.max_size:
                    batch.append(await self._waiting.get())
        return [(item, answer) for item, answer in batch if not answer.cancelled()]  # nobody waits for the others

    async def _answer(self, batch: list[tuple[Any, asyncio.Future]]) -> None:
        self.batches += 1
        self.items += len(batch)
        items, answers = zip(*batch, strict=True)
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self.run, list(items))
            pairs = list(zip(answers, results, strict=True))
        except Exception as error:
            for answer in answers:
                if not answer.done():
                    answer.set_exception(error)
            return
        for answer, result in pairs:
            if not answer.done():  # given up in the meantime
                answer.set_result(result)
