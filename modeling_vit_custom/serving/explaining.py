"""What /explain takes and answers: where in an image the evidence lies, measured as `vit-custom explain` measures it.

    POST /explain?target=CLASS&contrast=CLASS&method=NAME&format=json|png   body: one image, as for /predict
        200 {"explanations": [{"label": "cat", "probability": 0.93, "grid": [[…]], …}], "model": …, "revision": …}
            one entry, or one for each label or number that the model answers with; as `Explanation.records` has it
        200 image/png: the picture that `vit-custom explain` draws, on what the model sees of the image

Explanations are made one at a time, between batches and never beside one: before each forward of an explanation, the
batches that wait go first.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from starlette.exceptions import HTTPException

from ..common.errors import UsageError
from ..explanation.live import LiveExplainer
from ..explanation.methods.table import DEFAULT, METHODS
from ..explanation.pictures.drawing import draw_rows
from ..explanation.result import Explanation, png_bytes
from ..explanation.targets import name_or_id
from .batching import Turns
from .guards import overloaded

FORMATS = JSON, PNG = "json", "png"
EXPLAINING = [name for name, method in METHODS.items() if not method.features]
AT_ONCE = 4  # explanations at work or waiting; further ones are asked to come back
LENGTH = 200  # characters of a value in the address
DAMAGED = "the model's output is NaN or infinite. Fix: serve another checkpoint."


@dataclass(frozen=True)
class Question:
    """What an address asks: a class, None for the model's answer; a class to contrast it with; how; in which form."""

    target: str | None = None
    contrast: str | None = None
    method: str = DEFAULT
    format: str = JSON


def read_question(given: Sequence[tuple[str, str]]) -> Question:
    """Return what the (name, value) pairs of an address ask; raise HTTPException (422) for what is not understood."""
    names = [name for name, _ in given]
    if len(set(names)) < len(names) or set(names) - set(Question.__dataclass_fields__):
        raise HTTPException(
            422,
            "the query holds more than one each of target, contrast, method and format. "
            "Fix: /explain?target=CLASS&contrast=CLASS&method=libra&format=json, or some of these.",
        )
    if any(len(value) > LENGTH for _, value in given):
        raise HTTPException(422, f"a value in the query has more than {LENGTH} characters. Fix: give a class by id.")
    asked = Question(**dict(given))
    for name, value, known in (("method", asked.method, EXPLAINING), ("format", asked.format, FORMATS)):
        if value not in known:
            raise HTTPException(422, f"{name}={value!r}: give one of {', '.join(known)}.")
    return asked


class Explaining:
    """Makes explanations in a thread of its own.

    on_made: called with the seconds that each took, with those in which batches went first.
    """

    def __init__(self, model: Any, processor: Any, turns: Turns, on_made: Callable[[float], None]):
        """Raises UsageError for a model of which no gradient says where evidence lies."""
        self.turns, self.on_made, self.names = turns, on_made, model.config.id2label
        self.explainer = LiveExplainer(model, processor, self._pause)
        self.count = 0
        self._given_up = threading.Event()
        self._thread = ThreadPoolExecutor(1, "explanations")

    @contextmanager
    def place(self):
        """Hold one of the places; raises HTTPException (503) if all are taken."""
        if self.count >= AT_ONCE:
            raise overloaded(f"{self.count} explanations are at work or waiting")
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1

    async def __call__(self, pixels: torch.Tensor, asked: Question) -> bytes | list[dict[str, Any]]:
        """Return the PNG or the records of an image [C, h, w]; raise HTTPException (422) for an unknown class.

        Cancelled, it ends before the next forward.
        """
        given_up = threading.Event()
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._answer, pixels, asked, given_up)
        except UsageError as error:
            raise HTTPException(422, str(error)) from None
        finally:
            given_up.set()

    def _answer(self, pixels: torch.Tensor, asked: Question, given_up: threading.Event) -> bytes | list[dict[str, Any]]:
        self._given_up = given_up
        target, contrast = (name_or_id(one, self.names) for one in (asked.target, asked.contrast))
        start = time.perf_counter()
        with self.turns.long_work():
            found = self.explainer(pixels, target, contrast, asked.method)
        self.on_made(time.perf_counter() - start)
        if not (found.logit.isfinite().all() and found.grid.isfinite().all()):
            raise HTTPException(500, DAMAGED)
        return picture(found) if asked.format == PNG else records(found)

    def _pause(self) -> None:
        if self._given_up.is_set():
            raise TimeoutError("nobody waits for this explanation any more")
        self.turns.pause()


def picture(found: Explanation) -> bytes:
    """Return the content of a PNG file: a row for each answer to the one image, on one scale."""
    drawn = [found.drawn(row) for row in range(len(found))]
    return png_bytes(draw_rows(found.photos[0], drawn, seen=(0, 0, *found.seen)))


def records(found: Explanation) -> list[dict[str, Any]]:
    """Return what is known of each answer to the one image."""
    return [{name: value for name, value in one.items() if name != "image"} for one in found.records()]
