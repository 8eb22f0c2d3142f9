"""The explanation of some answers of a model.

Shapes: R rows (an image and what is explained of it), B images, C channels, H×W pixels, h×w grid of patches, L blocks.
"""

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Explanation:
    """Maps of R answers, with what is known of their worth. All tensors are float32 and on the CPU.

    There is one row an image, unless `target` was None for a model with several answers an image.

    method: the one that was used.   rows: the image of each row.   target: ids of outputs, None of a function.
    label: names.   contrast: what the outputs are compared with, None without.   probability: [R], the model's; NaN
    where it has none.   logit: [R], what is explained.
    grid: [R, h, w], signed and raw: evidence for and against.   shown: [R, h, w], at least 0: what a picture draws; of
    `libra` the positive evidence of each block.   map: [R, H, W], `shown` at the pixels that the model was given.
    layers: [L, R, h, w], the share of each block in the grid, of methods that have it.   heads: [H, R, h, w], of
    `attention`.   colours: [R, h, w, 3], of `pca`.
    completeness: [R], |logit − all evidence| / max(|logit|, 1), None of methods that do not add up or without check.
    constant: [R], the part of the logit that comes from no pixel, so that the model would say so of any image.
    confirmed: for each row, whether replacing each of its top cells lowers the logit: {(row, column): bool}.
    faithfulness: for each row srg, srg_random, deletion, insertion and more; None without check.
    class_specific: whether the map depends on the class.   signed: whether evidence against counts, as with contrast.
    caveat: what the method cannot say.   notes: sentences on these images.   pixels: [B, C, H, W], what the model saw.
    """

    method: str
    rows: list[int]
    target: list[int] | None
    label: list[str]
    contrast: str | None
    probability: torch.Tensor
    logit: torch.Tensor
    grid: torch.Tensor
    shown: torch.Tensor
    map: torch.Tensor
    pixels: torch.Tensor
    layers: torch.Tensor | None = None
    heads: torch.Tensor | None = None
    colours: torch.Tensor | None = None
    completeness: torch.Tensor | None = None
    constant: torch.Tensor | None = None
    confirmed: list[dict[tuple[int, int], bool]] | None = None
    faithfulness: list[dict[str, Any]] | None = None
    class_specific: bool = True
    signed: bool = False
    caveat: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def ranking(self) -> torch.Tensor:
        """The order that the map gives to patches, [R, h, w]: what is shown, and the grid where nothing is."""
        if self.signed:
            return self.grid
        return torch.where(self.shown > 0, self.shown, self.grid.clamp_max(0))

    def __len__(self) -> int:
        return len(self.rows)
