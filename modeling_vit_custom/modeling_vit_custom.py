"""The Vision Transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) and its heads.

Shapes: B batch, C channels, H×W pixels, p×q patch, h×w grid, P prefix tokens, N = P + h·w tokens, D width,
k·D pooled width, K classes.
"""

from collections.abc import Sequence
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
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention_vit_custom import Attend, ViTCustomAttention, attention_function
from .configuration_vit_custom import ViTCustomConfig
from .embeddings_vit_custom import ViTCustomEmbeddings
from .interpolation_vit_custom import shrink_images
from .layers_vit_custom import LayerScale, PatchDropout, drop_path, layer_norm, layer_scale, mlp
from .loss_vit_custom import image_classification_loss
from .pooling_vit_custom import ViTCustomPooler
from .position_vit_custom import rope_angles, rope_of
from .pretrained_vit_custom import ViTCustomPreTrainedModel
from .token_merging_vit_custom import NOTHING, Tokens, counts_for, merge, unmerge
from .unknown_vit_custom import ViTCustomUnknown


class Step:
    """The task of one block in one forward.

    merged: how many patches it merges.   first: how many of the first tokens it computes, None for all; they attend to
    every token.   attend: an `attention_function`, by default that of the configuration.
    left: the token state after a merge. The block writes it here instead of returning it, since hooks and tools expect
    a block to return one tensor; activation checkpointing runs the block twice and writes the same again.
    """

    def __init__(self, merged: int = 0, first: int | None = None, attend: Attend | None = None):
        self.merged, self.first, self.attend = merged, first, attend
        self.left: Tokens | None = None


WHOLE = Step()


class ViTCustomBlock(GradientCheckpointingLayer):
    """A pre-norm block: attention, then MLP, each on a residual branch; [B, N, D] → [B, N', D] as its `Step` says."""

    def __init__(self, config: ViTCustomConfig, drop_path_rate: float):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
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
        self, hidden_states: torch.Tensor, tokens: Tokens = NOTHING, step: Step = WHOLE, **kwargs
    ) -> torch.Tensor:
        normed = read = self.layernorm_before(hidden_states)
        if step.first is not None:
            hidden_states, read = hidden_states[:, : step.first], normed[:, : step.first]
        attended, _, keys = self.attention(read, tokens, normed, step.attend, **kwargs)
        hidden_states = hidden_states + self._branch(attended, self.layer_scale1)
        if step.merged:
            hidden_states, step.left = merge(hidden_states, tokens, keys, step.merged)
        del normed, read, attended, keys  # freed: the MLP needs the most memory of a forward
        transformed = self.mlp(self.layernorm_after(hidden_states))
        return hidden_states + self._branch(transformed, self.layer_scale2)

    def _branch(self, transformed: torch.Tensor, scale: LayerScale | None) -> torch.Tensor:
        scaled = transformed if scale is None else scale(transformed)
        return scaled if self.drop_path is None else self.drop_path(scaled)


