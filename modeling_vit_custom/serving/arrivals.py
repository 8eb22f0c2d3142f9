"""Request bodies that are arriving: how many at once, and which one is given up for a further one."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

SLOW = 10_000  # bytes a second; a faster body is never given up


class GivenUp(Exception):
    """There was one body too many under way, and this was the slowest."""


@dataclass(eq=False)
class _Arrival:
    start: float
    end: asyncio.Timeout
    size: int = 0

    def ahead(self, now: float) -> float:
        """Return how many bytes it is ahead of a body that arrives at SLOW bytes a second."""
        return self.size - SLOW * (now - self.start)


class Arrivals:
    """Reads at most `most` bodies at once. Of one more, the body furthest behind is given up, even if it is the newest.

    Clients that send next to nothing keep nobody out, however many they are.
    """

    def __init__(self, most: int):
        self.most, self._under_way = most, set[_Arrival]()

    def __len__(self) -> int:
        return len(self._under_way)

    async def read(self, chunks: AsyncIterator[bytes]) -> bytes:
        """Return the whole body; raises GivenUp, and any error of reading the chunks."""
        body = bytearray()
        try:
            async with asyncio.timeout(None) as end:
                arrival = _Arrival(asyncio.get_running_loop().time(), end)
                self._under_way.add(arrival)
                try:
                    self._make_room()
                    async for chunk in chunks:
                        body += chunk
                        arrival.size = len(body)
                finally:
                    self._under_way.discard(arrival)
        except TimeoutError:
            raise GivenUp from None
        return bytes(body)

    def _make_room(self) -> None:
        now = asyncio.get_running_loop().time()
        if len(self) > self.most:
            slowest = min(self._under_way, key=lambda one: one.ahead(now))
            self._under_way.remove(slowest)
            slowest.end.reschedule(now)
