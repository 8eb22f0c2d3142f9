"""Maps of the encoder's features, which show what it sees alike and explain no answer.

Shapes: B batch, n patches, D width, h×w grid.
"""

import torch
import torch.nn.functional as F

from ..common.errors import UsageError
from ..interpolation_vit_custom import shrink_images
from .maps import Maps, on_grid
from .work import Work


def _patches(work: Work) -> torch.Tensor:
    """Patches after the last norm, unmerged, [B, n, D]; all of them, although a classifier computes fewer."""
    size = work.encoder.config.shrink_hw
    pixels = work.pixels if size is None else shrink_images(work.pixels, size)
    with torch.no_grad():
        return work.encoder(pixels).last_hidden_state[:, work.encoder.embeddings.num_prefix_tokens :]


def similarity(work: Work) -> Maps:
    """Return the cosine of one patch with every patch after the last norm, -1 to 1."""
    patches = F.normalize(_patches(work), dim=-1)
    grid = work.grid
    cells = work.cells or [(grid[0] // 2, grid[1] // 2)] * len(patches)
    if outside := [cell for cell in cells if not (0 <= cell[0] < grid[0] and 0 <= cell[1] < grid[1])]:
        raise UsageError(f"target={outside[0]} is no patch: rows are 0 to {grid[0] - 1}, columns 0 to {grid[1] - 1}.")
    chosen = torch.tensor([row * grid[1] + column for row, column in cells], device=patches.device)
    one = patches[torch.arange(len(patches)), chosen]
    return Maps(on_grid(torch.einsum("bnd,bd->bn", patches, one), grid))


def pca(work: Work) -> Maps:
    """Return the three largest principal components of each image's patches after the last norm.

    The grid is the first. Each is scaled to 0 … 1 as a colour, between its 1st and 99th percentile.
    """
    patches = _patches(work).float()
    centred = patches - patches.mean(1, keepdim=True)
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:, :3]  # [B, 3, D]
    largest = axes.gather(2, axes.abs().max(2, keepdim=True).indices)
    found = centred @ (axes * largest.sign()).mT  # the sign of a component is free: its largest weight is positive
    found = F.pad(found, (0, 3 - found.shape[2]))
    low, high = (torch.quantile(found, share, dim=1, keepdim=True) for share in (0.01, 0.99))
    colours = ((found - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return Maps(on_grid(found[..., 0], work.grid), colours=colours.unflatten(1, work.grid))
