"""The reconstruction of masked images by a model: its loss for each image, a baseline for that loss, a picture.

Shapes: B batch, C channels, h x w pixels of whole patches.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...data.views import PixelValues
from ...embeddings_vit_custom import masked_pixels
from ...heads_vit_custom import options_of
from ...loss_vit_custom import PIXEL_ERRORS
from ...masked_images_vit_custom import ViTCustomForMaskedImageModeling
from .masking import MaskedImages

SHOWN = 8  # images in the picture
CHUNK = 64  # images per batch


def masked_losses(pixels: torch.Tensor, painted: torch.Tensor, hidden: torch.Tensor, config: Any) -> torch.Tensor:
    """Return [B]: the mean error of each `painted` image [B, C, h, w] where `hidden`, bool [B, 1, h, w].

    config: the model's; its head names the error.
    """
    error = PIXEL_ERRORS[options_of(config.heads, ViTCustomForMaskedImageModeling.head_kind).loss]
    distance = error(painted, pixels).float().mean(1, keepdim=True) * hidden
    return distance.sum((1, 2, 3)) / hidden.sum((1, 2, 3))


class MaskedLoss:
    """The `measure` of `BatchTrainer` for a model that reconstructs hidden patches. config: the model's."""

    def __init__(self, config: Any):
        self.config = config

    def __call__(self, inputs: dict[str, Any], output: Any) -> torch.Tensor:
        """Return the loss of each image, [B]."""
        hidden = masked_pixels(inputs["bool_masked_pos"], self.config.grid_hw, self.config.patch_hw)
        pixels = inputs["pixel_values"][..., : hidden.shape[2], : hidden.shape[3]]
        return masked_losses(pixels, output.reconstruction, hidden, self.config)


def mean_colour_loss(images: MaskedImages, config: Any, processor: Any) -> float:
    """Compute a baseline: the mean loss if each image's hidden pixels are filled with the mean of its visible ones."""
    losses = []
    for start in range(0, len(images), CHUNK):
        pixels, hidden, _ = _pixels(images, range(start, min(start + CHUNK, len(images))), config, processor)
        mean = (pixels * ~hidden).sum((2, 3), keepdim=True) / (~hidden).sum((2, 3), keepdim=True)  # [B, C, 1, 1]
        losses.append(masked_losses(pixels, mean.expand_as(pixels), hidden, config))
    return torch.cat(losses).mean().item()


@torch.no_grad()
def reconstructions(model: Any, images: MaskedImages, processor: Any) -> np.ndarray:
    """Return `SHOWN` images, [B, 3, h, w, C] in 0..1: each as it is, with hidden pixels blank, and as reconstructed."""
    shown = np.linspace(0, len(images) - 1, min(SHOWN, len(images))).astype(int).tolist()
    pixels, hidden, masks = _pixels(images, shown, model.config, processor)
    painted = model.eval()(pixels.to(model.device), bool_masked_pos=masks.to(model.device)).reconstruction
    completed = torch.where(hidden, painted.float().cpu(), pixels)
    rows = torch.stack([pixels, pixels.masked_fill(hidden, 0), completed], dim=1)  # [B, 3, C, h, w]
    return _colours(rows, processor).permute(0, 1, 3, 4, 2).numpy()


def _pixels(images: MaskedImages, indices: Sequence[int], config: Any, processor: Any) -> tuple[torch.Tensor, ...]:
    """(pixel_values [B, C, h, w], bool [B, 1, h, w] True where hidden, bool_masked_pos)."""
    batch = images.__getitems__(indices)
    hidden = masked_pixels(batch["bool_masked_pos"], config.grid_hw, config.patch_hw)
    pixels = PixelValues(processor)(batch["pixel_values"])[..., : hidden.shape[2], : hidden.shape[3]]
    return pixels, hidden, batch["bool_masked_pos"]


def _colours(pixel_values: torch.Tensor, processor: Any) -> torch.Tensor:
    """The colours in 0..1 from which the processor made pixel_values [..., C, h, w]."""
    if processor.do_normalize:
        mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
        pixel_values = pixel_values * std + mean
    scale = processor.rescale_factor if processor.do_rescale else 1.0
    return (pixel_values / (255 * scale)).clamp(0, 1)
