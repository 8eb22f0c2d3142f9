"""Resizing of tables, kernels and images by one matrix per axis: `out = R_h @ x @ R_w.T`.

Unlike `F.interpolate`, two matrix products export everywhere, are exact in float64, and have a pseudo-inverse, which
changing the patch size of a trained model needs.

Shapes: n input length, m output length of one axis; h×w → h'×w' grid; p×q → p'×q' patch kernel; D width;
C image channels; B batch, H×W → h×w image.
"""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class ResizeRule:
    """How one library resamples a table.

    kernel: "nearest", "nearest-exact", "area", "bilinear" or "bicubic", as in `torch.nn.functional.interpolate`.
    antialias: widen the kernel when shrinking.
    align_corners: the outermost samples of input and output coincide.
    offset: added to the output length before the scale is taken (DINO and DINOv2 pass (m + 0.1) / n).
    """

    kernel: str
    antialias: bool = False
    align_corners: bool = False
    offset: float = 0.0


# Position tables are resampled by the rule of the library that the checkpoint comes from.
RESIZE_RULES = {
    "bicubic_antialias": ResizeRule("bicubic", antialias=True),  # timm; DINOv2 with registers
    "bicubic": ResizeRule("bicubic"),  # transformers' ViT, DeiT, DINOv2
    "bicubic_offset": ResizeRule("bicubic", offset=0.1),  # DINO; DINOv2 without registers
    "bicubic_align_corners": ResizeRule("bicubic", align_corners=True),  # torchvision
    "bilinear_align_corners": ResizeRule("bilinear", align_corners=True),  # vision_transformer, big_vision
    "bilinear_antialias": ResizeRule("bilinear", antialias=True),  # FlexiViT while training
    "bilinear": ResizeRule("bilinear"),  # timm reading .npz files
    "nearest": ResizeRule("nearest"),
}
COMPUTED = "computed"  # sine-cosine positions computed for each grid: big_vision
POSITION_RULES = (*RESIZE_RULES, COMPUTED)


def resize_matrix(n: int, m: int, rule: ResizeRule) -> torch.Tensor:
    """Return the [m, n] float64 matrix that resamples a signal of length n to length m; each row sums to 1.

    Raises ValueError for an unknown kernel, or if it has no such antialiasing or corner alignment.
    """
    builders = {
        "nearest": _nearest,
        "nearest-exact": _nearest,
        "area": _area,
        "bilinear": _interpolating,
        "bicubic": _interpolating,
    }
    if rule.kernel not in builders:
        raise ValueError(f"kernel={rule.kernel!r} is unknown: use one of {sorted(builders)}.")
    if rule.kernel not in ("bilinear", "bicubic") and (rule.antialias or rule.align_corners):
        raise ValueError(f"antialias and align_corners need a bilinear or bicubic kernel, not {rule.kernel!r}.")
    if rule.antialias and rule.align_corners:
        raise ValueError("antialias=True and align_corners=True exclude each other: choose one.")
    if rule.antialias:
        return _antialiased(n, m, rule)
    return builders[rule.kernel](n, m, rule)


def resize_grid(table: torch.Tensor, size: tuple[int, int], rule: ResizeRule) -> torch.Tensor:
    """Resample the first two axes of a [h, w, ...] table to `size` = (h', w'), in float32, and keep its dtype."""
    h, w = table.shape[:2]
    rows = resize_matrix(h, size[0], rule).to(table.device, torch.promote_types(table.dtype, torch.float32))
    columns = resize_matrix(w, size[1], rule).to(rows)
    resized = torch.einsum("yh,hw...,xw->yx...", rows, table.to(rows.dtype), columns)
    return resized.to(table.dtype)


