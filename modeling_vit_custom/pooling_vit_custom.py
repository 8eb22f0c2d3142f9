"""From tokens to one vector per image, [B, N, D] → [B, k·D].

Shapes: B batch, N = P + h·w tokens, P prefix tokens (class token first), D width.
"""

import torch
from torch import nn
from transformers import initialization as init

from .attention_vit_custom import ViTCustomAttention
from .configuration_vit_custom import ViTCustomConfig
from .layers_vit_custom import layer_norm, mlp

FIRST_TOKENS = {"cls": 1, "cls_register": 2}  # poolings that read these alone


class ViTCustomAttentionPooling(nn.Module):
    """A learned query attends to all patches, then one MLP (MAP head; Zhai et al. 2022, arXiv 2106.04560)."""

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
        bias = None if sizes is None else sizes.float().log().to(patches.dtype)[:, None, None, :]
        pooled = self.attention(self.query.expand(patches.shape[0], -1, -1), context=patches, bias=bias)[0]
        return (pooled + self.mlp(self.layernorm(pooled)))[:, 0]

    def init_own_parameters(self, std: float):
        """The query from a truncated normal."""
        init.trunc_normal_(self.query, std=std)


class ViTCustomPooler(nn.Module):
    """Pool, then normalise where `final_norm` says that the pooled vector is what is normalised."""

    def __init__(self, config: ViTCustomConfig):
        super().__init__()
        self.pooling = config.pooling
        self.num_prefix_tokens = config.num_prefix_tokens
        self.first_tokens = FIRST_TOKENS.get(config.pooling)  # None: tokens further on are read as well
        self.attention_pooling = ViTCustomAttentionPooling(config) if config.pooling == "map" else None
        self.layernorm = layer_norm(config.pooled_size, config.layer_norm_eps, config.final_norm == "pooled")

    def forward(self, tokens: torch.Tensor, sizes: torch.Tensor | None = None) -> torch.Tensor:
        return self.layernorm(self.pool(tokens, sizes))

    def pool(self, tokens: torch.Tensor, sizes: torch.Tensor | None = None) -> torch.Tensor:
        """[B, N, D] → [B, k·D], by `config.pooling`; sizes [B, N]: how many tokens each counts for."""
        patches = tokens[:, self.num_prefix_tokens :]
        sizes = None if sizes is None else sizes[:, self.num_prefix_tokens :]
        if self.pooling == "cls":
            return tokens[:, 0]
        if self.pooling == "mean":
            return _mean(patches, sizes)
        if self.pooling == "cls_mean":
            return torch.cat([tokens[:, 0], _mean(patches, sizes)], dim=-1)
        if self.pooling == "cls_register":
            return tokens[:, : self.first_tokens].flatten(1)
        return self.attention_pooling(patches, sizes)


def _mean(patches: torch.Tensor, sizes: torch.Tensor | None) -> torch.Tensor:
    if sizes is None:
        return patches.mean(dim=1)
    return (patches * (sizes / sizes.sum(dim=1, keepdim=True)).to(patches.dtype)[:, :, None]).sum(dim=1)
