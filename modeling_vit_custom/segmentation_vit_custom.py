"""Semantic segmentation: the encoder with a head that scores the classes at every place of the image.

Shapes: B batch, C channels, H×W pixels, p×q patch, h×w grid, D width of the encoder, k blocks that the head reads,
M width of the head, K classes, u×v logits of a patch.
"""

import math

import torch
from torch import nn
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_vit_custom import ViTCustomConfig
from .heads_vit_custom import SegmentationOptions, options_of, with_options
from .interpolation_vit_custom import shrink_images
from .labels_vit_custom import reject_field
from .layers_vit_custom import ChannelNorm, layer_norm
from .loss_vit_custom import semantic_segmentation_loss
from .modeling_vit_custom import ViTCustomModel
from .pretrained_vit_custom import ViTCustomPreTrainedModel
from .token_merging_vit_custom import unmerge

LOGIT_PIXELS = 4  # side of the square of pixels that one logit of the upscaling head stands for, about
_MAX_WIDTH = 256  # of the upscaling layers, unless the head's options say otherwise


def doublings(patch_hw: tuple[int, int]) -> list[int]:
    """Return how often each axis of the grid is doubled, until a logit stands for 2.8 to 5.7 pixels of a patch."""
    return [max(0, round(math.log2(side / LOGIT_PIXELS))) for side in patch_hw]


class ViTCustomUpscale(nn.Sequential):
    """A feature map with one or both axes doubled, [B, M, h, w] → [B, M, 2h, 2w].

    The layers are those of EoMT (Kerssies et al. 2025, arXiv 2503.19108).
    """

    def __init__(self, width: int, factors: tuple[int, int], eps: float):
        super().__init__(
            nn.ConvTranspose2d(width, width, factors, stride=factors),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            ChannelNorm(width, eps=eps),
        )


class ViTCustomSegmentationHead(nn.Module):
    """Class scores from the patches of k blocks, k × [B, h·w, D] → [B, K, u·h, v·w].

    Its own norm acts where the encoder has none on its tokens.
    """

    def __init__(self, config: ViTCustomConfig, options: SegmentationOptions):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.norm = layer_norm(width, eps, config.final_norm != "tokens")
        features = width * len(options.blocks or [-1])
        self.doublings = [0, 0] if options.head == "linear" else doublings(config.patch_hw)
        layers: list[nn.Module] = []
        if options.head == "upscale":
            channels = options.width or min(width, _MAX_WIDTH)
            layers = [nn.Conv2d(features, channels, 1), ChannelNorm(channels, eps=eps), nn.GELU()]
            rows, columns = self.doublings
            for step in range(max(rows, columns)):
                layers += [ViTCustomUpscale(channels, (1 + (step < rows), 1 + (step < columns)), eps)]
            features = channels
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Conv2d(features, config.num_labels or 0, 1)

    def forward(self, patches: list[torch.Tensor], grid: tuple[int, int]) -> torch.Tensor:
        features = torch.cat([self.norm(each) for each in patches], dim=2)  # [B, h·w, k·D]
        return self.classifier(self.layers(features.transpose(1, 2).unflatten(2, grid)))

    def check_resize(self, config: ViTCustomConfig):
        """Raise ValueError if `resize_to(config)` is impossible."""
        if any(self.doublings) and doublings(config.patch_hw) != self.doublings:
            raise ValueError(
                f"patch_size={config.patch_size}: the segmentation head has layers for patches of another size. Start "
                "a new head: save ViTCustomModel.from_pretrained(…, patch_size=…), and load the head's class from it."
            )

    def resize_to(self, config: ViTCustomConfig):
        """Keep all weights, which fit every size that `check_resize` accepts."""


class ViTCustomForSemanticSegmentation(ViTCustomPreTrainedModel):
    """Gives every pixel a class, by a head on the patches; options `config.heads`, kind "image-segmentation".

    An image whose sides are no multiples of the patch is shrunk to whole patches, so that the logits always cover all
    of it: resize them to the image, as the processor's `post_process_semantic_segmentation` does.
    """

    head_kind = "image-segmentation"
    head_prefixes = ("decode_head.",)
    label_prefixes = ("decode_head.classifier.",)

    def __init__(self, config: ViTCustomConfig):
        config = with_options(config, self.head_kind)
        super().__init__(config)
        options = options_of(config.heads, self.head_kind)
        _check_options(options, config)
        self.blocks: list[int] | None = options.blocks
        self.ignore_index: int = options.ignore_index
        self.vit = ViTCustomModel(config, add_pooling_layer=False)
        self.decode_head = ViTCustomSegmentationHead(config, options)
        self.loss_function = semantic_segmentation_loss
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SemanticSegmenterOutput:
        """Return logits [B, K, u·h, v·w] of images [B, C, H, W] and, if labels are given, the loss.

        labels: [B, H, W] class ids, of any H×W that shows the same as the image; -100 and the head's `ignore_index`
        leave a pixel out. Only pixels of -100 are also left out of the count with which Trainer accumulates gradients.
        """
        pixel_values = self._whole_patches(pixel_values)
        shown = kwargs.get("output_hidden_states")
        shown = self.config.output_hidden_states if shown is None else shown
        several = self.blocks is not None
        if several:
            kwargs["output_hidden_states"] = True
        outputs = self.vit(
            pixel_values, attention_mask=attention_mask, output_tokens=several, return_dict=True, **kwargs
        )
        patches = [each[:, self.config.num_prefix_tokens :] for each in self._features(outputs)]
        logits = self.decode_head(patches, self.config.grid_of(pixel_values.shape[2:]))
        loss = None if labels is None else self.loss_function(labels, logits, self.ignore_index, **kwargs)
        return SemanticSegmenterOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states if shown else None,
            attentions=outputs.attentions,
        )

    def _features(self, outputs) -> list[torch.Tensor]:
        """The tokens [B, N, D] after each block that the head reads, normed as those of the last."""
        if self.blocks is None:
            return [outputs.last_hidden_state]
        after = [unmerge(outputs.hidden_states[block], outputs.tokens[block - 1]) for block in self.blocks]
        return [self.vit.layernorm(each) for each in after]

    def _whole_patches(self, images: torch.Tensor) -> torch.Tensor:
        """Images shrunk to whole patches; those that the encoder refuses stay as they are."""
        if images.ndim != 4:
            return images
        (h, w), (p, q) = self.config.grid_of(images.shape[2:]), self.config.patch_hw
        return shrink_images(images, (h * p, w * q)) if h and w else images


def _check_options(options: SegmentationOptions, config: ViTCustomConfig):
    """Raise ValueError for options that do not fit the encoder or the labels."""
    labels = config.num_labels or 0
    if labels < 2:
        fix = "name at least two classes in id2label, of which one may be the background"
        reject_field("num_labels", labels, fix)
    if options.blocks and options.blocks[-1] > config.num_hidden_layers:
        reject_field("blocks", options.blocks, f"the encoder has num_hidden_layers={config.num_hidden_layers}")
    if 0 <= options.ignore_index < labels:
        fix = f"it is the id of a class (num_labels={labels}); use -100 or another id"
        reject_field("ignore_index", options.ignore_index, fix)


ViTCustomForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
# `pipeline("image-segmentation")` calls models unsupported whose names are not in this table of transformers.
MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[ViTCustomConfig.model_type] = ViTCustomForSemanticSegmentation.__name__
