"""What a page shows beside an answer to say why it was given; the rooms that can tell make it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..tasks.task import Mistake


@dataclass(frozen=True)
class Picture:
    """A picture on a page.   url: a data: URL, "" if there is none to show.   alt: its words.   caption: below it."""

    url: str
    alt: str
    caption: str = ""


@dataclass
class Illustration:
    """What is beside one answer.   map: evidence over the image.   lines: what was measured of it.

    nearest: class → its images that are most like this one, nearest first.
    """

    map: Picture | None = None
    lines: list[str] = field(default_factory=list)
    nearest: dict[str, list[Picture]] = field(default_factory=dict)


@dataclass(frozen=True)
class Illustrations:
    """each: one for each answer.   notes: sentences on all of them, and why something is missing."""

    each: list[Illustration]
    notes: list[str]


Illustrate = Callable[[Sequence[Any], Sequence[str], Sequence[Mistake]], Illustrations]
"""From the images [N], as `decode_image` takes them, their names [N] and the answers to them [N]."""
