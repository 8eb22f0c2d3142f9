"""What the blocks of one forward read, compute and attend to, by hooks; the model itself stays as it is.

Shapes: B batch, N tokens before a block (P prefix tokens, then patches), N₀ before any merging, M rows that a block
computes, H heads, D width, h×w grid of patches.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from ..attention_vit_custom import attention_function, eager_attention
from ..token_merging_vit_custom import Tokens
from .context import is_a
from .libra import linearised

_ARGUMENTS = ("hidden_states", "tokens", "context", "attend")  # of ViTCustomAttention.forward, in order


@dataclass
class Trace:
    """One forward, block by block.

    inputs, outputs: [B, N, D] of each block, the last output [B, M, D].   before, after: the tokens' state there.
    normed: [B, N, D], what the last block's attention reads.   final: [B, N, D], after the last norm.
    weights: attention [B, H, M, N] of each block, and pooled_weights [B, H, 1, n] of attention pooling, if kept.
    grid: rows and columns of patches.   prefix: P.
    """

    prefix: int
    grid: tuple[int, int] = (0, 0)
    inputs: list[torch.Tensor] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)
    before: list[Tokens] = field(default_factory=list)
    after: list[Tokens] = field(default_factory=list)
    weights: list[torch.Tensor] = field(default_factory=list)
    pooled_weights: torch.Tensor | None = None
    normed: Any = None
    final: Any = None


@contextmanager
def traced(
    model: nn.Module,
    encoder: Any,
    *,
    libra: bool = False,
    weights: bool = False,
    cut_weights: bool = False,
    cut_blocks: bool = False,
    from_tokens: bool = True,
) -> Iterator[Trace]:
    """Yield a Trace that the next forward of the model fills.

    libra: linearise the backward, see `libra`.   weights: compute and keep attention weights; else the model's own
    attention runs.   cut_weights: no gradient passes through the weights: each is a leaf.   cut_blocks: none passes
    from block to block.   from_tokens: gradients begin at the tokens, so that the pixels need none.
    """
    trace = Trace(encoder.embeddings.num_prefix_tokens)
    blocks = list(encoder.layers)

    def kept_grid(_module: nn.Module, _args: Any, output: torch.Tensor) -> None:
        trace.grid = (output.shape[2], output.shape[3])

    def kept_input(module: nn.Module, args: tuple[Any, ...]) -> Any:
        hidden, tokens, step = args
        if cut_blocks or (from_tokens and module is blocks[0]):
            hidden = hidden.detach()
        if from_tokens and module is blocks[0]:
            hidden.requires_grad_()
        trace.inputs.append(hidden)
        trace.before.append(tokens)
        return hidden, tokens, step

    def kept_output(_module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        trace.outputs.append(output)
        trace.after.append(args[2].left or args[1])

    def kept(name: str, _module: nn.Module, _args: Any, output: torch.Tensor) -> None:
        setattr(trace, name, output)

    with ExitStack() as hooks:
        if libra:
            hooks.enter_context(linearised(model))
        hooks.callback(encoder.embeddings.patch_embeddings.register_forward_hook(kept_grid).remove)
        for block in blocks:
            hooks.callback(block.register_forward_pre_hook(kept_input).remove)
            hooks.callback(block.register_forward_hook(kept_output).remove)
        norm = blocks[-1].layernorm_before
        hooks.callback(norm.register_forward_hook(partial(kept, "normed")).remove)
        hooks.callback(encoder.layernorm.register_forward_hook(partial(kept, "final")).remove)
        if libra or weights:
            own = {id(block.attention) for block in blocks}
            for module in encoder.modules():
                if is_a(module, "ViTCustomAttention"):
                    keep = partial(_keep_weights, trace, id(module) in own) if weights else None
                    hooks.enter_context(_attending(module, libra, keep, cut_weights))
        yield trace


def _keep_weights(trace: Trace, of_block: bool, weights: torch.Tensor) -> None:
    if of_block:
        trace.weights.append(weights)
    else:
        trace.pooled_weights = weights


@contextmanager
def _attending(
    attention: Any, constant: bool, keep: Callable[[torch.Tensor], None] | None, cut: bool
) -> Iterator[None]:
    """Let an attention attend as an explanation needs.

    constant: no gradient passes to queries and keys.   keep: takes the weights; None runs the model's own attention.
    cut: the weights are a leaf.
    """

    def attend(own: Any, module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        if constant:
            query, key = query.detach(), key.detach()
        if keep is None:
            return _own(own, module, query, key, mask)(module, query, key, value, mask, **kwargs)
        attended, weights = eager_attention(module, query, key, value, mask, kwargs["scaling"])
        if cut:
            weights = weights.detach().requires_grad_()
            attended = (weights @ value).transpose(1, 2).contiguous()
        keep(weights)
        return attended, weights

    def replaced(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
        given["attend"] = partial(attend, given.get("attend"))
        return (), given

    handle = attention.register_forward_pre_hook(replaced, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _own(own: Any, module: Any, query: torch.Tensor, key: torch.Tensor, mask: Any) -> Any:
    """The attention function of the model; SDPA for those that have no float32 gradients on every processor."""
    config: Any = module.config
    if config._attn_implementation not in ("eager", "sdpa"):
        config, own = _SDPA, None
    return own or attention_function(config, False, mask is not None, query.shape[2] < key.shape[2])


class _SDPA:
    _attn_implementation = "sdpa"
