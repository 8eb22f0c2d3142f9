"""Pooling: tokens [B, N, D] → one vector per image [B, k·D].

Shapes: B batch, P prefix tokens (class token first), n patches (h·w, fewer after token merging), N = P + n tokens,
D width, k·D pooled width.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers import initialization as init

from .attention_vit_custom import ViTCustomAttention
from .configuration_vit_custom import POOLINGS, ViTCustomConfig
from .layers_vit_custom import layer_norm, mlp
from .token_merging_vit_custom import Tokens, size_bias


class ViTCustomAttentionPooling(nn.Module):
    """MAP head: a learned query attends to patches [B, n, D], then one MLP → [B, D] (Zhai et al., arXiv 2106.04560)."""

    def __init__(self, config: ViTCustomConfig):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.attention = ViTCustomAttention(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = mlp(
            config.hidden_size,
            config.intermediate_size,
            config.hidden_act,
            config.hidden_dropout_prob,
            config.use_gated_mlp,
        )

    def forward(self, patches: torch.Tensor, sizes: torch.Tensor | None) -> torch.Tensor:
        tokens = Tokens(bias=None if sizes is None else size_bias(sizes, patches.dtype))
        pooled, _, _ = self.attention(self.query.expand(patches.shape[0], -1, -1), tokens, patches)
        return (pooled + self.mlp(self.layernorm(pooled)))[:, 0]

    def init_own_parameters(self, std: float):
        """Initialise the query from a truncated normal of standard deviation `std`."""
        init.trunc_normal_(self.query, std=std)


def _mean(patches: torch.Tensor, sizes: torch.Tensor | None) -> torch.Tensor:
    if sizes is None:
        return patches.mean(dim=1)
    return (patches * (sizes / sizes.sum(dim=1, keepdim=True)).to(patches.dtype)[:, :, None]).sum(dim=1)


# `pooling` in the configuration → function of tokens [B, N, D], patches [B, n, D] and sizes [B, n] or None → [B, k·D].
POOLS: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]] = {
    "cls": lambda tokens, patches, sizes: tokens[:, 0],
    "mean": lambda tokens, patches, sizes: _mean(patches, sizes),
    "cls_mean": lambda tokens, patches, sizes: torch.cat([tokens[:, 0], _mean(patches, sizes)], dim=-1),
    "cls_register": lambda tokens, patches, sizes: tokens[:, :2].flatten(1),
}


class ViTCustomPooler(nn.Module):
    """Pools tokens [B, N, D] to [B, k·D], then normalises that vector if `final_norm="pooled"`."""

    def __init__(self, config: ViTCustomConfig):
        super().__init__()
        self.pooling = config.pooling
        self.num_prefix_tokens = config.num_prefix_tokens
        self.first_tokens = POOLINGS[config.pooling].first
        self.attention_pooling = ViTCustomAttentionPooling(config) if config.pooling == "map" else None
        self.layernorm = layer_norm(config.pooled_size, config.layer_norm_eps, config.final_norm == "pooled")

    def forward(self, tokens: torch.Tensor, sizes: torch.Tensor | None = None) -> torch.Tensor:
        """Return [B, k·D] of tokens [B, N, D]; sizes [B, N]: how many original tokens each stands for, by default 1."""
        patches = tokens[:, self.num_prefix_tokens :]
        of_patches = None if sizes is None else sizes[:, self.num_prefix_tokens :]
        if self.attention_pooling is not None:
            return self.layernorm(self.attention_pooling(patches, of_patches))
        return self.layernorm(POOLS[self.pooling](tokens, patches, of_patches))
