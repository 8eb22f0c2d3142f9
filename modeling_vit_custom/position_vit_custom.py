"""Fixed positions, sine-cosine and rotary: pure functions of a grid.

Shapes: B batch, H heads, h×w grid, n chosen patches, P prefix tokens, N = P + h·w tokens, D width, d = D / H.
"""

import math
from typing import Any

import torch

Rope = tuple[torch.Tensor, torch.Tensor]  # cosines and sines: [h·w, d] each, or [B, 1, n, d] for chosen patches


def sincos_table(grid: tuple[int, int], width: int, temperature: float = 10_000.0) -> torch.Tensor:
    """Return the two-dimensional sine-cosine table [h·w, D] of MoCo v3 (Chen et al. 2021, arXiv 2104.02057).

    The quarters of the width hold sin x, cos x, sin y and cos y, at frequencies that fall geometrically from 1 to
    1 / temperature. Raises ValueError unless the width is a multiple of 4 and at least 8.
    """
    if width % 4 or width < 8:
        raise ValueError(f"hidden_size={width}: sine-cosine positions need a multiple of 4, at least 8.")
    quarter = width // 4
    omega = temperature ** -(torch.arange(quarter, dtype=torch.float64) / (quarter - 1))
    angles = [torch.arange(n, dtype=torch.float64)[:, None] * omega for n in grid]
    y, x = (torch.cat([angle.sin(), angle.cos()], dim=1).to(torch.float32) for angle in angles)  # [h or w, D/2]
    h, w = grid
    return torch.cat([x.expand(h, -1, -1), y[:, None].expand(-1, w, -1)], dim=2).flatten(0, 1)


def rope_angles(grid: tuple[int, int], head_dim: int, theta: float, like: torch.Tensor | None = None) -> torch.Tensor:
    """Return the angles [h·w, d] of two-dimensional rotary positions (DINOv3; Siméoni et al. 2025).

    Patch centres lie in [-1, 1] on both axes, whatever the grid. The first quarter of a head rotates with y, the second
    with x, at frequencies that fall geometrically from 1 towards 1 / theta; the second half repeats the first. The
    angles are on the device of `like`, in its dtype if that is wider than float32.
    """
    like = torch.empty(0) if like is None else like
    exact: dict[str, Any] = {"dtype": torch.float32, "device": like.device}  # float32 is part of the definition
    frequencies = 1 / theta ** torch.arange(0, 1, 4 / head_dim, **exact)
    axes = [(torch.arange(n, **exact) + 0.5) / n * 2 - 1 for n in grid]
    centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)  # [h·w, 2]
    wide = torch.promote_types(like.dtype, torch.float32)
    return ((2 * math.pi * centres[:, :, None]).to(wide) * frequencies).flatten(1).repeat(1, 2)


def rope_of(angles: torch.Tensor) -> Rope:
    """Return the cosines and sines of angles [h·w, d], or [B, n, d] for chosen patches."""
    angles = angles if angles.ndim == 2 else angles[:, None]
    return angles.cos(), angles.sin()


def rotate(heads: torch.Tensor, rope: Rope) -> torch.Tensor:
    """Rotate the patches of queries or keys [B, H, N, d] by `rope`, in float32; prefix tokens stay as they are."""
    cos, sin = rope
    count = cos.shape[-2]
    prefix, patches = heads.split([heads.shape[2] - count, count], dim=2)
    first, second = patches.chunk(2, dim=-1)
    turned = patches * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([prefix, turned.to(heads.dtype)], dim=2)
