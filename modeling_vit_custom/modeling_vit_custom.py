"""The Vision Transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) and its heads.

Shapes: B batch, C channels, H×W pixels, p×q patch, h×w grid, P prefix tokens, N = P + h·w tokens, D width,
k·D pooled width, K classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.backbone_utils import BackboneMixin, filter_output_hidden_states
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BackboneOutput,
    BaseModelOutputWithPooling,
    ImageClassifierOutput,
    MaskedImageModelingOutput,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention_vit_custom import ViTCustomAttention
from .configuration_vit_custom import ViTCustomConfig
from .embeddings_vit_custom import ViTCustomEmbeddings, masked_pixels
from .interpolation_vit_custom import RESIZE_RULES, resize_grid, shrink_images
from .layers_vit_custom import PatchDropout, drop_path, layer_norm, layer_scale, mlp
from .loss_vit_custom import image_classification_loss
from .pooling_vit_custom import ViTCustomPooler
from .position_vit_custom import rope_angles, rope_of
from .pretrained_vit_custom import ViTCustomPreTrainedModel
from .quantized_vit_custom import check_resampling
from .token_merging_vit_custom import Tokens, counts_for, merge, unmerge


class ViTCustomBlock(GradientCheckpointingLayer):
    """A pre-norm block: attention, then MLP, each on a residual branch; [B, N, D] → [B, N - merged, D].

    `first`: only so many first tokens are computed, [B, first, D]; they attend to all the same.
    """

    def __init__(self, config: ViTCustomConfig, drop_path_rate: float):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.num_prefix_tokens = config.num_prefix_tokens
        self.layernorm_before = nn.LayerNorm(width, eps=eps)
        self.attention = ViTCustomAttention(config)
        self.layer_scale1 = layer_scale(width, config.layer_scale_init_value)
        self.layernorm_after = nn.LayerNorm(width, eps=eps)
        self.mlp = mlp(
            width, config.intermediate_size, config.hidden_act, config.hidden_dropout_prob, config.use_gated_mlp
        )
        self.layer_scale2 = layer_scale(width, config.layer_scale_init_value)
        self.drop_path = drop_path(drop_path_rate)

    def forward(
        self,
        hidden_states: torch.Tensor,
        tokens: Tokens,
        attention_mask: torch.Tensor | None = None,
        merged: int = 0,
        first: int | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, Tokens]:
        normed = self.layernorm_before(hidden_states)
        read, context = (normed, None) if first is None else (normed[:, :first], normed)
        attended, _, keys = self.attention(
            read, attention_mask, tokens.rope, context=context, bias=tokens.bias, **kwargs
        )
        hidden_states = hidden_states[:, :first] + self.drop_path(self.layer_scale1(attended))
        hidden_states, tokens = merge(hidden_states, tokens, keys, merged, self.num_prefix_tokens)
        del normed, read, context, attended, keys  # an MLP takes the most memory of a forward
        transformed = self.mlp(self.layernorm_after(hidden_states))
        return hidden_states + self.drop_path(self.layer_scale2(transformed)), tokens


class ViTCustomModel(ViTCustomPreTrainedModel):
    """The encoder: embeddings → blocks → norm → pooling.

    `add_pooling_layer=False` leaves pooling out; `use_mask_token=True` adds the token that masked patches become.
    """

    _can_record_outputs = {
        "hidden_states": ViTCustomBlock,
        "attentions": OutputRecorder(ViTCustomAttention, index=1, layer_name="layers"),
        "tokens": OutputRecorder(ViTCustomBlock, index=1),
    }

    def __init__(self, config: ViTCustomConfig, add_pooling_layer: bool = True, use_mask_token: bool = False):
        super().__init__(config)
        self.embeddings = ViTCustomEmbeddings(config, use_mask_token=use_mask_token)
        # Heads that need every patch, such as maps and reconstructions, pool nothing.
        drop_rate = config.patch_drop_rate if add_pooling_layer else 0.0
        self.patch_dropout = PatchDropout(drop_rate, config.num_prefix_tokens)
        self.layers = nn.ModuleList(ViTCustomBlock(config, rate) for rate in config.drop_path_rates())
        self.layernorm = layer_norm(config.hidden_size, config.layer_norm_eps, config.final_norm == "tokens")
        self.pooler = ViTCustomPooler(config) if add_pooling_layer else None
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pooled_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Encode images [B, C, H, W] of any size that holds a patch.

        bool_masked_pos [B, h·w]: True where a patch is replaced by the mask token. attention_mask [B, N]: 1 where a
        token may be attended to by the blocks; pooling takes every token all the same. pooled_only: the last block
        computes the tokens that pooling reads, and last_hidden_state holds these alone, merged ones where
        `token_merging` is on; otherwise it has every token again. Returns
        last_hidden_state [B, N, D] (fewer tokens while training with a `patch_drop_rate`), pooler_output [B, k·D]
        and, when asked for under any attention backend, hidden_states and attentions (one [B, heads, N, N] per block).
        """
        hidden_states = self.embeddings(pixel_values, bool_masked_pos)
        kwargs["output_attentions"] = kwargs.get("output_attentions", self.config.output_attentions)
        attention_mask = self._attention_mask(attention_mask, hidden_states, kwargs["output_attentions"])
        angles = self._rope_angles(pixel_values.shape[2:], hidden_states)
        hidden_states, angles = self.patch_dropout(hidden_states, angles)
        tokens = Tokens(angles=angles, rope=None if angles is None else rope_of(angles))
        *body, last = zip(self.layers, self._merge_counts(hidden_states.shape[1]), strict=True)
        for layer, merged in body:
            hidden_states, tokens = layer(hidden_states, tokens, attention_mask, merged, **kwargs)
        (layer, merged), read = last, self._tokens_read(kwargs) if pooled_only and attention_mask is None else None
        merged = merged if read is None else 0
        hidden_states, tokens = layer(hidden_states, tokens, attention_mask, merged, read, **kwargs)
        hidden_states = self.layernorm(hidden_states)
        pooled = None if self.pooler is None else self.pooler(hidden_states, tokens.sizes)
        every = hidden_states if pooled_only else unmerge(hidden_states, tokens, self.config.num_prefix_tokens)
        return BaseModelOutputWithPooling(last_hidden_state=every, pooler_output=pooled)

    def _tokens_read(self, asked: Mapping[str, Any]) -> int | None:
        """How many first tokens of the last block are read where nothing but the pooled vector is; None for all."""
        shown = (asked.get(name, getattr(self.config, name)) for name in ("output_hidden_states", "output_attentions"))
        return None if self.pooler is None or any(shown) else self.pooler.first_tokens

    def _rope_angles(self, image_hw: Sequence[int], hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Rotary positions of the patches of images of this size, where the configuration has them."""
        if self.config.rope_theta is None:
            return None
        return rope_angles(self.config.grid_of(image_hw), self.config.head_dim, self.config.rope_theta, hidden_states)

    def _merge_counts(self, tokens: int) -> list[int]:
        """How many patches each block merges, by `token_merging`."""
        return counts_for(self.config, self.config.token_merging, tokens - self.config.num_prefix_tokens)

    def _attention_mask(self, mask: torch.Tensor | None, hidden_states: torch.Tensor, eager: bool | None):
        """The mask in the form its backend reads; attentions are asked of the eager one."""
        if mask is None:
            return None
        if self.patch_dropout.active:
            raise ValueError(
                f"attention_mask cannot be given while training with patch_drop_rate={self.patch_dropout.rate}: "
                "the patches it names are drawn anew. Leave one of them out."
            )
        if self.config.token_merging is not None:
            raise ValueError("attention_mask names single tokens: set config.token_merging to None, or leave it out.")
        if mask.ndim == 2 and mask.shape != hidden_states.shape[:2]:
            raise ValueError(
                f"attention_mask has shape {tuple(mask.shape)}: give one entry per token, the "
                f"{self.config.num_prefix_tokens} prefix tokens first, {tuple(hidden_states.shape[:2])}."
            )
        if eager and mask.ndim == 2:
            return mask[:, None, None, :].bool()
        return create_bidirectional_mask(config=self.config, inputs_embeds=hidden_states, attention_mask=mask)


@dataclass
class ViTCustomImageClassifierOutput(ImageClassifierOutput):
    """cls_logits, distillation_logits: [B, K], where `output_token_logits` asks for them; `logits` is their mean."""

    cls_logits: torch.Tensor | None = None
    distillation_logits: torch.Tensor | None = None


class ViTCustomForImageClassification(ViTCustomPreTrainedModel):
    """The encoder with one linear layer on the pooled vector; `num_labels=0` returns that vector as logits.

    `pre_logits_size` puts a linear layer and a tanh before it (Dosovitskiy et al. 2021, section 3.1).
    """

    def __init__(self, config: ViTCustomConfig):
        super().__init__(config)
        self.vit = ViTCustomModel(config)
        width = config.pre_logits_size or config.pooled_size
        self.pre_logits = (
            nn.Sequential(nn.Linear(config.pooled_size, width), nn.Tanh()) if config.pre_logits_size else nn.Identity()
        )
        self.classifier = nn.Linear(width, config.num_labels) if config.num_labels else nn.Identity()
        self.loss_function = image_classification_loss
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        output_token_logits: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ViTCustomImageClassifierOutput:
        """Logits [B, K] of images [B, C, H, W], and the loss where labels are given.

        labels: [B] class ids, [B, K] soft targets or multi-hot, or regression targets; see `loss_vit_custom`.
        output_token_logits: with pooling="cls_register" also those of the class token and of the register alone, as
        DeiT's distillation needs them (Touvron et al. 2021, arXiv 2012.12877).
        """
        if self.config.shrink_hw is not None:
            pixel_values = shrink_images(pixel_values, self.config.shrink_hw)
        outputs = self.vit(pixel_values, attention_mask=attention_mask, pooled_only=True, return_dict=True, **kwargs)
        pooled = self.pre_logits(outputs.pooler_output)
        logits = self.classifier(pooled)
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        cls_logits, distillation_logits = self._token_logits(pooled) if output_token_logits else (None, None)
        return ViTCustomImageClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cls_logits=cls_logits,
            distillation_logits=distillation_logits,
        )

    def _token_logits(self, pooled: torch.Tensor) -> list[torch.Tensor]:
        """[B, 2·D] → [B, K] twice: a head on each token, both with the classifier's bias; their mean is the logits.

        The head is called, on each token doubled beside zeros in the other's place: its weights can be adapted,
        quantised or elsewhere until it is.
        """
        if not self.config.has_distillation_token or not self.config.num_labels:
            raise ValueError(
                'output_token_logits needs a head on two tokens: pooling="cls_register", without pre_logits_size.'
            )
        first, second = (2 * pooled).chunk(2, dim=1)
        nothing = torch.zeros_like(first)
        alone = torch.cat([torch.cat([first, nothing], dim=1), torch.cat([nothing, second], dim=1)])  # [2·B, 2·D]
        return list(self.classifier(alone).chunk(2))


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
        """Raises ValueError where `resize_to` this configuration cannot be."""
        if self.shape != (config.num_channels, *config.patch_hw):
            check_resampling(self.projection, "weight", nn.Linear)

    @torch.no_grad()
    def resize_to(self, config: ViTCustomConfig):
        """Resample what is predicted for a patch; new channels repeat the old ones."""
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
    """Predict the pixels of masked patches with one linear layer (SimMIM; Xie et al. 2022, arXiv 2111.09886)."""

    def __init__(self, config: ViTCustomConfig):
        super().__init__(config)
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
        """The reconstruction [B, C, h·p, w·q] and, with bool_masked_pos [B, h·w], the mean L1 loss on masked pixels.

        Masked pixels are seen by the loss alone: they are 0 for the stem, and behind it their token is the mask token.
        """
        outputs = self.vit(pixel_values, bool_masked_pos, attention_mask, return_dict=True, **kwargs)
        p, q = self.config.patch_hw
        h, w = self.config.grid_of(pixel_values.shape[2:])
        reconstruction = self.decoder(outputs.last_hidden_state[:, self.config.num_prefix_tokens :], (h, w))
        loss = None
        if bool_masked_pos is not None:
            mask = masked_pixels(bool_masked_pos, (h, w), (p, q))
            error = (pixel_values[:, :, : h * p, : w * q] - reconstruction).abs().float() * mask
            loss = error.sum() / (mask.sum() * self.config.num_channels).clamp(min=1)
        return MaskedImageModelingOutput(
            loss=loss,
            reconstruction=reconstruction,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class ViTCustomBackbone(BackboneMixin, ViTCustomPreTrainedModel):
    """The encoder as feature maps, for detection and segmentation heads; "stem" is the embeddings' output."""

    def __init__(self, config: ViTCustomConfig):
        super().__init__(config)
        self.vit = ViTCustomModel(config, add_pooling_layer=False)
        self.num_features = [config.hidden_size] * (config.num_hidden_layers + 1)
        self.post_init()

    @can_return_tuple
    @filter_output_hidden_states
    def forward(
        self,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BackboneOutput:
        """Feature maps [B, D, h, w] of the stages in `out_features`, or tokens where `reshape_hidden_states` is off."""
        kwargs["output_hidden_states"] = True
        merged: Any = {"output_tokens": self.config.token_merging is not None}
        outputs = self.vit(pixel_values, attention_mask=attention_mask, return_dict=True, **kwargs, **merged)
        recorded = [Tokens(), *(outputs.get("tokens") or [Tokens()] * (len(self.stage_names) - 1))]
        maps: Any = tuple(
            self._feature_map(unmerge(hidden_states, tokens, self.config.num_prefix_tokens), pixel_values)
            for stage, hidden_states, tokens in zip(self.stage_names, outputs.hidden_states, recorded, strict=True)
            if stage in self.out_features
        )
        return BackboneOutput(feature_maps=maps, hidden_states=outputs.hidden_states, attentions=outputs.attentions)

    def _feature_map(self, hidden_states: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        if self.config.apply_layernorm:
            hidden_states = self.vit.layernorm(hidden_states)
        if not self.config.reshape_hidden_states:
            return hidden_states
        patches = hidden_states[:, self.config.num_prefix_tokens :]  # [B, h·w, D]
        return patches.transpose(1, 2).unflatten(2, self.config.grid_of(pixel_values.shape[2:]))


ViTCustomModel.register_for_auto_class("AutoModel")
ViTCustomBackbone.register_for_auto_class("AutoBackbone")
ViTCustomForImageClassification.register_for_auto_class("AutoModelForImageClassification")
ViTCustomForMaskedImageModeling.register_for_auto_class("AutoModelForMaskedImageModeling")
