"""What other libraries of explanations need to explain these models: pytorch-grad-cam and captum.

Shapes: B batch, C channels, H×W pixels, N tokens of the last block, D width, h×w grid.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ...common.errors import UsageError
from ...engines.output import OutputOf
from ...tasks.registry import task_of
from .context import encoder_of, unwrapped
from .maps import grid_of


def _encoder(model: Any) -> Any:
    model = unwrapped(model)
    encoder = encoder_of(model)
    if encoder is None:
        raise UsageError(f"{type(model).__name__} has no encoder of this package: give one of its models.")
    return encoder


def target_layers(model: Any) -> list[nn.Module]:
    """Return the layer for pytorch-grad-cam's `target_layers`: what the last block's attention reads.

    After that block only the tokens that pooling reads have gradients. Raises UsageError for a model of another kind.
    """
    return [_encoder(model).layers[-1].layernorm_before]


def reshape_transform(model: Any, image_hw: tuple[int, int] | None = None) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return pytorch-grad-cam's `reshape_transform`: tokens [B, N, D] → feature maps [B, D, h, w].

    image_hw: height and width of the images, by default the configuration's.   Raises UsageError for a model of another
    kind, and for one that merges tokens, whose last tokens are no grid: set config.token_merging to None.
    """
    encoder = _encoder(model)
    config = encoder.config
    if config.token_merging is not None:
        raise UsageError(
            f"token_merging={config.token_merging!r}: merged tokens are no grid. Set config.token_merging to None, or "
            "use modeling_vit_custom.explain, which knows what was merged."
        )
    grid, prefix = grid_of(config, image_hw or config.image_hw), config.num_prefix_tokens

    def reshaped(tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, prefix:].transpose(1, 2).unflatten(2, grid)

    return reshaped


def outputs_alone(model: Any) -> nn.Module:
    """Return a module whose forward returns the model's outputs [B, K] alone, as these libraries want."""
    return OutputOf(model, task_of(unwrapped(model).config).listing.output)
