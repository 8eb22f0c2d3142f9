"""A layer beside an encoder in training that maps its features to a teacher's; a saved model is without it.

Shapes: B batch, D width of the encoder, k·D of its pooled vector, h x w its grid, T and P the teacher's widths.
"""

from typing import Any

import torch
from torch import nn

PREFIX = "feature_projection."


class FeatureProjection(nn.Module):
    """Two linear layers: patches [B, h·w, D] -> [B, h·w, T], and the pooled vector [B, k·D] -> [B, P]."""

    def __init__(self, config: Any, pooled_width: int, patch_width: int):
        super().__init__()
        self.prefix = config.num_prefix_tokens
        self.patches = nn.Linear(config.hidden_size, patch_width)
        self.pooled = nn.Linear(config.pooled_size, pooled_width)

    def forward(self, tokens: torch.Tensor, pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (pooled [B, P], patches [B, h·w, T]) of the encoder's tokens [B, N, D] and pooled vector [B, k·D]."""
        return self.pooled(pooled), self.patches(tokens[:, self.prefix :])


def add_projection(encoder: Any, pooled_width: int, patch_width: int, seed: int) -> None:
    """Add a `FeatureProjection` to a `ViTCustomModel`, whose output then also has "projected", its result.

    seed: of its first weights, which thus do not depend on what was drawn before.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        encoder.feature_projection = FeatureProjection(encoder.config, pooled_width, patch_width)

    def project(module: Any, args: Any, output: Any) -> Any:
        output["projected"] = module.feature_projection(output.last_hidden_state, output.pooler_output)
        return output

    encoder.register_forward_hook(project)


def is_projection(name: str) -> bool:
    """Return whether a parameter of this name is the projection's."""
    return name.startswith(PREFIX)
