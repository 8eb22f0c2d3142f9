"""What every model here shares: initial weights, loading at any input size, and the code that travels along."""

import copy
import os
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.image_utils import SizeDict
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

from .configuration_vit_custom import Size, ViTCustomConfig
from .layers_vit_custom import LayerScale
from .pipeline_vit_custom import ViTCustomImageClassificationPipeline

logger = logging.get_logger(__name__)

# Fields that describe the input: stored weights are resampled when these change, never re-initialised.
INPUT_FIELDS = ("image_size", "patch_size", "num_channels")
# The one layer whose shape follows the labels: another number of classes means a new one.
HEAD_PREFIX = "classifier."
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder", "proxies")


class ViTCustomPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and resizing of all ViT Custom models."""

    config_class = ViTCustomConfig
    base_model_prefix = "vit"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["ViTCustomEmbeddings", "ViTCustomBlock"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _input_embed_layer = "patch_embeddings"
    image_classification_pipeline = ViTCustomImageClassificationPipeline  # its file is saved along for this line

    def __init__(self, config: ViTCustomConfig, *args: Any, **kwargs: Any):
        config.validate()
        super().__init__(config, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module):
        super()._init_weights(module)
        if isinstance(module, LayerScale):
            init.constant_(module.lambda1, module.init_value)
        elif initialise := getattr(module, "init_own_parameters", None):
            initialise(self.config.initializer_range)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *model_args,
        config: ViTCustomConfig | str | os.PathLike | None = None,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        **kwargs,
    ):
        """Load as transformers does, and at any input size.

        `image_size`, `patch_size` or `num_channels`, as keywords or in `config`, may differ from what was stored: the
        weights are loaded at their own size, then resampled, and a warning says so. Another `num_labels` gives a
        newly initialised head, also said. Raises RuntimeError, naming the keys, where any other shape differs,
        unless `ignore_mismatched_sizes`.
        """
        requested = {name: kwargs.pop(name) for name in INPUT_FIELDS if name in kwargs}
        if config is not None and pretrained_model_name_or_path is not None:
            config, requested = _at_stored_input(cls, pretrained_model_name_or_path, config, requested, kwargs)
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path,
            *model_args,
            config=config,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **kwargs,
        )
        model, info = loaded
        _check_mismatches(info["mismatched_keys"], ignore_mismatched_sizes)
        if requested:
            model.resize_input(**requested)
        return (model, info) if output_loading_info else model

    @torch.no_grad()
    def resize_input(
        self,
        image_size: Size | None = None,
        patch_size: Size | None = None,
        num_channels: int | None = None,
    ) -> "ViTCustomPreTrainedModel":
        """Resample position table and patch kernel in place for another input; returns the model.

        The config follows. `resize_input(model, processor, size)` changes the image processor as well.
        """
        values = (
            tuple(value) if isinstance(value, list) else value for value in (image_size, patch_size, num_channels)
        )
        changes = {
            name: value
            for name, value in zip(INPUT_FIELDS, values, strict=True)
            if value is not None and value != getattr(self.config, name)
        }
        if not changes:
            return self
        target = copy.deepcopy(self.config)
        for name, value in changes.items():
            setattr(target, name, value)
        target.validate()
        for module in self.modules():
            if resize_to := getattr(module, "resize_to", None):
                resize_to(target)
        said = [f"{name} {getattr(self.config, name)} -> {value}" for name, value in changes.items()]
        logger.warning(
            f"Resampled weights for {', '.join(said)} (grid {self.config.grid_hw} -> {target.grid_hw}). "
            "Accuracy may need a short fine-tuning at the new size."
        )
        for name, value in changes.items():
            setattr(self.config, name, value)
        return self


def resize_input(model: ViTCustomPreTrainedModel, processor: Any, size: Size):
    """Make a model and its image processor take images of `size` pixels, an int or (height, width).

    The processor's resize and crop keep their proportion to each other. Returns (model, processor), both changed
    in place.
    """
    old = model.config.image_hw
    model.resize_input(image_size=size)
    height, width = model.config.image_hw
    if processor.do_center_crop:
        processor.crop_size = SizeDict(height=height, width=width)
        scale = max(height / old[0], width / old[1])
        processor.size = SizeDict(**{edge: round(length * scale) for edge, length in dict(processor.size).items()})
    else:
        processor.size = SizeDict(height=height, width=width)
    return model, processor


def _at_stored_input(cls, path, config, requested: dict, kwargs: dict) -> tuple[Any, dict]:
    """`config` with the input fields of the stored weights, and the changes that lead back to what was asked for.

    A config named by its path gets those fields as keywords, in `kwargs`. Weights stored without a configuration are
    taken to fit the given one.
    """
    hub = {name: kwargs[name] for name in _HUB_OPTIONS if name in kwargs}
    by_path = not isinstance(config, PreTrainedConfig)
    given = cls.config_class.from_pretrained(config, **hub) if by_path else config
    fields, _ = cls.config_class.get_config_dict(path, **hub)
    stored = cls.config_class.from_dict(fields) if fields else given
    wanted = {name: requested.get(name, getattr(given, name)) for name in INPUT_FIELDS}
    at_stored = {name: getattr(stored, name) for name in INPUT_FIELDS}
    if by_path:
        kwargs.update(at_stored)
    else:
        config = copy.deepcopy(config)
        for name, value in at_stored.items():
            setattr(config, name, value)
    return config, {name: value for name, value in wanted.items() if value != at_stored[name]}


def _check_mismatches(mismatched: Any, allowed: bool):
    if not mismatched:
        return
    entries = sorted((str(key), tuple(stored), tuple(needed)) for key, stored, needed in mismatched)
    shapes = "; ".join(f"{key} stored {stored}, needed {needed}" for key, stored, needed in entries)
    if not allowed and not all(key.startswith(HEAD_PREFIX) for key, _, _ in entries):
        raise RuntimeError(
            f"These weights do not fit the configuration: {shapes}. Load with the stored configuration, or pass "
            "ignore_mismatched_sizes=True to initialise them anew."
        )
    logger.warning(f"NEWLY INITIALISED, train before use: {shapes}.")
