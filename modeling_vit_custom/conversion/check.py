"""Numerical comparison of source and conversion, from tensors and from pixels, at several image sizes.

Shapes: B images, C channels, H×W pixels, K classes, D width, N tokens.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from .engine import ConversionError

TOLERANCE = 1e-4  # of the source's largest logit or feature, in float32
GREY_LEVELS = 2.01  # of 255: two libraries that round after each of two axes may differ by one each time
MEAN_GREY_LEVELS = 0.6  # if one library truncates and the other rounds, they differ by 0.5 on average
IMAGES = 4
_MOST_NUMBERS, _MOST_TOKENS = 2**24, 2**14  # limits for one compared image
_FEATURES = ("tokens", "pooled")
Outputs = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Reference:
    """The source as its own library runs it, in float32 or float64.

    by: description of the library that runs it.
    run: [B, C, H, W] → any of "logits" [B, K], "tokens" [B, N, D] after the last norm and "pooled" [B, k·D].
    prepare: Pillow images → [B, C, H, W], by the source's own preprocessing; `compare` needs it.
    only_size: reason why it takes its native size only; "" if it takes any size.
    """

    by: str
    run: Callable[[torch.Tensor], Outputs]
    prepare: Callable[[Sequence[Image.Image]], torch.Tensor] | None = None
    only_size: str = ""


def compare(reference: Reference, model: Any, processor: Any) -> dict[str, Any]:
    """Compare source and conversion and return the report of `--check`.

    "from_tensors": differences of outputs at the model's size and two others.   "from_pixels": differences of the
    preprocessed pixels, and of the outputs for the same pictures, each model with its own preprocessing.   "passed":
    whether all of from_tensors are within TOLERANCE and agree in every top-1 class, and pixels differ by at most
    GREY_LEVELS, and by at most MEAN_GREY_LEVELS on average.
    """
    _require_room(model.config)
    dtype = model.dtype
    model.to(torch.promote_types(dtype, torch.float32))
    try:
        tensors, pixels = compare_tensors(reference, model), compare_pixels(reference, model, processor)
    finally:
        model.to(dtype)
    return {
        "passed": all(row["passed"] for row in (*tensors, pixels)),
        "reference": reference.by,
        "images": IMAGES,
        "tolerance": TOLERANCE,
        "tolerance_in_grey_levels": {"largest": GREY_LEVELS, "mean": MEAN_GREY_LEVELS},
        "from_tensors": tensors,
        "from_pixels": pixels,
        "notes": [f"at one size only: {reference.only_size}"] if reference.only_size else [],
    }


def _require_room(config: Any) -> None:
    """Raise ConversionError if the configured image size is too large for a comparison to fit in memory."""
    pixels, tokens = math.prod(config.image_hw) * config.num_channels, math.prod(config.grid_hw)
    if pixels > _MOST_NUMBERS or tokens > _MOST_TOKENS:
        raise ConversionError(
            f"image_size={config.image_size} with patch_size={config.patch_size} is too large to be checked "
            f"({pixels:,} numbers an image, {tokens:,} tokens). Leave --check out, or give a smaller --image_size."
        )


@torch.no_grad()
def compare_tensors(reference: Reference, model: Any) -> list[dict[str, Any]]:
    """Compute the differences of outputs on random images, one row for each size."""
    generator, rows = torch.Generator().manual_seed(0), []
    for size in sizes_of(model.config)[: 1 if reference.only_size else None]:
        images = torch.randn(IMAGES, model.config.num_channels, *size, generator=generator)
        row = differences(reference.run(images), run(model, images))
        close = all(row[kind]["relative"] <= TOLERANCE for kind in ("logit", "feature") if kind in row)
        rows.append({"size": list(size), **row, "passed": close and row.get("top1", 1.0) == 1.0})
    return rows


@torch.no_grad()
def compare_pixels(reference: Reference, model: Any, processor: Any) -> dict[str, Any]:
    """Compute the largest difference of pixels, in grey levels, and of outputs; only pixels decide "passed"."""
    assert reference.prepare is not None
    pictures = synthetic_pictures(model.config)
    theirs, ours = reference.prepare(pictures), processor(pictures, return_tensors="pt")["pixel_values"]
    if theirs.shape != ours.shape:
        return {"size": list(theirs.shape[2:]), "size_here": list(ours.shape[2:]), "passed": False}
    scale = torch.tensor(processor.image_std if processor.do_normalize else 1.0).reshape(-1, 1, 1)
    apart = ((theirs - ours) * scale).abs() * 255
    largest, mean = float(apart.max()), float(apart.mean())
    row = {"size": list(theirs.shape[2:]), "grey_levels": largest, "mean_grey_levels": mean}
    if not reference.only_size or theirs.shape[2:] == model.config.image_hw:
        row |= differences(reference.run(theirs), run(model, ours))
    return {**row, "passed": largest <= GREY_LEVELS and mean <= MEAN_GREY_LEVELS}


def sizes_of(config: Any) -> list[tuple[int, int]]:
    """Return the model's own size, a larger one, and a non-square one."""
    (height, width), (p, q) = config.image_hw, config.patch_hw
    return [(height, width), (height + 2 * p, width + 2 * q), (max(height - p, p), width + 3 * q)]


