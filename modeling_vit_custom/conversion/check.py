"""Source and conversion side by side, from tensors and from pixels, at several sizes.

Shapes: B images, C channels, H×W pixels, K classes, D width, N tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

TOLERANCE = 1e-4  # of the largest logit or feature, in float32
IMAGES = 4


@dataclass(frozen=True)
class Reference:
    """The source as its own library runs it.

    run: [B, C, H, W] → {"logits": [B, K], "features": [B, D] or [B, N, D]}, either or both.
    prepare: Pillow images → [B, C, H, W], by the source's own preprocessing; None where it has none.
    sizes: whether it takes other sizes than its own.
    """

    run: Callable[[torch.Tensor], Mapping[str, torch.Tensor]]
    prepare: Callable[[Sequence[Image.Image]], torch.Tensor] | None
    any_size: bool = True


@torch.no_grad()
def compare(reference: Reference, model: Any, processor: Any) -> dict[str, Any]:
    """The report of `--check`: for each size the largest differences, relative to the largest value of the source.

    "passed" is False where one is above TOLERANCE or a top-1 class differs.
    """
    height, width = model.config.image_hw
    p, q = model.config.patch_hw
    sizes = [(height, width)]
    if reference.any_size:
        sizes += [(height + 2 * p, width + 2 * q), (max(height - p, p), width + 3 * q)]
    report: dict[str, Any] = {"tolerance": TOLERANCE, "images": IMAGES, "from_tensors": []}
    generator = torch.Generator().manual_seed(0)
    for size in sizes:
        images = torch.randn(IMAGES, model.config.num_channels, *size, generator=generator)
        report["from_tensors"].append(
            {"size": list(size), **differences(reference.run(images), outputs(model, images))}
        )
    if reference.prepare is not None:
        pictures = synthetic_pictures(generator)
        theirs = reference.prepare(pictures)
        ours = processor(pictures, return_tensors="pt")["pixel_values"]
        report["from_pixels"] = {"pixels": float((theirs - ours).abs().max())} | differences(
            reference.run(theirs), outputs(model, ours)
        )
    rows = report["from_tensors"]
    report["passed"] = all(row["relative"] <= TOLERANCE and row.get("top1", 1.0) == 1.0 for row in rows)
    return report


def outputs(model: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """What our model gives under the names of `Reference.run`."""
    output = model(images.to(model.dtype))
    if "logits" in output:
        return {"logits": output.logits}
    return {"features": output.last_hidden_state, "pooled": output.pooler_output}


def differences(theirs: Mapping[str, torch.Tensor], ours: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Largest absolute and relative difference over what both give, and how often the top-1 class agrees."""
    result: dict[str, Any] = {"relative": 0.0}
    shared = [name for name in theirs if name in ours]
    if not shared:
        raise ValueError(f"the source gives {sorted(theirs)}, the conversion {sorted(ours)}: nothing to compare.")
    for name in shared:
        distance = float((theirs[name] - ours[name]).abs().max())
        result[name] = distance
        result["relative"] = max(result["relative"], distance / float(theirs[name].abs().max()))
    if "logits" in shared:
        result["top1"] = float((theirs["logits"].argmax(-1) == ours["logits"].argmax(-1)).float().mean())
    return result


def synthetic_pictures(generator: torch.Generator) -> list[Image.Image]:
    """Smooth pictures of several shapes: their numbers are alike under every resizing that is right."""
    pictures = []
    for height, width in ((256, 256), (300, 400), (500, 320), (240, 250)):
        coarse = torch.rand(1, 3, 8, 8, generator=generator)
        fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]
        pictures.append(Image.fromarray((fine.permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)))
    return pictures
