"""Multi-head attention, softmax(QKᵀ/√d) V, through transformers' attention interface.

Shapes: B batch, N tokens, S tokens attended to, D width, H heads, d = D / H.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.integrations.flex_attention import compile_friendly_flex_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_vit_custom import ViTCustomConfig
from .layers_vit_custom import dropout_of
from .position_vit_custom import rotate
from .quantized_vit_custom import has_own_weights
from .token_merging_vit_custom import NOTHING, Tokens

Attend = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the attended values [B, N, H, d] and the weights [B, H, N, S], with the softmax in float32.

    query: [B, H, N, d].   key, value: [B, H, S, d].   attention_mask: broadcastable to [B, H, N, S], bool (True may be
    attended to) or additive.
    """
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    dropped = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (dropped @ value).transpose(1, 2).contiguous(), weights


def flex_attention_with_bias(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Return what `eager_attention` does, but by flex attention and without weights.

    attention_mask: additive [B, 1, N, S], the same for every query.
    transformers' own function indexes the mask by query as well; for that, torch 2.14 compiles a CPU kernel that writes
    out of bounds.
    """
    bias = attention_mask[:, 0, 0]

    def biased(score, batch, head, query_index, key_index):
        return score + bias[batch][key_index]

    attended: Any = compile_friendly_flex_attention(
        query, key, value, training=module.training, score_mod=biased, scale=scaling
    )
    return attended.transpose(1, 2).contiguous(), None


def attention_function(config: Any, eager: bool | None, biased: bool, few: bool) -> Attend:
    """Return the function that computes attention with the configured backend.

    eager: override the backend, since the fast ones never form the weights.   biased: whether the scores get a bias.
    few: whether there are fewer queries than keys.
    """
    backend = "eager" if eager else config._attn_implementation
    if biased and ("flash" in backend or (few and backend == "flex_attention")):
        backend = "sdpa"  # flash takes no bias; flex with a bias does not compile for few queries
    if biased and backend == "flex_attention":
        return flex_attention_with_bias
    return ALL_ATTENTION_FUNCTIONS.get_interface(backend, eager_attention)


class ViTCustomAttention(nn.Module):
    """Multi-head attention: tokens [B, N, D] attend to `context` [B, S, D], by default to themselves."""

    is_causal = False
    num_key_value_groups = 1  # read by transformers' attention functions

    def __init__(self, config: ViTCustomConfig):
        super().__init__()
        self.config = config
        width, bias = config.hidden_size, config.qkv_bias
        self.head_dim = width // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_probs_dropout_prob
        self.q_proj = nn.Linear(width, width, bias=bias)
        self.k_proj = nn.Linear(width, width, bias=bias)
        self.v_proj = nn.Linear(width, width, bias=bias)
        self.q_norm = nn.LayerNorm(self.head_dim, eps=config.layer_norm_eps) if config.use_qk_norm else None
        self.k_norm = nn.LayerNorm(self.head_dim, eps=config.layer_norm_eps) if config.use_qk_norm else None
        self.qkv_proj: nn.Linear | None = None  # set by `fuse_qkv`
        self.o_proj = nn.Linear(width, width)
        self.dropout = dropout_of(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: torch.Tensor,
        tokens: Tokens = NOTHING,
        context: torch.Tensor | None = None,
        attend: Attend | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Return attended tokens [B, N, D], weights [B, H, N, S] (eager attention only) and keys [B, H, S, d].

        tokens: state of the S tokens attended to. Its rotary positions rotate the queries and keys of patches; if there
        are fewer queries than keys, all queries are prefix tokens, which are not rotated. The keys returned are not
        rotated either.   attend: an `attention_function`, by default that of the configuration.
        """
        query, key, value = self._project(hidden_states, context)  # [B, H, N, d], [B, H, S, d] twice
        if self.q_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        keys, mask = key, tokens.mask
        if tokens.rope is not None:
            every = query.shape == key.shape
            key = rotate(key, tokens.rope)
            query = rotate(query, tokens.rope) if every else query
        if tokens.bias is not None:
            mask = tokens.bias.expand(-1, -1, query.shape[2], -1)
        if attend is None:
            few = query.shape[2] < key.shape[2]
            attend = attention_function(self.config, False, tokens.bias is not None, few)
        dropout = self.attention_dropout if self.training else 0.0
        attended, weights = attend(self, query, key, value, mask, scaling=self.scaling, dropout=dropout, **kwargs)
        attended = self.o_proj(attended.flatten(2))
        return attended if self.dropout is None else self.dropout(attended), weights, keys

    def _project(self, hidden_states: torch.Tensor, context: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """Queries [B, H, N, d], keys and values [B, H, S, d]."""
        context = hidden_states if context is None else context
        if self.qkv_proj is None:
            query, key, value = self.q_proj(hidden_states), self.k_proj(context), self.v_proj(context)
            return self._heads(query), self._heads(key), self._heads(value)
        if context is hidden_states:
            return self._unpack(self.qkv_proj(hidden_states), 3)
        width, weight, bias = hidden_states.shape[-1], self.qkv_proj.weight, self.qkv_proj.bias
        both = F.linear(context, weight[width:], None if bias is None else bias[width:])
        return self._heads(self.q_proj(hidden_states)), *self._unpack(both, 2)

    def _heads(self, projected: torch.Tensor) -> torch.Tensor:
        """[B, N, D] → [B, H, N, d]."""
        return projected.view(*projected.shape[:-1], -1, self.head_dim).transpose(1, 2)

    def _unpack(self, packed: torch.Tensor, count: int) -> tuple[torch.Tensor, ...]:
        """[B, N, count·D] → `count` times [B, H, N, d]."""
        return packed.view(*packed.shape[:-1], count, -1, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)

    @torch.no_grad()
    def fuse_qkv(self):
        """Copy the three projections into one fused QKV layer, for inference.

        Does nothing if one of them is quantised, offloaded, or changed by an adapter or a hook.
        """
        layers = (self.q_proj, self.k_proj, self.v_proj)
        if not all(has_own_weights(layer, nn.Linear) for layer in layers):
            return
        width = self.q_proj.in_features
        joined = nn.Linear(width, 3 * width, bias=self.q_proj.bias is not None, device="meta")
        for name, _ in list(joined.named_parameters()):
            parts = torch.cat([layer.get_parameter(name) for layer in layers])
            setattr(joined, name, nn.Parameter(parts, requires_grad=False))
        self.qkv_proj = joined