def shrink_images(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Shrink images [B, C, H, W] to at most `size` = (h, w) pixels, antialiased, in their own dtype."""
    target = tuple(min(side, most) for side, most in zip(images.shape[2:], size, strict=True))
    if target == tuple(images.shape[2:]):
        return images
    rule = RESIZE_RULES["bilinear_antialias"]
    rows, columns = (resize_matrix(n, m, rule).to(images) for n, m in zip(images.shape[2:], target, strict=True))
    return rows @ images @ columns.T


def resize_patch_kernel(kernel: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resample a patch embedding [D, C, p, q] to [D, C, p', q'] so that embeddings are kept (FlexiViT, eq. 5).

    If B resizes a patch, w' = (Bᵀ)⁺ w solves ⟨x, w⟩ = ⟨Bx, w'⟩, for every patch x when p' ≥ p and in the
    least-squares sense when p' < p. B is a Kronecker product, so each axis has its own pseudo-inverse.
    Source: Beyer et al. 2023, arXiv 2212.08013, section 3.4.
    """
    rule = RESIZE_RULES["bilinear"]
    rows, columns = (
        torch.linalg.pinv(resize_matrix(old, new, rule).T) for old, new in zip(kernel.shape[2:], size, strict=True)
    )
    resized = torch.einsum("yp,dcpq,xq->dcyx", rows, kernel.cpu().double(), columns)
    return resized.to(kernel.device, kernel.dtype)


def resize_channels(kernel: torch.Tensor, num_channels: int) -> torch.Tensor:
    """Adapt a kernel [D, C, p, q] to C' = `num_channels` input channels: [D, C', p, q].

    For one channel the kernels are summed, so that a grey image embeds as its RGB copy did. Otherwise they are repeated
    cyclically and scaled by C / C', which keeps that property if C' is a multiple of C.
    """
    old = kernel.shape[1]
    if num_channels == 1:
        return kernel.sum(dim=1, keepdim=True)
    indices = torch.arange(num_channels, device=kernel.device) % old
    return kernel[:, indices] * (old / num_channels)


def _nearest(n: int, m: int, rule: ResizeRule) -> torch.Tensor:
    centre = 0.5 if rule.kernel == "nearest-exact" else 0.0
    index = ((_arange(m) + centre) * n / m).floor().clamp(max=n - 1)
    return _one_hot(index, n)


def _area(n: int, m: int, rule: ResizeRule) -> torch.Tensor:
    start, end = (_arange(m) * n / m).floor(), ((_arange(m) + 1) * n / m).ceil()
    inside = (_arange(n) >= start[:, None]) & (_arange(n) < end[:, None])
    return inside / (end - start)[:, None]


def _interpolating(n: int, m: int, rule: ResizeRule) -> torch.Tensor:
    """Bilinear or bicubic without antialiasing: a fixed number of taps; border pixels are repeated."""
    if rule.align_corners:
        source = _arange(m) * ((n - 1) / max(m - 1, 1))
    else:
        source = (_arange(m) + 0.5) * (n / (m + rule.offset)) - 0.5
    if rule.kernel == "bilinear":
        source = source.clamp(min=0)
    taps = (0, 1) if rule.kernel == "bilinear" else (-1, 0, 1, 2)
    base = source.floor()
    matrix = torch.zeros(m, n, dtype=torch.float64)
    for tap in taps:
        weight = _kernel_weight(source - base - tap, rule.kernel, cubic=-0.75)
        matrix += weight[:, None] * _one_hot((base + tap).clamp(0, n - 1), n)
    return matrix


def _antialiased(n: int, m: int, rule: ResizeRule) -> torch.Tensor:
    """Bilinear or bicubic with antialiasing: the kernel, stretched when shrinking and normalised, as in PIL."""
    scale = n / (m + rule.offset)
    centre = (_arange(m) + 0.5) * scale
    stretch: Any = torch.sym_max(scale, 1.0)  # `max` would fix the branch in an export with symbolic lengths
    distance = (_arange(n) + 0.5 - centre[:, None]) / stretch
    matrix = _kernel_weight(distance, rule.kernel, cubic=-0.5)
    return matrix / matrix.sum(dim=1, keepdim=True)


def _kernel_weight(distance: torch.Tensor, kernel: str, cubic: float) -> torch.Tensor:
    """The triangle kernel, or the cubic convolution of Keys 1981 with parameter a = `cubic`."""
    x = distance.abs()
    if kernel == "bilinear":
        return (1 - x).clamp(min=0)
    near = ((cubic + 2) * x - (cubic + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * cubic - 4 * cubic
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _one_hot(index: torch.Tensor, n: int) -> torch.Tensor:
    return (index[:, None] == _arange(n)).to(torch.float64)


def _arange(length: int) -> torch.Tensor:
    return torch.arange(length, dtype=torch.float64)
