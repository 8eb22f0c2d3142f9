"""Maps by many forwards: integrated gradients and occlusion. Any torch model will do.

Shapes: B batch, C channels, H×W pixels, h×w grid.
"""

from collections.abc import Sequence

import numpy as np
import torch

from .maps import Maps, patch_sums
from .work import Work

STEPS = (32, 64, 128)
_CLOSE = 0.05
_WINDOWS_ABOVE = 14  # rows or columns from which on single cells are too many, and too small to change an answer


def ig(work: Work) -> Maps:
    """Return integrated gradients of the pixels (Sundararajan et al. 2017), summed over channels and patches.

    The path begins at 0, the mean colour after normalisation. An image's steps are doubled, up to 128, until the sum is
    the difference of the scores within 5 %.
    """
    base = torch.zeros_like(work.pixels)
    with torch.no_grad():
        difference = work.score(work.outputs(work.pixels)) - work.score(work.outputs(base))
    found, error = torch.zeros_like(work.pixels), torch.full_like(difference, torch.inf)
    for steps in STEPS:
        places = (error > _CLOSE).nonzero()[:, 0].tolist()
        if places:
            found[places] = integrated(work, base, steps, places)
            error = (found.flatten(1).sum(1) - difference).abs() / difference.abs().clamp_min(1)
    maps = Maps(patch_sums(found, work.grid, work.seen), error=error if work.complete else None)
    if error.max() > _CLOSE:
        maps.notes.append(
            f"{STEPS[-1]} steps of integrated gradients miss a difference of scores by {error.max():.0%}."
        )
    return maps


def integrated(work: Work, base: torch.Tensor, steps: int, places: Sequence[int]) -> torch.Tensor:
    """Return integrated gradients [n, C, H, W] of n images, by the midpoints of `steps` intervals.

    base: where the paths begin, [B, C, H, W].   places: of the n images in the batch.
    """
    start, end = base[places], work.pixels[places]
    total = torch.zeros_like(end)
    for step in range(steps):
        point = torch.lerp(start, end, (step + 0.5) / steps).requires_grad_()
        total += torch.autograd.grad(work.scored(work.outputs(point), places).sum(), point)[0]
    return (end - start) * total / steps


def occlusion(work: Work) -> Maps:
    """Return what the score loses when each patch is replaced by a blurred copy (Zeiler & Fergus 2014).

    On grids of more than 14 rows or columns, windows of 2×2 patches are replaced.
    """
    step = 2 if max(work.grid) > _WINDOWS_ABOVE else 1
    rows, columns = (-(-side // step) for side in work.grid)
    window = np.add.outer(np.arange(work.grid[0]) // step * columns, np.arange(work.grid[1]) // step)
    replaced = np.arange(rows * columns)[:, None] == window.ravel()
    grids = []
    for place in range(len(work.pixels)):
        image = work.perturbed(place)
        whole = image.scores(np.zeros((1, image.cells), bool))
        grids.append(torch.from_numpy((whole - image.scores(replaced))[window]).float())
    return Maps(torch.stack(grids))
