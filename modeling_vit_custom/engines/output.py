"""A model as a function from pixel values to its task's output, which is what an engine runs.

Shapes: B batch, C channels, h, w the model's input size, K outputs.
"""

import copy
from functools import cached_property

import torch
from torch import nn

from ..attention_vit_custom import ViTCustomAttention


class OutputOf(nn.Module):
    """A transformers model as a function: pixel_values [B, C, h, w] -> its output [B, K] named `field`."""

    def __init__(self, model: nn.Module, field: str):
        super().__init__()
        self.model, self.field = model, field

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return getattr(self.model(pixel_values=pixel_values), self.field)

    @cached_property
    def fused_qkv(self) -> "OutputOf":
        """A copy that shares the parameters and has fused QKV: one product for a block's queries, keys and values."""
        with torch.inference_mode(False):
            copied = copy.deepcopy(self, {id(tensor): tensor for tensor in (*self.parameters(), *self.buffers())})
            for module in copied.modules():
                if isinstance(module, ViTCustomAttention):
                    module.fuse_qkv()
        return copied
