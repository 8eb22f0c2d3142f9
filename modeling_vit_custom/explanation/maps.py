"""From values of tokens to maps of an image.

Shapes: B batch, N tokens (P prefix tokens, then patches), N₀ before any merging, D width, h×w grid, H×W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from ..token_merging_vit_custom import Tokens, source_of


@dataclass
class Maps:
    """What a method finds for a batch.

    grid: [B, h, w], signed and raw.   drawn: [B, h, w], at least 0, if it is not the grid's positive part.
    layers: [L, B, h, w], the share of each block.   heads: [H, B, h, w].   colours: [B, h, w, 3] from 0 to 1.
    error: [B], relative error of the sum, if the map should add up to the score.   constant: [B], the part of the score
    that comes from no pixel.   outliers: [B], whether single tokens have norms far above others.   notes: sentences.
    """

    grid: torch.Tensor
    drawn: torch.Tensor | None = None
    layers: torch.Tensor | None = None
    heads: torch.Tensor | None = None
    colours: torch.Tensor | None = None
    error: torch.Tensor | None = None
    constant: torch.Tensor | None = None
    outliers: torch.Tensor | None = None
    notes: list[str] = field(default_factory=list)

    @classmethod
    def joined(cls, parts: Sequence["Maps"]) -> "Maps":
        """Return the maps of several batches as one, on the CPU."""

        def whole(name: str, axis: int) -> torch.Tensor | None:
            found = [value for one in parts if (value := getattr(one, name)) is not None]
            return torch.cat(found, axis).cpu() if found else None

        first = ("grid", "drawn", "colours", "error", "constant", "outliers")
        values = {name: whole(name, 0) for name in first} | {name: whole(name, 1) for name in ("layers", "heads")}
        return cls(**values, notes=list(dict.fromkeys(note for one in parts for note in one.notes)))  # type: ignore[arg-type]

    @property
    def shown(self) -> torch.Tensor:
        """What a picture draws, [B, h, w], at least 0."""
        return self.grid.clamp_min(0) if self.drawn is None else self.drawn


def of_patches(values: torch.Tensor, tokens: Tokens, prefix: int, shared: bool) -> torch.Tensor:
    """Return the values of the N₀ - P patches, [B, N₀ - P], from those of the tokens, [B, N].

    A merged token's value belongs to all its patches.   shared: each patch gets an equal share, so that the sum stays;
    else each gets the value.
    """
    if shared and tokens.sizes is not None:
        values = values / tokens.sizes
    if tokens.matchings:
        values = values.gather(1, source_of(tokens, values.shape[1]))
    return values[:, prefix:]


def on_grid(values: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Return the values of patches [B, h·w] as [B, h, w] float32."""
    return values.detach().float().unflatten(1, grid)


def patch_sums(pixels: torch.Tensor, grid: tuple[int, int], seen: tuple[int, int]) -> torch.Tensor:
    """Return the sum over channels and each patch, [B, h, w], of pixels [B, C, H, W], of which `seen` are looked at.

    A pixel that lies in two patches counts in each by its share.
    """
    rows, columns = (_overlaps(cells, side).to(pixels) for cells, side in zip(grid, seen, strict=True))
    return (rows @ pixels[:, :, : seen[0], : seen[1]].sum(dim=1) @ columns.T).detach().float()


def _overlaps(cells: int, pixels: int) -> torch.Tensor:
    """The share of each pixel that lies in each of `cells` equal intervals, [cells, pixels]."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * pixels / cells
    start = torch.arange(pixels, dtype=torch.float64)
    inside = torch.minimum(edges[1:, None], start + 1) - torch.maximum(edges[:-1, None], start)
    return inside.clamp_min(0)


def pixel_map(grid: torch.Tensor, size: Sequence[int], seen: tuple[int, int]) -> torch.Tensor:
    """Return maps [B, h, w] at the H×W pixels of `size`, bilinear; 0 where the model looks at no pixel."""
    whole = F.interpolate(grid[:, None], seen, mode="bilinear", align_corners=False)[:, 0]
    return F.pad(whole, (0, size[1] - seen[1], 0, size[0] - seen[0]))


def seen_pixels(config: Any, size: Sequence[int]) -> tuple[int, int]:
    """Return how many rows and columns of H×W pixels the model looks at: whole patches, or all if it shrinks them."""
    if getattr(config, "patch_hw", None) is None:
        return size[0], size[1]
    inner, grid = _inner_size(config, size), grid_of(config, size)
    sides = [
        size[i] if inner[i] < size[i] else cells * patch
        for i, (cells, patch) in enumerate(zip(grid, config.patch_hw, strict=True))
    ]
    return sides[0], sides[1]


def grid_of(config: Any, size: Sequence[int]) -> tuple[int, int]:
    """Return the rows and columns of patches of an image of H×W pixels, after `shrink_to`.

    Of a model of another kind: those of its `patch_size`, or else 14×14.
    """
    if hasattr(config, "grid_of"):
        return config.grid_of(_inner_size(config, size))
    patch = getattr(config, "patch_size", None)
    if isinstance(patch, int) and patch <= min(size):
        return size[0] // patch, size[1] // patch
    return min(14, size[0]), min(14, size[1])


def _inner_size(config: Any, size: Sequence[int]) -> tuple[int, int]:
    """The size of an image for the encoder, after `shrink_to`."""
    most = config.shrink_hw or size
    return min(size[0], most[0]), min(size[1], most[1])
