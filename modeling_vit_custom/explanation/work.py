"""What a method is given.

Shapes: B batch, C channels, H×W pixels, h×w grid.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .perturbed import PerturbedImage


@dataclass(frozen=True)
class Work:
    """One batch to explain, by a method of `methods`.

    model: in eval mode, its parameters without gradients.   encoder: this package's, None for a model of another kind.
    pixels: [B, C, H, W].   scored: (the model's outputs for n images, for each its place in the batch) → what is
    explained, [n].   grid: (h, w) of the map.
    seen: rows and columns of pixels that the model looks at.   blocks: those that count, from 0; None for all.
    complete: whether to check that the map adds up.   batch_size: images in one forward of methods that need many.
    cells: of `similarity`, (row, column) for each image.
    """

    model: nn.Module
    encoder: Any
    pixels: torch.Tensor
    scored: Callable[[Any, Sequence[int]], torch.Tensor]
    grid: tuple[int, int]
    seen: tuple[int, int]
    blocks: Sequence[int] | None = None
    complete: bool = True
    batch_size: int = 8
    cells: Sequence[tuple[int, int]] | None = None

    def outputs(self, pixels: torch.Tensor) -> Any:
        """Return the model's outputs for pixels [B, C, H, W]."""
        return self.model(pixel_values=pixels)

    def score(self, outputs: Any) -> torch.Tensor:
        """Return what is explained, [B], of the outputs for this batch."""
        return self.scored(outputs, range(len(self.pixels)))

    def perturbed(self, place: int) -> PerturbedImage:
        """Return one image of the batch to perturb, scored by what is explained."""
        image = self.pixels[place, :, : self.seen[0], : self.seen[1]]

        def score(images: torch.Tensor) -> torch.Tensor:
            return self.scored(self.outputs(images), [place] * len(images))

        return PerturbedImage(score, image, self.grid, batch_size=self.batch_size)

    def chosen(self, by_block: torch.Tensor) -> torch.Tensor:
        """Return [L, …], with 0 for blocks that do not count."""
        if self.blocks is None:
            return by_block
        counts = torch.zeros(len(by_block), device=by_block.device)
        counts[list(self.blocks)] = 1
        return by_block * counts.view(-1, *[1] * (by_block.ndim - 1))
