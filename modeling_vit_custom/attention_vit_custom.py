"""Multi-head attention, softmax(QKᵀ/√d) V, through transformers' attention interface.

Shapes: B batch, N tokens, S tokens attended to, D width, H heads, d = D / H.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.integrations.flex_attention import compile_friendly_flex_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_vit_custom import ViTCustomConfig
from .layers_vit_custom import layer_norm
from .position_vit_custom import Rope, rotate
from .quantized_vit_custom import has_own_weights


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
    """Attention [B, N, H, d] and its weights [B, H, N, S], softmax in float32.

    Takes query [B, H, N, d], key and value [B, H, S, d], and a mask broadcastable to [B, H, N, S]: bool (True is
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
    """As above, without weights, through flex attention: attention_mask [B, 1, N, S] is the same for every query.

    transformers' own reads it by query as well, which torch 2.14 compiles to a kernel for CPUs that writes beside its
    memory.
    """
    bias = attention_mask[:, 0, 0]

    def biased(score, batch, head, query_index, key_index):
        return score + bias[batch][key_index]

    attended: Any = compile_friendly_flex_attention(
        query, key, value, training=module.training, score_mod=biased, scale=scaling
    )
    return attended.transpose(1, 2).contiguous(), None


class ViTCustomAttention(nn.Module):
    """Attention of tokens [B, N, D] to `context` [B, S, D], which is themselves where it is left out."""

    is_causal = False

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
        self.q_norm = layer_norm(self.head_dim, config.layer_norm_eps, config.use_qk_norm)
        self.k_norm = layer_norm(self.head_dim, config.layer_norm_eps, config.use_qk_norm)
        self.qkv_proj: nn.Linear | None = None  # by `join_projections`
        self.o_proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        rope: Rope | None = None,
        context: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        output_attentions: bool | None = False,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """The attended tokens [B, N, D], from eager attention or when asked for the weights [B, H, N, S], and the keys.

        `rope` turns the queries and keys of patches by their position; fewer queries than keys are of prefix tokens.
        bias [B, 1, 1, S] is added to the scores, in the place of a mask. Fast backends never form the weights, so a
        call with `output_attentions` computes eagerly.
        """
        query, keys, value = map(self._split_heads, self._project(hidden_states, context))
        query, keys = self.q_norm(query), self.k_norm(keys)
        key = keys if rope is None else rotate(keys, rope)
        if rope is not None and query.shape == key.shape:
            query = rotate(query, rope)
        backend = "eager" if output_attentions else self.config._attn_implementation
        if bias is not None:
            attention_mask = bias.expand(-1, -1, query.shape[2], -1)
            few = backend == "flex_attention" and query.shape[2] < key.shape[2]  # a kernel that does not compile
            backend = "sdpa" if few or "flash" in backend else backend  # and flash attention takes no bias
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(backend, eager_attention)
        if bias is not None and backend == "flex_attention":
            attend = flex_attention_with_bias
        dropout = self.attention_dropout if self.training else 0.0
        attended, weights = attend(
            self, query, key, value, attention_mask, scaling=self.scaling, dropout=dropout, **kwargs
        )
        return self.dropout(self.o_proj(attended.flatten(2))), weights, keys

    def _project(self, hidden_states: torch.Tensor, context: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """Queries [B, N, D], keys and values [B, S, D]."""
        if self.qkv_proj is None:
            context = hidden_states if context is None else context
            return self.q_proj(hidden_states), self.k_proj(context), self.v_proj(context)
        if context is None:
            return self.qkv_proj(hidden_states).chunk(3, dim=-1)
        width, weight, bias = hidden_states.shape[-1], self.qkv_proj.weight, self.qkv_proj.bias
        both = F.linear(context, weight[width:], None if bias is None else bias[width:])
        return self.q_proj(hidden_states), *both.chunk(2, dim=-1)

    @torch.no_grad()
    def join_projections(self):
        """For inference: queries, keys and values by one product, whose weights are copies of the three layers'."""
        layers = (self.q_proj, self.k_proj, self.v_proj)
        if not all(has_own_weights(layer, nn.Linear) for layer in layers):
            return
        width = self.q_proj.in_features
        joined = nn.Linear(width, 3 * width, bias=self.q_proj.bias is not None, device="meta")
        for name, _ in list(joined.named_parameters()):
            parts = torch.cat([layer.get_parameter(name) for layer in layers])
            setattr(joined, name, nn.Parameter(parts, requires_grad=False))
        self.qkv_proj = joined

    def _split_heads(self, projected: torch.Tensor) -> torch.Tensor:
        return projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # [B, H, N, d]