def run(model: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return our model's outputs under the names of `Reference.run`."""
    output = model(images.to(model.dtype))
    # A classifier does not return all tokens, so its encoder runs once more.
    encoded = output if model.base_model is model else model.base_model(images.to(model.dtype))
    outputs = {"tokens": encoded.last_hidden_state, "pooled": encoded.pooler_output}
    return outputs | ({"logits": output.logits} if "logits" in output else {})


@contextmanager
def outputs_of(module: torch.nn.Module) -> Iterator[list[Any]]:
    """Yield a list that collects the outputs of `module`, in order, while the context is open."""
    seen: list[Any] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        yield seen
    finally:
        handle.remove()


def differences(theirs: Outputs, ours: Outputs) -> dict[str, Any]:
    """Compute the largest absolute and relative difference of logits and of features, and the top-1 agreement.

    Raises ValueError if there is nothing to compare, or the conversion lacks an output of the source.
    """
    if not theirs or not set(theirs) <= set(ours):
        raise ValueError(f"the source gives {sorted(theirs)}, the conversion {sorted(ours)}: nothing to compare.")
    result: dict[str, Any] = {}
    for name, expected in theirs.items():
        distance = float((expected - ours[name]).abs().max())
        found = {"absolute": distance, "relative": distance / (float(expected.abs().max()) or 1.0)}
        kind = "feature" if name in _FEATURES else "logit"
        result[kind] = max(found, result.get(kind, found), key=lambda each: each["relative"])
    if "logits" in theirs:
        result["top1"] = float((theirs["logits"].argmax(-1) == ours["logits"].argmax(-1)).float().mean())
    return result


def synthetic_pictures(config: Any) -> list[Image.Image]:
    """Draw smooth pictures with fine grain, of several aspect ratios, larger and smaller than the model's images.

    Their contrast leaves room for the overshoot of bicubic filters, which libraries clip at different steps.
    """
    generator, pictures = torch.Generator().manual_seed(0), []
    side = max(config.image_hw)
    for tall, wide in ((1.14, 1.14), (1.3, 1.79), (2.21, 1.43), (0.93, 1.1)):
        height, width = round(tall * side), round(wide * side)
        coarse = torch.rand(1, config.num_channels, 8, 8, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
        grain = torch.rand(config.num_channels, height, width, generator=generator) - 0.5
        pixels = (128 + 80 * (smooth - 0.5) + 60 * grain).round().clamp(0, 255)
        pictures.append(Image.fromarray(pixels.permute(1, 2, 0).squeeze(2).numpy().astype(np.uint8)))
    return pictures
