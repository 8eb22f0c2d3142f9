"""Fixed positions: pure functions of a grid.

Shapes: B batch, H heads, h×w grid, P prefix tokens, N = P + h·w tokens, D width, d = D / H.
"""

import math
from typing import Any

import torch

Rope = tuple[torch.Tensor, torch.Tensor]  # cosines and sines, [h·w, d] or, of chosen patches, [B, 1, n, d] each


def sincos_table(grid: tuple[int, int], width: int, temperature: float = 10_000.0) -> torch.Tensor:
    """The two-dimensional sine-cosine table [h·w, D] of MoCo v3 (Chen et al. 2021, arXiv 2104.02057).

    A quarter of the width each holds sin x, cos x, sin y, cos y, over frequencies that fall geometrically from
    1 to 1 / temperature. Raises ValueError where the width is not a multiple of 4, or below 8.
    """
    if width % 4 or width < 8:
        raise ValueError(f"hidden_size={width}: sine-cosine positions need a multiple of 4, at least 8.")
    quarter = width // 4
    omega = temperature ** -(torch.arange(quarter, dtype=torch.float64) / (quarter - 1))
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    x, y = x.flatten()[:, None] * omega, y.flatten()[:, None] * omega
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1).to(torch.float32)


def rope_angles(grid: tuple[int, int], head_dim: int, theta: float, like: torch.Tensor | None = None) -> torch.Tensor:
    """The angles [h·w, d] by which two-dimensional rotary positions turn each patch (DINOv3; Siméoni et al. 2025).

    Patch centres lie in [-1, 1] on both axes, whatever the grid. A quarter of the head turns with y, a quarter with
    x, at frequencies that fall geometrically from 1 towards 1 / theta; the second half repeats the first. Computed on
    the device of `like`, in its dtype if that is wider than float32.
    """
    like = torch.empty(0) if like is None else like
    exact: dict[str, Any] = {"dtype": torch.float32, "device": like.device}  # part of the definition
    frequencies = 1 / theta ** torch.arange(0, 1, 4 / head_dim, **exact)
    axes = [(torch.arange(n, **exact) + 0.5) / n * 2 - 1 for n in grid]
    centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)  # [h·w, 2]
    wide = torch.promote_types(like.dtype, torch.float32)
    return ((2 * math.pi * centres[:, :, None]).to(wide) * frequencies).flatten(1).repeat(1, 2)


def rope_of(angles: torch.Tensor) -> Rope:
    """The cosines and sines of angles [h·w, d] or, of chosen patches, [B, n, d]."""
    angles = angles if angles.ndim == 2 else angles[:, None]
    return angles.cos(), angles.sin()


def rotate(heads: torch.Tensor, rope: Rope) -> torch.Tensor:
    """Queries or keys [B, H, N, d] with their patches turned by `rope`, in float32; prefix tokens stay as they are."""
    cos, sin = rope
    count = cos.shape[-2]
    prefix, patches = heads.split([heads.shape[2] - count, count], dim=2)
    first, second = patches.chunk(2, dim=-1)
    turned = patches * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([prefix, turned.to(heads.dtype)], dim=2)
