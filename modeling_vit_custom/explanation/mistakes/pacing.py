"""Work in parts, as many as there is time for."""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def parts_in_time(
    items: Sequence[Item], end: float, most: int, alike: Callable[[Item], Hashable] = lambda _: None
) -> Iterator[list[Item]]:
    """Yield items in parts of up to `most`, the first one alone, until the next part would last beyond `end`.

    end: by `time.monotonic()`. What is done with a part until the next is asked for is its time.   alike: items of one
    part have equal values of it.
    """
    start, pace = 0, 0.0
    while start < len(items):
        left = end - time.monotonic()
        count = 1 if start == 0 else most if pace * most <= left else int(left / pace)
        if left <= 0 or count < 1:
            return
        kind, part = alike(items[start]), [items[start]]
        for item in items[start + 1 : start + count]:
            if alike(item) != kind:
                break
            part.append(item)
        began = time.monotonic()
        yield part
        pace = (time.monotonic() - began) / len(part)
        start += len(part)
