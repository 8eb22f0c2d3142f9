"""Maps from attention weights: rollout, attention itself, Chefer's relevance and LeGrad.

Shapes: B batch, N tokens before a block (P prefix tokens, then patches), N₀ before any merging, M rows that a block
computes, H heads, L blocks, h×w grid.
"""

from collections.abc import Callable

import torch

from ..token_merging_vit_custom import Tokens, average
from .context import answer_from
from .maps import Maps, of_patches, on_grid
from .trace import Trace, traced
from .work import Work


def attention(work: Work) -> Maps:
    """Return how much the rows that pooling reads attend to each patch in the last block, the mean over heads.

    Of attention pooling it is its query's row. Under mean pooling it is the mean row, which says little.
    """
    trace = _watched(work)
    if trace.pooled_weights is not None:
        rows, tokens = trace.pooled_weights[:, :, 0], trace.after[-1]  # [B, H, n]
        rows = torch.cat([rows.new_zeros(*rows.shape[:2], trace.prefix), rows], dim=2)
    else:
        weights, tokens = trace.weights[-1], trace.before[-1]
        read = _rows_read(work, trace, weights.shape[2], tokens, None)
        rows = torch.einsum("bm,bhmn->bhn", read, weights)
    heads = torch.stack(
        [
            on_grid(of_patches(rows[:, head], tokens, trace.prefix, shared=True), trace.grid)
            for head in range(rows.shape[1])
        ]
    )
    return Maps(heads.mean(0), heads=heads)


def rollout(work: Work) -> Maps:
    """Return attention carried through all blocks (Abnar & Zuidema 2020): the product of ½ attention + ½ identity."""
    trace = _watched(work)
    steps = [weights.mean(1) for weights in trace.weights]
    carried = _carried(trace, steps, lambda before, step: (before[:, : step.shape[1]] + step @ before) / 2)
    pooled = None if trace.pooled_weights is None else trace.pooled_weights.mean(1)[:, 0]
    return _read(work, trace, carried, pooled)


def chefer(work: Work) -> Maps:
    """Return the relevance of each patch by attention times its gradient (Chefer et al. 2021, generic form)."""
    return _relevance(work, libra=False)


def place(work: Work) -> Maps:
    """Return Chefer's relevance with Libra's backward, the positive part taken after the mean over heads.

    It finds the place of objects best in pretrained models, and is less faithful than `libra`.
    """
    return _relevance(work, libra=True)


def _relevance(work: Work, libra: bool) -> Maps:
    with traced(work.model, work.encoder, libra=libra, weights=True, cut_weights=libra) as trace:
        score = work.score(work.outputs(work.pixels))
    every = trace.weights if trace.pooled_weights is None else [*trace.weights, trace.pooled_weights]
    gradients = torch.autograd.grad(score.sum(), every)
    products = [weights.detach() * gradient for weights, gradient in zip(every, gradients, strict=True)]
    steps = [one.mean(1).clamp_min(0) if libra else one.clamp_min(0).mean(1) for one in products]
    pooled = steps.pop()[:, 0] if trace.pooled_weights is not None else None
    carried = _carried(trace, steps, lambda before, step: before[:, : step.shape[1]] + step @ before)
    maps = _read(work, trace, carried, pooled)
    if pooled is None and (own := _identity_share(work, trace)):
        maps.grid = maps.grid - own
    return maps


def _identity_share(work: Work, trace: Trace) -> float:
    """What each patch has of a mean over patches to begin with: it says nothing of the image."""
    pooling = _pooling(work)
    whole = {"mean": 1.0, "cls_mean": 0.5}.get(pooling, 0.0)
    return whole / (trace.grid[0] * trace.grid[1])


def _watched(work: Work) -> Trace:
    with torch.no_grad(), traced(work.model, work.encoder, weights=True, from_tokens=False) as trace:
        work.outputs(work.pixels)
    return trace


def _carried(
    trace: Trace, steps: list[torch.Tensor], mix: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Return what each row after the last block holds of each original token, [B, M, N₀].

    steps: [B, M, N] of each block.   mix: (what the rows before hold, a step) → what the rows after hold.
    """
    first = trace.inputs[0]
    held = torch.eye(first.shape[1], device=first.device).expand(len(first), -1, -1)
    for step, before, after in zip(steps, trace.before, trace.after, strict=True):
        held = mix(held, step.to(held))
        if len(after.matchings) > len(before.matchings):
            sizes = before.sizes
            if sizes is None:
                sizes = torch.ones(held.shape[:2], dtype=torch.long, device=held.device)
            held, _ = average(held, sizes, after.matchings[-1], trace.prefix)
    return held


def _read(work: Work, trace: Trace, held: torch.Tensor, pooled: torch.Tensor | None) -> Maps:
    """The map of what pooling reads of rows [B, M, N₀].   pooled: [B, n], weights of attention pooling."""
    rows = _rows_read(work, trace, held.shape[1], trace.after[-1], pooled)
    values = torch.einsum("bm,bmn->bn", rows.to(held), held)
    return Maps(on_grid(values[:, trace.prefix :], trace.grid))


def _rows_read(work: Work, trace: Trace, count: int, tokens: Tokens, pooled: torch.Tensor | None) -> torch.Tensor:
    """How much pooling reads of each of `count` rows, [B, M]; they add up to 1, but for attention pooling."""
    batch, prefix, device = len(trace.inputs[0]), trace.prefix, trace.inputs[0].device
    rows = torch.zeros(batch, count, device=device)
    if pooled is not None:
        rows[:, prefix:] = pooled
        return rows
    pooling = _pooling(work)
    if pooling == "cls":
        rows[:, 0] = 1
    elif pooling == "cls_register":
        rows[:, :2] = 0.5
    else:
        sizes = torch.ones(batch, count, device=device) if tokens.sizes is None else tokens.sizes.float()
        rows[:, prefix:] = sizes[:, prefix:] / sizes[:, prefix:].sum(1, keepdim=True)
        if pooling == "cls_mean":
            rows /= 2
            rows[:, 0] = 0.5
    return rows


def _pooling(work: Work) -> str:
    """How the encoder pools; of one that does not, the mean of its patches is read."""
    return "mean" if work.encoder.pooler is None else work.encoder.pooler.pooling


def legrad(work: Work) -> Maps:
    """Return the positive gradient of each block's own answer by its attention (Bousselham et al., ICCV 2025, LeGrad).

    The answer of a block is the model's head on the block's output. Blocks are cut off from one another, so that one
    backward of the sum of all answers gives every block's gradient.
    """
    with traced(work.model, work.encoder, weights=True, cut_weights=True, cut_blocks=True, from_tokens=False) as trace:
        work.outputs(work.pixels)
    total = torch.zeros((), device=work.pixels.device)
    for hidden, tokens in zip(trace.outputs, trace.after, strict=True):
        total = total + work.score(answer_from(work.model, work.encoder, work.pixels, hidden, tokens)).sum()
    gradients = torch.autograd.grad(total, trace.weights)
    length = trace.inputs[0].shape[1]
    layers = []
    for gradient, tokens in zip(gradients, trace.before, strict=True):
        # the sum over rows by the number of all tokens: rows that the last block leaves out have no gradient
        values = gradient.clamp_min(0).mean(1).sum(1) / length
        layers.append(on_grid(of_patches(values, tokens, trace.prefix, shared=False), trace.grid))
    chosen = work.chosen(torch.stack(layers))
    return Maps(chosen.sum(0), layers=chosen)