class ViTCustomModel(ViTCustomPreTrainedModel):
    """The encoder: embeddings → blocks → norm → pooling.

    `add_pooling_layer=False` leaves pooling out; `use_mask_token=True` adds the token that replaces masked patches.
    """

    head_prefixes = ("pooler.",)
    _can_record_outputs = {
        "hidden_states": ViTCustomBlock,
        "attentions": OutputRecorder(ViTCustomAttention, index=1, layer_name="layers"),
    }

    def __init__(self, config: ViTCustomConfig, add_pooling_layer: bool = True, use_mask_token: bool = False):
        super().__init__(config)
        self.embeddings = ViTCustomEmbeddings(config, use_mask_token=use_mask_token)
        # Heads without pooling, such as feature maps and reconstruction, need every patch.
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
        output_tokens: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Encode images [B, C, H, W] of any size that holds a patch.

        bool_masked_pos: [B, h·w], True where the mask token replaces a patch.
        attention_mask: [B, N], 1 where the blocks may attend to a token; pooling reads every token anyway.
        pooled_only: return only what pooling needs. The last block computes only the tokens that pooling reads (unless
            there is a mask, or hidden_states or attentions are asked for), and merged tokens stay merged.
        output_tokens: return also `tokens`, the `Tokens` after each block.

        Returns last_hidden_state [B, N, D] (fewer tokens with `pooled_only`, or in training with a `patch_drop_rate`),
        pooler_output [B, k·D] and, if asked for, hidden_states and attentions, with any attention backend: one
        [B, heads, N, N] per block.
        """
        hidden_states = self.embeddings(pixel_values, bool_masked_pos)
        angles = self._rope_angles(pixel_values.shape[2:], hidden_states)
        eager = kwargs.pop("output_attentions", self.config.output_attentions)
        mask = self._attention_mask(attention_mask, hidden_states, eager)
        if self.patch_dropout.active:
            hidden_states, angles = self.patch_dropout(hidden_states, angles)
        rope = None if angles is None else rope_of(angles)
        tokens = Tokens(self.embeddings.num_prefix_tokens, mask, angles=angles, rope=rope)
        shown = eager or mask is not None or kwargs.get("output_hidden_states", self.config.output_hidden_states)
        first = None if self.pooler is None or shown or not pooled_only else self.pooler.first_tokens
        left: list[Tokens] = []
        for layer, step in zip(self.layers, self._plan(hidden_states.shape[1], first, eager), strict=True):
            hidden_states = layer(hidden_states, tokens, step, **kwargs)
            tokens = step.left or tokens
            left += [tokens]
        hidden_states = self.layernorm(hidden_states)
        pooled = None if self.pooler is None else self.pooler(hidden_states, tokens.sizes)
        every = hidden_states if pooled_only else unmerge(hidden_states, tokens)
        outputs = BaseModelOutputWithPooling(last_hidden_state=every, pooler_output=pooled)
        if output_tokens:
            outputs["tokens"] = tuple(left)
        return outputs

    def _plan(self, length: int, first: int | None, eager: bool | None) -> list[Step]:
        """One `Step` per block. length: tokens before the first.   first: how many the last computes, None for all."""
        setting, config = self.config.token_merging, self.config
        if setting is None:
            attend = attention_function(config, eager, False, first is not None)
            return [Step(0, None, attend)] * (len(self.layers) - 1) + [Step(0, first, attend)]
        counts = counts_for(config, setting, length - self.embeddings.num_prefix_tokens)
        if first is not None:
            counts[-1] = 0
        steps, biased = [], False
        for count in counts:
            steps.append(Step(count, None, attention_function(config, eager, biased, False)))
            biased = biased or count > 0
        if first is not None:
            steps[-1] = Step(0, first, attention_function(config, eager, biased, True))
        return steps

    def _rope_angles(self, image_hw: Sequence[int], hidden_states: torch.Tensor) -> torch.Tensor | None:
        """The rotary angles [h·w, d] of the patches of images of this size, None without `rope_theta`."""
        if self.config.rope_theta is None:
            return None
        return rope_angles(self.config.grid_of(image_hw), self.config.head_dim, self.config.rope_theta, hidden_states)

    def _attention_mask(self, mask: torch.Tensor | None, hidden_states: torch.Tensor, eager: bool | None):
        """The mask in the form that its backend reads; with `eager`, asked for attentions, that of eager attention."""
        if mask is None:
            return None
        if self.patch_dropout.active:
            raise ValueError(
                f"attention_mask cannot be given while training with patch_drop_rate={self.patch_dropout.rate}: "
                "the patches it names are drawn again. Leave one of them out."
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
    """Output of the classifier, with three fields more than in transformers.

    cls_logits, distillation_logits: [B, K], if `output_token_logits` asks for them; `logits` is their mean.
    pooler_output: [B, k·D], the input of the head; `to_tuple` leaves it out.
    """

    cls_logits: torch.Tensor | None = None
    distillation_logits: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the values that transformers has too, so that `loss, logits = …` unpacks."""
        return tuple(value for name, value in self.items() if name not in ("pooler_output", "typicality", "unknown"))


