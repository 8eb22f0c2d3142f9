"""Leaf layers: they take scalars, never a config.

Shapes: B batch, P prefix tokens, N tokens, D width, d width of a head, M hidden width of the MLP, h×w grid.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN


class Mlp(nn.Module):
    """Two linear layers with an activation in between: [B, N, D] → [B, N, D]."""

    def __init__(self, width: int, hidden_width: int, activation: str, dropout: float):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden_width)
        self.activation = ACT2FN[activation]
        self.fc2 = nn.Linear(hidden_width, width)
        self.dropout = dropout_of(dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        transformed = self.fc2(self.activation(self.fc1(hidden_states)))
        return transformed if self.dropout is None else self.dropout(transformed)


class GatedMlp(nn.Module):
    """An MLP with gated hidden units, [B, N, D] → [B, N, D]; with SiLU, SwiGLU (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, width: int, hidden_width: int, activation: str, dropout: float):
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden_width)
        self.up_proj = nn.Linear(width, hidden_width)
        self.activation = ACT2FN[activation]
        self.down_proj = nn.Linear(hidden_width, width)
        self.dropout = dropout_of(dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        gated = self.activation(self.gate_proj(hidden_states)) * self.up_proj(hidden_states)
        transformed = self.down_proj(gated)
        return transformed if self.dropout is None else self.dropout(transformed)


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch, [B, N, D] → [B, N, D] (CaiT, arXiv 2103.17239)."""

    def __init__(self, width: int, init_value: float):
        super().__init__()
        self.init_value = init_value
        self.lambda1 = nn.Parameter(torch.full((width,), float(init_value)))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states * self.lambda1


class DropPath(nn.Module):
    """Stochastic depth: in training, drops the whole branch of a sample with probability `rate`.

    Kept branches are scaled by 1 / (1 - rate) to keep the expectation (Huang et al. 2016, arXiv 1603.09382).
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return hidden_states
        keep = hidden_states.new_empty(hidden_states.shape[0], 1, 1).bernoulli_(1 - self.rate)
        return hidden_states * keep / (1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


class PatchDropout(nn.Module):
    """In training, drops a random share `rate` of each image's patches (Liu et al. 2022, arXiv 2208.07220).

    The blocks after it then cost that much less. The first `prefix` tokens always stay; in eval mode every patch does.
    """

    def __init__(self, rate: float, prefix: int):
        super().__init__()
        self.rate, self.prefix = rate, prefix

    @property
    def active(self) -> bool:
        return self.training and self.rate > 0

    def forward(
        self, hidden_states: torch.Tensor, angles: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the kept ones of tokens [B, N, D] and of rotary angles [N - P, d]: [B, N', D] and [B, N' - P, d]."""
        if not self.active:
            return hidden_states, angles
        prefix, patches = hidden_states.split([self.prefix, hidden_states.shape[1] - self.prefix], dim=1)
        count = max(1, round(patches.shape[1] * (1 - self.rate)))
        kept = torch.rand(patches.shape[:2], device=patches.device).argsort(dim=1)[:, :count]
        patches = patches.gather(1, kept[:, :, None].expand(-1, -1, patches.shape[2]))
        return torch.cat([prefix, patches], dim=1), None if angles is None else angles[kept]

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a feature map [B, D, h, w]: no statistic crosses images or positions."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def init_own_parameters(self, std: float):
        """Initialise as a layer norm, which transformers recognises by the name of its class."""
        init.ones_(self.weight)
        init.zeros_(self.bias)


def layer_norm(width: int, eps: float, wanted: bool) -> nn.Module:
    """Return a layer norm, or the identity if not `wanted`."""
    return nn.LayerNorm(width, eps=eps) if wanted else nn.Identity()


def layer_scale(width: int, init_value: float | None) -> LayerScale | None:
    """Return a `LayerScale`, or None without an `init_value`."""
    return None if init_value is None else LayerScale(width, init_value)


def mlp(width: int, hidden_width: int, activation: str, dropout: float, gated: bool) -> nn.Module:
    """Return a `GatedMlp` if `gated`, else an `Mlp`."""
    return (GatedMlp if gated else Mlp)(width, hidden_width, activation, dropout)


def dropout_of(rate: float) -> nn.Dropout | None:
    """Return a dropout layer, or None at rate 0."""
    return nn.Dropout(rate) if rate > 0 else None


def drop_path(rate: float) -> DropPath | None:
    """Return a `DropPath`, or None at rate 0."""
    return DropPath(rate) if rate > 0 else None
