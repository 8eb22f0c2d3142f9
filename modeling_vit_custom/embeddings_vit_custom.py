"""From pixels to tokens: stem, prefix tokens, positions.

Shapes: B batch, C channels, H×W pixels, p×q patch, h×w grid of patches, P prefix tokens, N = P + h·w tokens, D width.
"""

import math
from typing import Any, cast

import torch
from torch import nn
from transformers import initialization as init

from .configuration_vit_custom import ViTCustomConfig
from .interpolation_vit_custom import COMPUTED, RESIZE_RULES, resize_channels, resize_grid, resize_patch_kernel
from .layers_vit_custom import ChannelNorm, dropout_of
from .position_vit_custom import sincos_table
from .quantized_vit_custom import check_resampling


class ViTCustomPatchEmbeddings(nn.Module):
    """Patch embedding, [B, C, H, W] → [B, D, h, w]: one convolution whose stride is the patch size."""

    def __init__(self, config: ViTCustomConfig):
        super().__init__()
        self.projection = nn.Conv2d(config.num_channels, config.hidden_size, config.patch_hw, stride=config.patch_hw)

    @property
    def first_convolution(self) -> nn.Conv2d:
        """The convolution that reads the image."""
        return self.projection

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.projection(pixel_values)


class ViTCustomConvStem(nn.Module):
    """Convolutional stem, [B, C, H, W] → [B, D, h, w]: 3×3 convolutions halve the image until a position is a patch.

    Early convolutions make a ViT learn faster from little data (Xiao et al. 2021, arXiv 2106.14881, table 1). A layer
    norm over channels replaces the batch norm of the paper, so that a prediction never depends on its batch.
    """

    def __init__(self, config: ViTCustomConfig):
        super().__init__()
        halvings = [int(math.log2(side)) for side in config.patch_hw]
        depth = max(halvings)
        widths = [max(config.hidden_size // 2 ** (depth - 1 - i), 1) for i in range(depth)]
        layers: list[nn.Module] = []
        channels = config.num_channels
        for i, width in enumerate(widths):
            stride = (2 if i < halvings[0] else 1, 2 if i < halvings[1] else 1)
            layers += [
                nn.Conv2d(channels, width, 3, stride=stride, padding=1),
                ChannelNorm(width, eps=config.layer_norm_eps),
                nn.ReLU(),
            ]
            channels = width
        self.layers = nn.Sequential(*layers)
        self.projection = nn.Conv2d(channels, config.hidden_size, 1)

    @property
    def first_convolution(self) -> nn.Conv2d:
        """The convolution that reads the image."""
        return cast(nn.Conv2d, self.layers[0])

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.projection(self.layers(pixel_values))


Stem = ViTCustomPatchEmbeddings | ViTCustomConvStem
STEMS: dict[str, type[Stem]] = {"patch": ViTCustomPatchEmbeddings, "conv": ViTCustomConvStem}


class ViTCustomEmbeddings(nn.Module):
    """Images [B, C, H, W] → tokens [B, N, D]: class token, register tokens, then patches with positions."""

    mask_token: Any  # parameter or None
    position_embeddings: Any  # parameter where learned, buffer where fixed, or None

    def __init__(self, config: ViTCustomConfig, use_mask_token: bool = False):
        super().__init__()
        self.config = config
        width, (h, w) = config.hidden_size, config.grid_hw
        self.num_prefix_tokens = config.num_prefix_tokens
        self._keep_input(config)
        self.patch_embeddings: Stem = STEMS[config.stem](config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if config.use_cls_token else None
        registers = config.num_register_tokens
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, width)) if registers else None
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width)) if use_mask_token else None
        if config.position_embedding == "learned":
            self.position_embeddings = nn.Parameter(torch.zeros(1, h * w, width))
        elif config.position_embedding == "sincos2d":
            self.register_buffer("position_embeddings", sincos_table((h, w), width)[None])
        else:
            self.position_embeddings = None
        self.dropout = dropout_of(config.hidden_dropout_prob)
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps) if config.embedding_norm else None

    def forward(self, pixel_values: torch.Tensor, bool_masked_pos: torch.Tensor | None = None) -> torch.Tensor:
        pixel_values = self._whole_patches(pixel_values)
        if bool_masked_pos is not None:
            pixel_values = self._hide(pixel_values, bool_masked_pos)
        patches = self.patch_embeddings(pixel_values)  # [B, D, h, w]
        grid = patches.shape[2:]
        patches = patches.flatten(2).transpose(1, 2)  # [B, h·w, D]
        if bool_masked_pos is not None:
            patches = torch.where(bool_masked_pos.bool()[:, :, None], self.mask_token.to(patches.dtype), patches)
        if self.position_embeddings is not None:
            patches = patches + self.positions(grid).to(pixel_values.dtype)  # a loaded buffer keeps its own dtype
        prefix = [token for token in (self.cls_token, self.register_tokens) if token is not None]
        tokens = torch.cat([token.expand(patches.shape[0], -1, -1) for token in prefix] + [patches], dim=1)
        if self.dropout is not None:
            tokens = self.dropout(tokens)
        return tokens if self.layernorm is None else self.layernorm(tokens)

    def positions(self, grid: tuple[int, int]) -> torch.Tensor:
        """Return the position table [1, h·w, D] for any grid.

        For another grid than the stored one, `position_interpolation` says whether the stored table is resampled or a
        new one is computed.
        """
        for_any = any(isinstance(side, torch.SymInt) for side in grid)  # an export keeps sizes symbolic
        if not for_any and tuple(grid) == self.grid_hw:
            return self.position_embeddings
        rule = self.config.position_interpolation
        if rule == COMPUTED:
            return sincos_table(grid, self.config.hidden_size)[None].to(self.position_embeddings)
        table = self.position_embeddings.unflatten(1, self.grid_hw)[0]  # [h, w, D]
        return resize_grid(table, grid, RESIZE_RULES[rule]).flatten(0, 1)[None]

    def check_resize(self, config: ViTCustomConfig):
        """Raise ValueError if `resize_to(config)` is impossible."""
        if config.stem == "conv" and config.patch_hw != self.config.patch_hw:
            raise ValueError(
                f"patch_size={config.patch_size}: a conv stem is built for patch_size={self.config.patch_size} "
                "and cannot be resampled. Keep it, or change image_size instead."
            )
        if self.position_embeddings is not None and config.grid_hw != self.config.grid_hw:
            check_resampling(self, "position_embeddings")
        if (config.num_channels, config.patch_hw) != (self.config.num_channels, self.config.patch_hw):
            check_resampling(self.patch_embeddings.first_convolution, "weight", nn.Conv2d)

    @torch.no_grad()
    def resize_to(self, config: ViTCustomConfig):
        """Resample the position table and the first convolution in place for the input that `config` describes."""
        if self.position_embeddings is not None and config.grid_hw != self.config.grid_hw:
            table = self.positions(config.grid_hw)
            learned = config.position_embedding == "learned"
            self.position_embeddings = _like(self.position_embeddings, table) if learned else table
        conv = self.patch_embeddings.first_convolution
        if config.num_channels != self.config.num_channels:
            conv.weight = _like(conv.weight, resize_channels(conv.weight, config.num_channels))
            conv.in_channels = config.num_channels
        if config.patch_hw != self.config.patch_hw:
            conv.weight = _like(conv.weight, resize_patch_kernel(conv.weight, config.patch_hw))
            conv.kernel_size = conv.stride = config.patch_hw
        self._keep_input(config)

    def _keep_input(self, config: ViTCustomConfig):
        """Keep what every forward reads of the configuration: a lookup there costs five Python calls."""
        self.num_channels, self.patch_hw, self.grid_hw = config.num_channels, config.patch_hw, config.grid_hw

    def init_own_parameters(self, std: float):
        """Initialise the prefix tokens and learned positions from a truncated normal of standard deviation `std`.

        The mask token becomes 0; fixed positions are computed.
        """
        for token in (self.cls_token, self.register_tokens):
            if token is not None:
                init.trunc_normal_(token, std=std)
        if self.mask_token is not None:
            init.zeros_(self.mask_token)
        if self.config.position_embedding == "learned":
            init.trunc_normal_(self.position_embeddings, std=std)
        elif self.config.position_embedding == "sincos2d":
            init.copy_(self.position_embeddings, sincos_table(self.config.grid_hw, self.config.hidden_size)[None])

    def _whole_patches(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The image cropped to whole patches, in the dtype of the weights; ValueError for an impossible shape."""
        channels, patch = self.num_channels, self.patch_hw
        if pixel_values.ndim != 4 or pixel_values.shape[1] != channels:
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}: this model takes [batch, {channels}, "
                "height, width]. Use the image processor saved with it, or load the model with num_channels=…"
            )
        h, w = (side // cell for side, cell in zip(pixel_values.shape[2:], patch, strict=True))
        if h == 0 or w == 0:
            raise ValueError(
                f"pixel_values has {pixel_values.shape[2]}x{pixel_values.shape[3]} pixels: fewer than one patch of "
                f"patch_size={self.config.patch_size}. Resize the image."
            )
        return pixel_values[:, :, : h * patch[0], : w * patch[1]].to(
            self.patch_embeddings.first_convolution.weight.dtype
        )

    def _hide(self, pixel_values: torch.Tensor, bool_masked_pos: torch.Tensor) -> torch.Tensor:
        """The image with masked patches set to 0, the mean colour: the kernels of a conv stem cross patch borders."""
        if self.mask_token is None:
            raise ValueError("bool_masked_pos needs a mask token: use ViTCustomForMaskedImageModeling.")
        h, w = self.config.grid_of(pixel_values.shape[2:])
        if bool_masked_pos.shape != (len(pixel_values), h * w):
            raise ValueError(
                f"bool_masked_pos has shape {tuple(bool_masked_pos.shape)}: give one entry per patch, "
                f"{(len(pixel_values), h * w)}."
            )
        return pixel_values.masked_fill(masked_pixels(bool_masked_pos, (h, w), self.config.patch_hw), 0)


def masked_pixels(bool_masked_pos: torch.Tensor, grid: tuple[int, int], patch_hw: tuple[int, int]) -> torch.Tensor:
    """Return the pixel mask, bool [B, 1, h·p, w·q], of a patch mask [B, h·w] that is True where a patch is masked."""
    mask = bool_masked_pos.bool().view(-1, 1, *grid)
    return mask.repeat_interleave(patch_hw[0], 2).repeat_interleave(patch_hw[1], 3)


def _like(old: torch.Tensor, data: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(data, requires_grad=old.requires_grad)
