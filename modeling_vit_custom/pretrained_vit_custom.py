"""The base class of all models: initial weights, loading at any input size, and the checks while loading."""

import copy
import dataclasses
import os
import re
from itertools import accumulate
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.image_utils import SizeDict
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME, logging

from .configuration_vit_custom import Size, ViTCustomConfig
from .foreign_vit_custom import refuse_foreign_files
from .heads_vit_custom import of_kind
from .interpolation_vit_custom import COMPUTED
from .layers_vit_custom import LayerScale
from .pipeline_vit_custom import ViTCustomImageClassificationPipeline
from .quantized_vit_custom import is_finite, keep_new_layers_plain, linear_layers, misshapen, renew_misfits, shapes_of
from .speeds_vit_custom import apply_speed_preset
from .weight_files_vit_custom import Header, check_weight_map, read_headers, shorten_list

logger = logging.get_logger(__name__)

# Fields that describe the input: stored weights are resampled when these change, never re-initialised.
INPUT_FIELDS = ("image_size", "patch_size", "num_channels")
# The encoder's weights in any checkpoint, whichever head it has; the mask token is that of one head.
_ENCODER = re.compile(r"embeddings\.(?!mask_token)|layers\.|layernorm\.")
# Dtypes that hold the numbers of a weight one by one; other dtypes are a quantiser's own layout.
_WEIGHTS = ("F64", "F32", "F16", "BF16")
_ONLY_SAFETENSORS = (
    "Only safetensors are read: pickled weights (.bin, .pt) can run code. To convert a file that you trust: "
    "safetensors.torch.save_file(torch.load('pytorch_model.bin', weights_only=True), 'model.safetensors')."
)
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
    # Prefixes of the weights that the head adds to the encoder, which a checkpoint with another head lacks; and, of
    # these, of the layers whose shape follows the labels, of which other labels need new ones.
    head_prefixes: tuple[str, ...] = ()
    label_prefixes: tuple[str, ...] = ()
    unknown: Any  # of a classifier that answers "unknown"
    head_kind: str | None = None  # the kind of its options in `config.heads`, if it has any
    image_classification_pipeline = ViTCustomImageClassificationPipeline  # makes save_pretrained copy its file

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
        speed: str | None = None,
        **kwargs,
    ):
        """Load as transformers does, but only from safetensors, at any input size, and with a warning for new weights.

        `image_size`, `patch_size` or `num_channels`, as keywords or in `config`, may differ from the stored ones: the
        weights are loaded at their own size, then resampled, with a warning. A head that the checkpoint lacks or has
        for other labels, and a part that its stored configuration lacks, are newly initialised, also with a warning.
        speed: one of the configuration's `speeds`, such as "2x".

        Raises:
            WeightFileError: the header of a file is not valid.
            RuntimeError: the checkpoint lacks weights that its own configuration promises, holds others, or has them in
                another shape (`ignore_mismatched_sizes=True` turns these three into the warning); or a weight is NaN or
                infinite, or integer or complex without quantisation. The message names the weights.
            OSError: there is no safetensors file.
            ValueError: the checkpoint is of another library; the message holds the command that converts it.
        """
        if kwargs.get("use_safetensors") is False:
            raise ValueError(f"use_safetensors=False: leave it out. {_ONLY_SAFETENSORS}")
        kwargs["use_safetensors"] = True
        if pretrained_model_name_or_path is not None:
            refuse_foreign_files(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        requested = {name: kwargs.pop(name) for name in INPUT_FIELDS if name in kwargs}
        if config is not None and pretrained_model_name_or_path is not None:
            config, requested = _at_stored_input(cls, pretrained_model_name_or_path, config, requested, kwargs)
        try:
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path,
                *model_args,
                config=config,
                ignore_mismatched_sizes=ignore_mismatched_sizes,
                output_loading_info=True,
                **kwargs,
            )
        except OSError as error:
            if f"file named {SAFE_WEIGHTS_NAME}" not in str(error):
                raise
            source = pretrained_model_name_or_path
            raise OSError(f"{source} holds no {SAFE_WEIGHTS_NAME}. {_ONLY_SAFETENSORS}") from error
        model, info = loaded
        if not getattr(model, "_weights_were_checked", False):
            raise RuntimeError("This way of loading passes the checks of weight files by. Use save_pretrained's files.")
        if broken := nonfinite_weights(model):
            raise RuntimeError(
                f"NaN or infinite weights: {shorten_list(broken)}. This checkpoint is broken: use another."
            )
        model.config.heads = of_kind(model.config.heads, cls.head_kind)  # those of another class are not in this model
        if getattr(model, "unknown", None) is None:
            model.config.unknown = None
        if speed is not None:
            apply_speed_preset(model.config, speed)
            model.drop_unknown(f"speed={speed!r}")
        if requested:
            model.resize_input(**requested)
        return (model, info) if output_loading_info else model

    @staticmethod
    def _load_pretrained_model(model, state_dict, checkpoint_files, load_config, expected_keys=None):
        """Loading by transformers, with the headers checked before it and the fit of the weights after it.

        transformers allocates missing weights only later, so a configuration cannot make it allocate weights that no
        file holds.   expected_keys: the weights of an adapter, which is read into a model that is already loaded.
        """
        header: Header = {name: (_WEIGHTS[0], tuple(tensor.shape)) for name, tensor in (state_dict or {}).items()}
        if checkpoint_files is not None:
            if load_config.sharded_metadata is not None:
                check_weight_map(load_config.sharded_metadata["weight_map"], load_config.pretrained_model_name_or_path)
            header = read_headers(checkpoint_files)
            _check_types(model, header, load_config)
        quantised = load_config.is_quantized and expected_keys is None
        if quantised:
            shapes = {name: shape if dtype in _WEIGHTS else None for name, (dtype, shape) in header.items()}
            new_layers = keep_new_layers_plain(model, shapes, load_config.hf_quantizer)
            needed = shapes_of(model)
        fitting = dataclasses.replace(load_config, ignore_mismatched_sizes=True)
        load = PreTrainedModel._load_pretrained_model
        info, offloaded = load(model, state_dict, checkpoint_files, fitting, expected_keys)
        if quantised:
            info.mismatched_keys |= renew_misfits(model, needed, new_layers)
        if expected_keys is None:
            _check_fit(model, info, load_config)
        elif lacking := sorted(info.missing_keys & set(expected_keys)):
            raise RuntimeError(
                f"Of the adapter these weights were not found: {shorten_list(lacking)}. Load the base model and then "
                "the adapter with peft.PeftModel.from_pretrained."
            )
        model._weights_were_checked = True
        return info, offloaded

    @staticmethod
    def _finalize_model_loading(model, load_config, loading_info):
        """Initialisation of new weights by transformers; `_load_pretrained_model` has decided which may be new."""
        fitting = dataclasses.replace(load_config, ignore_mismatched_sizes=True)
        return PreTrainedModel._finalize_model_loading(model, fitting, loading_info)

    @torch.no_grad()
    def resize_input(
        self,
        image_size: Size | None = None,
        patch_size: Size | None = None,
        num_channels: int | None = None,
    ) -> "ViTCustomPreTrainedModel":
        """Resample the patch kernel and the position table in place for another input, and return the model.

        With `position_interpolation="computed"` the table is computed for the new grid instead. The config changes as
        well; its `speeds` and `unknown`, which were measured at the old size, are dropped with a warning. The function
        `resize_input(model, processor, size)` also changes the image processor.
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
        target.speeds = None
        for name, value in changes.items():
            setattr(target, name, value)
        target.validate()
        resizable: list[Any] = [module for module in self.modules() if hasattr(type(module), "resize_to")]
        for module in resizable:
            module.check_resize(target)
        for module in resizable:
            module.resize_to(target)
        self.drop_unknown("another input size")
        if self.config.speeds:
            logger.warning(f"The speeds {', '.join(self.config.speeds)} were measured at another size: dropped.")
        said = [f"{name} {getattr(self.config, name)} -> {value}" for name, value in changes.items()]
        computed = target.position_interpolation == COMPUTED and changes.keys() == {"image_size"}
        logger.warning(
            f"{'Computed positions' if computed else 'Resampled weights'} for {', '.join(said)} "
            f"(grid {self.config.grid_hw} -> {target.grid_hw}). "
            "Accuracy may need a short fine-tuning at the new size."
        )
        copies: dict[int, Any] = {
            id(module.config): module.config for module in self.modules() if hasattr(module, "config")
        }
        for config in copies.values():  # an adapter copies modules together with their configs
            config.speeds = config.unknown = None
            for name, value in changes.items():
                setattr(config, name, value)
        return self

    def drop_unknown(self, why: str) -> None:
        """Answer every image from now on, with a warning, because `config.unknown` was not calibrated for `why`."""
        if getattr(self, "unknown", None) is not None:
            logger.warning(f'{why}: when to answer "unknown" was calibrated without it. Every image is answered.')
            self.unknown = None
        self.config.unknown = None


def resize_input(model: ViTCustomPreTrainedModel, processor: Any, size: Size):
    """Change a model and its image processor in place to images of `size` pixels, an int or (height, width).

    The resize and the crop of the processor keep their ratio. Returns (model, processor).
    """
    model.resize_input(image_size=size)
    height, width = model.config.image_hw
    if processor.do_center_crop:
        scale = max(height / processor.crop_size.height, width / processor.crop_size.width)
        processor.crop_size = SizeDict(height=height, width=width)
        processor.size = SizeDict(**{edge: round(length * scale) for edge, length in dict(processor.size).items()})
    else:
        processor.size = SizeDict(height=height, width=width)
    return model, processor


def nonfinite_weights(model: torch.nn.Module) -> list[str]:
    """Return the names of weights that hold NaN or infinity (quantised ones in a scale); skip those without data."""
    return [name for name, tensor in model.state_dict().items() if not is_finite(tensor)]


def _at_stored_input(cls, path, config, requested: dict, kwargs: dict) -> tuple[Any, dict]:
    """`config` with the input fields of the stored weights, and the changes that lead back to the requested input.

    If `config` is a path, these fields are put into `kwargs` instead. Weights that are stored without a configuration
    are assumed to fit the given one.
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


