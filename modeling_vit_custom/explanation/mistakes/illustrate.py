"""Maps and nearest images for pages that show answers, within a given time; see `evaluation.illustrations`."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from ...evaluation.illustrations import Illustrate, Illustration, Illustrations
from ...features.index_files import Index
from ...features.nearest_classes import vectors_of
from ...inference.forward import PreparedImages
from ...inference.loading import load_classifier
from ...reporting.formatting import duration
from ...tasks.task import Mistake
from .maps import draw_maps, why_no_map
from .nearest import COUNT, Bank, TrainingImages, bank_of_index
from .pacing import parts_in_time

SECONDS = 30  # for the page of `evaluate`
OF_RUN = 10  # for report.html
OF_TIME = 0.01  # of --max_minutes
Pixels = list[tuple[int, torch.Tensor]]  # (number of the answer, [C, H, W])
Banks = Callable[[Sequence[str], float], Bank | None]  # (classes, end) → where to look for their images


def illustrator(
    name: str, model: Any, processor: Any, *, index: str | os.PathLike | None = None, seconds: float = SECONDS
) -> Illustrate:
    """Return what makes the maps of a model's answers and, of an index, the nearest images.

    name: of the model.   index: a folder; it must be of this very model.   seconds: what is not made by then is left
    out, and the page says so.   Raises DataError for an index of another model, or without named classes.
    """
    banks = None
    if index is not None:
        opened = Index(index)
        opened.check_model(name, model, processor)
        bank = bank_of_index(opened)
        banks = lambda _classes, _end: bank  # noqa: E731
    return partial(_illustrate, model, processor, banks, seconds)


def illustrator_of_run(
    folder: str | os.PathLike, training: TrainingImages, minutes: float | None = None, device: Any = None
) -> Illustrate:
    """Return what makes the maps of answers of the model in a run's folder, and finds the nearest training images.

    minutes: of the whole run, if it has a limit.   device: to compute on; None for an accelerator, if there is one.
    """
    seconds = OF_RUN if minutes is None else min(OF_RUN, OF_TIME * 60 * minutes)

    def illustrate(images: Sequence[Any], names: Sequence[str], answers: Sequence[Mistake]) -> Illustrations:
        model, processor = load_classifier(os.fspath(folder), device=device)
        banks = partial(training.bank, model, processor)
        return _illustrate(model, processor, banks, seconds, images, names, answers)

    return illustrate


def _illustrate(
    model: Any,
    processor: Any,
    banks: Banks | None,
    seconds: float,
    images: Sequence[Any],
    names: Sequence[str],
    answers: Sequence[Mistake],
) -> Illustrations:
    began = time.monotonic()
    read = PreparedImages(images, names, processor).take(range(len(names)))
    pixels = [(number, image) for number, image, _ in read if image is not None]
    each = [Illustration() for _ in answers]
    notes = [_maps(model, processor, pixels, answers, each, began + (seconds / 2 if banks else seconds))]
    if banks is not None:
        notes.append(_nearest(model, pixels, banks, images, names, answers, each, began + seconds))
    made = any(one.map or one.nearest for one in each)
    return Illustrations(each, notes + ([f"All this took {duration(time.monotonic() - began)}."] if made else []))


def _maps(
    model: Any, processor: Any, pixels: Pixels, answers: Sequence[Mistake], each: list[Illustration], end: float
) -> str:
    """Put maps into `each`; return a sentence on them. What fails costs no page."""
    if (why := why_no_map(model)) is not None:
        return why
    made = 0
    try:
        for number, picture, lines in draw_maps(model, processor, pixels, answers, end):
            each[number].map, each[number].lines = picture, lines
            made += 1
    except Exception as error:
        return f"No further maps: {error}"
    said = (
        "A map shows where the evidence for the answer lies, not what it is or why; it is worth as much as the "
        "sentence below it says."
    )
    return said if made == len(pixels) else f"{said} {_cut(made, len(pixels), 'maps')}"


def _nearest(
    model: Any,
    pixels: Pixels,
    banks: Banks,
    images: Sequence[Any],
    names: Sequence[str],
    answers: Sequence[Mistake],
    each: list[Illustration],
    end: float,
) -> str:
    """Put nearest images into `each`; return a sentence on them. What fails costs no page."""
    try:
        labels: Mapping[int, str] = model.config.id2label
        asked = [[labels[one] for one in (answer.output, answer.rival) if one is not None] for answer in answers]
        vectors: dict[int, np.ndarray] = {}
        for part in parts_in_time(pixels, end, 8, lambda item: tuple(item[1].shape)):
            found = vectors_of(model, torch.stack([image for _, image in part]))
            vectors |= {number: vector for (number, _), vector in zip(part, found, strict=True)}
        bank = banks(list(dict.fromkeys(label for number in vectors for label in asked[number])), end)
        if bank is None:
            return "No nearest images: there are none of these classes, or there was no time to look."
        for number, vector in vectors.items():
            each[number].nearest = bank.nearest(vector, asked[number], images[number], names[number])
    except Exception as error:
        return f"No nearest images: {error}"
    said = f"Below it, the {COUNT} most similar of {bank.said}, by the cosine of the vectors that the classifier sees."
    return said if len(vectors) == len(pixels) else f"{said} {_cut(len(vectors), len(pixels), 'answers')}"


def _cut(made: int, total: int, what: str) -> str:
    return f"Only for the first {made} of {total} {what}, for want of time."
