"""Explanations beside predictions: what `predict --explain` adds to a line, and the pictures that it writes.

Pictures are named by their image and a hash of its path, cat-3f2a91d0.png: so a later run that goes on, further images
and several processes all name the same picture alike.
"""

import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from ..common.outputs import OutputError, check_private, write_whole
from ..inference.forward import Item
from ..inference.predict import Explains
from ..tasks.registry import task_of
from .explain import explain
from .files import alike
from .methods.context import encoder_of, in_full_precision, lacks_gradients, unwrapped
from .methods.table import DEFAULT
from .result import Explanation, png_bytes

WITHOUT_GRADIENTS = "occlusion"
_NAME = re.compile(r".*-[0-9a-f]{8}\.png", re.DOTALL)
_STEM = 100  # characters of an image's name that its picture keeps


def explainer(folder: str | os.PathLike) -> Callable[[Any, Any], Explains]:
    """Return a function from (model, processor) to what explains each answer and writes its picture into `folder`.

    Raises OutputError for a folder that holds anything else, or lies in a model's folder.
    """
    path = Path(folder)
    check_private(path / "picture.png", "a picture of an explanation")
    if path.exists() and not path.is_dir():
        raise OutputError(f"--explain {path} is a file: name a folder, which is made if need be.")
    others = [name for name in os.listdir(path) if not _NAME.fullmatch(name)] if path.is_dir() else []
    if others:
        raise OutputError(f"--explain {path} holds other files, such as {others[0]}: name a new or empty folder.")
    path.mkdir(parents=True, exist_ok=True)
    return partial(_prepared, path)


def picture_of(path: str) -> str:
    """Return the name of the picture for an image."""
    digest = blake2b(path.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    return f"{(Path(path).stem or 'image')[:_STEM]}-{digest}.png"


def _prepared(folder: Path, model: Any, processor: Any) -> Explains:
    """libra if the model allows it, or else occlusion, which needs only answers."""
    inner = unwrapped(model)
    able = encoder_of(inner) is not None and lacks_gradients(inner) is None
    if able:
        model = in_full_precision(inner)[0]
    return partial(_explained, folder, model, processor, DEFAULT if able else WITHOUT_GRADIENTS)


def _explained(
    folder: Path,
    model: Any,
    processor: Any,
    method: str,
    items: Sequence[Item],
    paths: Sequence[str],
    outputs: torch.Tensor,
) -> list[dict[str, Any]]:
    answers = task_of(model.config).answers
    assert answers is not None  # a task that `predict` writes names its outputs
    best = [given[0] for given in answers.given(outputs)]
    places = {number: place for place, (number, *_) in enumerate(items)}
    found: list[dict[str, Any]] = [{} for _ in items]
    for numbers, pixels, _ in alike(items):
        rows = [places[number] for number in numbers]
        try:
            maps = explain(model, pixels, [best[row] for row in rows], method, processor=processor)
        except ValueError as error:
            for row in rows:
                found[row] = {"error": str(error)}
            continue
        for place, row in enumerate(rows):
            name = picture_of(paths[row])
            write_whole(folder / name, png_bytes(maps.image(place)))
            found[row] = _summary(maps, place, name)
    return found


def _summary(maps: Explanation, row: int, picture: str) -> dict[str, Any]:
    assert maps.faithfulness is not None
    return {
        "label": maps.label[row],
        "method": maps.method,
        "faithfulness": maps.faithfulness[row]["sentence"],
        "little": maps.little(row),
        "picture": picture,
    }
