"""What a model makes of masked images: its loss on each of them, a yardstick for that, a picture.

Shapes: B batch, C channels, h x w pixels of whole patches.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...data.views import PixelValues
from ...embeddings_vit_custom import masked_pixels
from .masking import MaskedImages

SHOWN = 8  # images of a picture
CHUNK = 64  # images looked at together


def masked_losses(pixels: torch.Tensor, painted: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """[B]: of each image the mean distance of what was painted, [B, C, h, w], where it is hidden, bool [B, 1, h, w]."""
    distance = (pixels - painted).abs().float().mean(1, keepdim=True) * hidden
    return distance.sum((1, 2, 3)) / hidden.sum((1, 2, 3))


def mean_colour_loss(images: MaskedImages, config: Any, processor: Any) -> float:
    """The loss of whoever paints what is hidden in the mean colour of what is visible of an image: a yardstick."""
    losses = []
    for start in range(0, len(images), CHUNK):
        pixels, hidden, _ = _pixels(images, range(start, min(start + CHUNK, len(images))), config, processor)
        mean = (pixels * ~hidden).sum((2, 3), keepdim=True) / (~hidden).sum((2, 3), keepdim=True)  # [B, C, 1, 1]
        losses.append(masked_losses(pixels, mean, hidden))
    return torch.cat(losses).mean().item()


@torch.no_grad()
def reconstructions(model: Any, images: MaskedImages, processor: Any) -> np.ndarray:
    """[B, 3, h, w, C] in 0..1: images of all parts, what the model sees of them, and how it completes that."""
    shown = np.linspace(0, len(images) - 1, min(SHOWN, len(images))).astype(int).tolist()
    pixels, hidden, masks = _pixels(images, shown, model.config, processor)
    painted = model.eval()(pixels.to(model.device), bool_masked_pos=masks.to(model.device)).reconstruction
    completed = torch.where(hidden, painted.float().cpu(), pixels)
    rows = torch.stack([pixels, pixels.masked_fill(hidden, 0), completed], dim=1)  # [B, 3, C, h, w]
    return _colours(rows, processor).permute(0, 1, 3, 4, 2).numpy()


def _pixels(images: MaskedImages, indices: Sequence[int], config: Any, processor: Any) -> tuple[torch.Tensor, ...]:
    """(pixel_values [B, C, h, w], bool [B, 1, h, w] where they are hidden, their masks)."""
    batch = images.__getitems__(indices)
    hidden = masked_pixels(batch["bool_masked_pos"], config.grid_hw, config.patch_hw)
    pixels = PixelValues(processor)(batch["pixel_values"])[..., : hidden.shape[2], : hidden.shape[3]]
    return pixels, hidden, batch["bool_masked_pos"]


def _colours(pixel_values: torch.Tensor, processor: Any) -> torch.Tensor:
    """pixel_values [..., C, h, w] → the colours in 0..1 that the processor made them of."""
    if processor.do_normalize:
        mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
        pixel_values = pixel_values * std + mean
    scale = processor.rescale_factor if processor.do_rescale else 1.0
    return (pixel_values / (255 * scale)).clamp(0, 1)