def _check_types(model: ViTCustomPreTrainedModel, header: Header, load_config: Any):
    """Raise RuntimeError for integer or complex weights, which a cast would change."""
    prefix = f"{model.base_model_prefix}."
    weights = {name.removeprefix(prefix) for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    if load_config.is_quantized and load_config.hf_quantizer.pre_quantized:
        weights -= {f"{name.removeprefix(prefix)}.weight" for name, _ in linear_layers(model)}
    odd = [f"{name} {dtype}" for name, (dtype, _) in header.items() if not dtype.startswith(("F", "BF"))]
    if odd := [text for text in odd if text.split()[0].removeprefix(prefix) in weights]:
        raise RuntimeError(
            f"Weights that are no floating-point numbers: {shorten_list(odd)}. If they are quantised, load them with "
            "the quantization_config that they were saved with."
        )


def _check_fit(model: ViTCustomPreTrainedModel, info: Any, load_config: Any):
    """Warn of new weights; raise RuntimeError if the checkpoint should have held them, or holds others."""
    shapes = {key: f"{key} stored {tuple(s)}, needed {tuple(n)}" for key, s, n in sorted(info.mismatched_keys)}
    prefix = f"{model.base_model_prefix}."
    own = {key: key.removeprefix(prefix) for key in info.missing_keys | info.unexpected_keys}
    # quantised weights come with scales of their own
    layers = {name.removeprefix(prefix) for name, _ in linear_layers(model)} if load_config.is_quantized else set()
    foreign = {key for key in info.unexpected_keys if _ENCODER.match(own[key]) and not _is_of(own[key], layers)}
    if wrong_shapes := misshapen(model):
        raise RuntimeError(
            f"These quantised weights do not fit the configuration: {shorten_list(wrong_shapes, separator='; ')}. "
            "Load with the stored configuration, or load the weights that were quantised."
        )
    if not load_config.ignore_mismatched_sizes:
        promised = _promised_names(model, load_config) if info.missing_keys or foreign else set()
        wrong = {
            "of another shape": [text for key, text in shapes.items() if not key.startswith(model.label_prefixes)],
            "missing": sorted(key for key in info.missing_keys if own[key] in promised),
            "not of this model": sorted(key for key in foreign if own[key] not in promised),
        }
        if any(wrong.values()):
            listed = ". ".join(
                f"{what.capitalize()}: {shorten_list(keys, separator='; ')}" for what, keys in wrong.items() if keys
            )
            raise RuntimeError(
                f"These weights do not fit the configuration. {listed}. Load with the stored configuration, or pass "
                "ignore_mismatched_sizes=True to initialise again what does not fit."
            )
    for prefix in model.label_prefixes:  # weight and bias belong together
        layer = {key for key in model.state_dict() if key.startswith(prefix)}
        for key in layer - shapes.keys() if layer & {*shapes, *info.missing_keys} else ():
            setattr(model.get_parameter(key), "_is_hf_initialized", False)  # noqa: B010 - mypy knows no such field
            info.missing_keys.add(key)
    if new := [*shapes.values(), *sorted(info.missing_keys)]:
        logger.warning(f"NEWLY INITIALISED, train before use: {'; '.join(new)}.")


def _is_of(key: str, layers: set[str]) -> bool:
    """Whether a tensor belongs to one of the layers, such as the scale of its weight."""
    return any(parent in layers for parent in accumulate(key.split("."), "{}.{}".format))


def _promised_names(model: Any, load_config: Any) -> set[str]:
    """Names, without the encoder's prefix, of the weights that a checkpoint holds by its own configuration.

    If another class saved it, only the encoder's. Without a stored configuration, that of the model counts.
    """
    fields: dict[str, Any] = {}
    if (path := load_config.pretrained_model_name_or_path) is not None:
        fields, _ = model.config_class.get_config_dict(path, **load_config.download_kwargs)
    config = model.config_class.from_dict(fields) if fields else model.config
    saved_with_head = type(model).__name__ in (fields.get("architectures") or [])
    with torch.device("meta"):
        stored = type(model if saved_with_head else model.base_model)(config)
    names = {name.removeprefix(f"{model.base_model_prefix}.") for name in stored.state_dict()}
    return names if saved_with_head else {name for name in names if not name.startswith(stored.head_prefixes)}
