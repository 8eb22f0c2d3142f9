"""A model as a function from pixel values to logits, which is what an engine runs.

Shapes: B batch, C channels, h, w the model's input size, K classes.
"""

import copy
from functools import cached_property

import torch
from torch import nn

from ..attention_vit_custom import ViTCustomAttention


class LogitsOf(nn.Module):
    """pixel_values [B, C, h, w] -> logits [B, K], of a model of transformers' kind."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values).logits

    @cached_property
    def joined(self) -> "LogitsOf":
        """A copy that shares the parameters and gives each block's queries, keys and values by one product."""
        with torch.inference_mode(False):
            copied = copy.deepcopy(self, {id(tensor): tensor for tensor in (*self.parameters(), *self.buffers())})
            for module in copied.modules():
                if isinstance(module, ViTCustomAttention):
                    module.join_projections()
        return copied