@dataclass
class ViTCustomUnknownOutput(ViTCustomImageClassifierOutput):
    """Output in eval mode of a classifier with `config.unknown`; `to_tuple` leaves its own fields out.

    typicality: [B], how typical each image is of those of the classes, from 0 to 1.   unknown: [B] of bool, whether
    that is too little to believe the logits.
    """

    typicality: torch.Tensor | None = None
    unknown: torch.Tensor | None = None


class ViTCustomForImageClassification(ViTCustomPreTrainedModel):
    """The encoder with a linear classifier on the pooled vector; with `num_labels=0` the logits are that vector.

    `pre_logits_size` puts a linear layer with tanh before the classifier (Dosovitskiy et al. 2021, section 3.1).
    """

    head_prefixes = ("vit.pooler.", "pre_logits.", "classifier.", "unknown.")
    label_prefixes = ("classifier.",)

    def __init__(self, config: ViTCustomConfig):
        super().__init__(config)
        self.vit = ViTCustomModel(config)
        width = config.pre_logits_size or config.pooled_size
        self.pre_logits = (
            nn.Sequential(nn.Linear(config.pooled_size, width), nn.Tanh()) if config.pre_logits_size else nn.Identity()
        )
        self.classifier = nn.Linear(width, config.num_labels) if config.num_labels else nn.Identity()
        labels = config.num_labels or 0
        self.unknown = ViTCustomUnknown(config.unknown, width, labels) if config.unknown else None
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
        """Return logits [B, K] of images [B, C, H, W] and, if labels are given, the loss.

        labels: [B] class ids, [B, K] soft or multi-hot targets, or regression targets; see `loss_vit_custom`.
        output_token_logits: with pooling="cls_register", return also the logits of the class token alone and of the
        register token alone, for DeiT's distillation (Touvron et al. 2021, arXiv 2012.12877).
        """
        if self.config.shrink_hw is not None:
            pixel_values = shrink_images(pixel_values, self.config.shrink_hw)
        outputs = self.vit(pixel_values, attention_mask=attention_mask, pooled_only=True, return_dict=True, **kwargs)
        pooled = self.pre_logits(outputs.pooler_output)
        logits = self.classifier(pooled)
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        cls_logits, distillation_logits = self._token_logits(pooled) if output_token_logits else (None, None)
        output = ViTCustomImageClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cls_logits=cls_logits,
            distillation_logits=distillation_logits,
            pooler_output=outputs.pooler_output,
        )
        if self.unknown is None or self.training:
            return output
        typicality = self.unknown(pooled, logits)
        return ViTCustomUnknownOutput(**output, typicality=typicality, unknown=typicality <= self.unknown.level)

    def _token_logits(self, pooled: torch.Tensor) -> list[torch.Tensor]:
        """Logits of each of the two tokens alone, [B, 2·D] → [B, K] twice; their mean is the logits.

        Both include the classifier's bias. The classifier is called with one token doubled and the other one zero; its
        weights are not sliced, since they may be adapted, quantised or offloaded.
        """
        if not self.config.has_distillation_token or not self.config.num_labels:
            raise ValueError(
                'output_token_logits needs a head on two tokens: pooling="cls_register", without pre_logits_size.'
            )
        first, second = (2 * pooled).chunk(2, dim=1)
        nothing = torch.zeros_like(first)
        alone = torch.cat([torch.cat([first, nothing], dim=1), torch.cat([nothing, second], dim=1)])  # [2·B, 2·D]
        return list(self.classifier(alone).chunk(2))


class ViTCustomBackbone(BackboneMixin, ViTCustomPreTrainedModel):
    """The encoder as feature maps, for detection and segmentation heads; stage "stem" is the embeddings' output."""

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
        """Return feature maps [B, D, h, w] of the stages in `out_features`; tokens without `reshape_hidden_states`."""
        kwargs["output_hidden_states"] = True
        outputs: Any = self.vit(
            pixel_values, attention_mask=attention_mask, output_tokens=True, return_dict=True, **kwargs
        )
        recorded = [Tokens(), *outputs.tokens]
        maps: Any = tuple(
            self._feature_map(unmerge(hidden_states, tokens), pixel_values)
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
