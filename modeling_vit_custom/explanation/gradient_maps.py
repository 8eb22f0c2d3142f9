"""Maps by one backward: Libra, Grad-CAM, HiResCAM.

Shapes: B batch, N tokens, N₀ before any merging, D width, L blocks, h×w grid.
"""

import torch

from .libra import Constants
from .maps import Maps, of_patches, on_grid
from .trace import Trace, traced
from .work import Work

_OUTLIER = 4.0  # a token's norm over the median's from which on it is an outlier


def libra(work: Work) -> Maps:
    """Return the evidence of each patch: Σ over blocks of ⟨token, gradient⟩, the backward linearised by Libra's rules.

    This is LibraGrad's FullGrad+ (Mehri et al. 2025) without biases. Drawn is the sum over blocks of the positive part.
    """
    pixels = work.pixels.detach().clone().requires_grad_(work.complete)
    constants = Constants()
    with traced(work.model, work.encoder, libra=True, from_tokens=not work.complete) as trace:
        if work.complete:
            with constants.watched(work.model, work.encoder):
                score = work.score(work.outputs(pixels))
        else:
            score = work.score(work.outputs(pixels))
    wanted = [*trace.inputs, pixels] if work.complete else trace.inputs
    gradients = torch.autograd.grad(score.sum(), wanted)
    layers = work.chosen(by_block(trace, [z * g for z, g in zip(trace.inputs, gradients, strict=False)]))
    maps = Maps(layers.sum(0), layers.clamp_min(0).sum(0), layers, outliers=_outliers(trace))
    if work.complete:
        found = (pixels * gradients[-1]).flatten(1).sum(1) + constants.share
        maps.error = ((score - found).abs() / score.abs().clamp_min(1)).detach()
        maps.constant = torch.as_tensor(constants.share).detach()
    return maps


def by_block(trace: Trace, products: list[torch.Tensor]) -> torch.Tensor:
    """Return the sums over the width of [B, N, D] for each block's input, on the grid: [L, B, h, w]."""
    found = []
    for product, tokens in zip(products, trace.before, strict=True):
        found.append(on_grid(of_patches(product.sum(-1), tokens, trace.prefix, shared=True), trace.grid))
    return torch.stack(found)


def _outliers(trace: Trace) -> torch.Tensor:
    """Whether tokens of the last block's input have norms far above the median, [B]."""
    norms = trace.inputs[-1].detach()[:, trace.prefix :].norm(dim=-1)
    return norms.amax(1) > _OUTLIER * norms.median(1).values


def gradcam(work: Work) -> Maps:
    """Return Grad-CAM (Selvaraju et al. 2017) on what the last block's attention reads.

    After the last block only the tokens that pooling reads have gradients, so that with a class token the map would be
    0 there.
    """
    normed, gradient, trace = _last_norm(work)
    patches = trace.grid[0] * trace.grid[1]
    channels = gradient[:, trace.prefix :].sum(1, keepdim=True) / patches  # a merged token's gradient is its patches'
    values = (normed * channels).sum(-1)
    return Maps(on_grid(of_patches(values, trace.before[-1], trace.prefix, shared=False), trace.grid))


def hirescam(work: Work) -> Maps:
    """Return HiResCAM (Draelos & Carin 2020): as Grad-CAM, without averaging the gradient over patches."""
    normed, gradient, trace = _last_norm(work)
    values = (normed * gradient).sum(-1)
    return Maps(on_grid(of_patches(values, trace.before[-1], trace.prefix, shared=True), trace.grid))


def _last_norm(work: Work) -> tuple[torch.Tensor, torch.Tensor, Trace]:
    with traced(work.model, work.encoder) as trace:
        score = work.score(work.outputs(work.pixels))
    (gradient,) = torch.autograd.grad(score.sum(), trace.normed)
    return trace.normed.detach(), gradient, trace
