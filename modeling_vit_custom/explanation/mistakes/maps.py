"""The map of each answer over its image, with what hiding its most important patches does to the answer.

Shapes: C channels, H×W pixels.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ...evaluation.illustrations import Picture
from ...reporting.page import data_url
from ...tasks.task import Mistake
from ..checks import HIDING
from ..explain import explain
from ..methods.context import encoder_of, lacks_gradients, unwrapped
from ..methods.table import DEFAULT
from ..pictures.drawing import alt_text
from ..pictures.panels import overlay_panel, subject_of
from .pacing import parts_in_time

SIDE = 160  # pixels of a map's longer side
BATCH = 8  # images


def why_no_map(model: Any) -> str | None:
    """Return why answers of a model have no maps on a page, as a sentence; None if they have."""
    if encoder_of(unwrapped(model)) is None:
        return f"No maps: they need this package's own encoder, which {type(model).__name__} does not have."
    reason = lacks_gradients(unwrapped(model))
    return None if reason is None else f"No maps: they need gradients, and {type(model).__name__} {reason}."


def draw_maps(
    model: Any, processor: Any, pixels: Sequence[tuple[int, torch.Tensor]], answers: Sequence[Mistake], end: float
) -> Iterator[tuple[int, Picture, list[str]]]:
    """Yield (number of an answer, its map, sentences on it), until `end` by `time.monotonic()`.

    pixels: (number of the answer, [C, H, W]).
    """
    for part in parts_in_time(pixels, end, BATCH, lambda item: tuple(item[1].shape)):
        outputs = [answers[number].output for number, _ in part]
        found = explain(
            model,
            torch.stack([image for _, image in part]),
            outputs,
            DEFAULT,
            processor=processor,
            check=HIDING,
            confirm=0,
            batch_size=len(part),
        )
        for row, (number, _) in enumerate(part):
            drawn = found.drawn(row)
            subject = subject_of(found.photos[row], [drawn], (0, 0, *found.seen), SIDE, cells=False)
            overlay = overlay_panel(subject, drawn, drawn.scale())
            kind = "png" if max(found.photos.shape[1:3]) <= 32 else "jpeg"
            lines = [*drawn.lines[1:], *([f"This map explains little: {drawn.little}"] if drawn.little else [])]
            yield number, Picture(data_url(overlay, kind), alt_text(drawn), f"evidence for {drawn.title}"), lines
