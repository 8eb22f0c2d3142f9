"""Fixed position tables: pure functions of a grid.

Shapes: h×w grid, D width.
"""

import torch


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
