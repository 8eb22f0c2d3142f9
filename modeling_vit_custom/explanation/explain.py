"""`explain`: where a model's answer comes from.

Shapes: B images, C channels, H×W pixels.
"""

import os
from collections.abc import Sequence
from typing import Any

from ..inference.loading import load_classifier
from .choose import AUTO, best_method
from .methods.table import DEFAULT
from .result import Explanation
from .run import run
from .targets import Target


def explain(
    model: Any,
    images: Any,
    target: Target | Sequence[int | str] = None,
    method: str = DEFAULT,
    *,
    contrast: int | str | None = None,
    processor: Any = None,
    check: bool | str = True,
    confirm: int = 8,
    batch_size: int = 8,
    layers: Sequence[int] | None = None,
) -> Explanation:
    """Look for where in images a model's answers come from; returns an `Explanation`: maps, and how faithful they are.

    model: a saved folder or Hub id, or a model as `load` returns it; of half precision a float32 copy is explained.
    images: pixel_values [B, C, H, W], or PIL images or paths, with `processor`.   target: None for the model's answer,
    a class by id or name, a list of one for each image, or a function of the model's outputs that returns [B]; for
    `similarity` a patch, (row, column).   method: a name of `METHODS`, or "auto" for the one that `choose_method` has
    stored beside the model; if there is none, the most faithful on these images, of which it needs 32.
    contrast: a second class, or "rest" for the mean of all others; the difference of the two logits is explained.
    check: whether to measure completeness and faithfulness, by about 30 forwards an image; "hiding" for only what
    hiding the most important quarter of the patches does, by four.   confirm: how many of the top cells are replaced,
    each alone, to see whether the logit falls; 0 for none.   batch_size: images in one forward.   layers: blocks that
    count, from 0, of methods that sum over blocks; None for all.

    Raises UsageError (a ValueError) for a class, method or block that does not exist, and for a method that the model
    cannot be explained by; DataError for an image that cannot be read.
    """
    if isinstance(model, str | os.PathLike):
        model, loaded = load_classifier(os.fspath(model), listing=None)
        processor = processor or loaded
    if method == AUTO:
        method = best_method(model, images, processor, batch_size)
    return run(
        model,
        images,
        target,
        method,
        contrast=contrast,
        processor=processor,
        check=check,
        confirm=confirm,
        batch_size=batch_size,
        layers=layers,
    )
