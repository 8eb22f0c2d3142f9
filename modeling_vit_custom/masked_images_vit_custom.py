"""Masked image modeling: the encoder with a head that predicts the pixels of masked patches.

Shapes: B batch, C channels, H×W pixels, p×q patch, h×w grid, D width.
"""

import math

import torch
from torch import nn
from transformers.modeling_outputs import MaskedImageModelingOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_vit_custom import ViTCustomConfig
from .embeddings_vit_custom import masked_pixels
from .heads_vit_custom import options_of
from .interpolation_vit_custom import RESIZE_RULES, resize_grid
from .loss_vit_custom import PIXEL_ERRORS
from .modeling_vit_custom import ViTCustomModel
from .pretrained_vit_custom import ViTCustomPreTrainedModel
from .quantized_vit_custom import check_resampling


class ViTCustomPatchDecoder(nn.Module):
    """Predicts the pixels of each patch: [B, h·w, D] → [B, C, h·p, w·q]."""

    def __init__(self, config: ViTCustomConfig):
        super().__init__()
        self.shape = (config.num_channels, *config.patch_hw)
        self.projection = nn.Linear(config.hidden_size, math.prod(self.shape))

    def forward(self, patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        (channels, p, q), (h, w) = self.shape, grid
        pixels = self.projection(patches).view(-1, h, w, channels, p, q)
        return pixels.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, h * p, w * q)

    def check_resize(self, config: ViTCustomConfig):
        """Raise ValueError if `resize_to(config)` is impossible."""
        if self.shape != (config.num_channels, *config.patch_hw):
            check_resampling(self.projection, "weight", nn.Linear)

    @torch.no_grad()
    def resize_to(self, config: ViTCustomConfig):
        """Resample the projection in place for another patch size; new channels repeat the old ones."""
        if self.shape == (config.num_channels, *config.patch_hw):
            return
        channels, p, q = self.shape
        self.shape = (config.num_channels, *config.patch_hw)
        linear = self.projection
        order = torch.arange(config.num_channels, device=linear.weight.device) % channels
        for name in ("weight", "bias"):
            values = getattr(linear, name)
            table = values.view(channels, p, q, -1)[order].permute(1, 2, 0, 3)  # [p, q, C, D or 1]
            table = resize_grid(table, config.patch_hw, RESIZE_RULES["bilinear"]).permute(2, 0, 1, 3)
            resized = table.reshape(-1, *values.shape[1:])
            setattr(linear, name, nn.Parameter(resized, requires_grad=values.requires_grad))
        linear.out_features = len(linear.weight)


class ViTCustomForMaskedImageModeling(ViTCustomPreTrainedModel):
    """Predicts the pixels of masked patches with one linear layer (SimMIM; Xie et al. 2022, arXiv 2111.09886)."""

    head_kind = "masked-image-modeling"
    head_prefixes = ("decoder.", "vit.embeddings.mask_token")

    def __init__(self, config: ViTCustomConfig):
        super().__init__(config)
        self.loss = options_of(config.heads, self.head_kind).loss
        self.vit = ViTCustomModel(config, add_pooling_layer=False, use_mask_token=True)
        self.decoder = ViTCustomPatchDecoder(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedImageModelingOutput:
        """Return the reconstruction [B, C, h·p, w·q] and, with bool_masked_pos [B, h·w], the loss on masked pixels.

        The loss is the mean error of a pixel, of the kind that the head's option `loss` names. Only the loss sees
        masked pixels: the stem gets 0 for them, and after the stem the mask token replaces their patch.
        """
        outputs = self.vit(pixel_values, bool_masked_pos, attention_mask, return_dict=True, **kwargs)
        p, q = self.config.patch_hw
        h, w = self.config.grid_of(pixel_values.shape[2:])
        reconstruction = self.decoder(outputs.last_hidden_state[:, self.config.num_prefix_tokens :], (h, w))
        loss = None
        if bool_masked_pos is not None:
            mask = masked_pixels(bool_masked_pos, (h, w), (p, q))
            pixels = pixel_values[:, :, : h * p, : w * q]
            error = PIXEL_ERRORS[self.loss](reconstruction, pixels).float() * mask
            loss = error.sum() / (mask.sum() * self.config.num_channels).clamp(min=1)
        return MaskedImageModelingOutput(
            loss=loss,
            reconstruction=reconstruction,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


ViTCustomForMaskedImageModeling.register_for_auto_class("AutoModelForMaskedImageModeling")
