"""What every model here shares: initial weights, loading at any input size, and what is refused while loading."""

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
from .layers_vit_custom import LayerScale
from .pipeline_vit_custom import ViTCustomImageClassificationPipeline
from .quantized_vit_custom import is_finite, keep_new_layers_plain, linear_layers, misshapen, renew_misfits, shapes_of
from .speeds_vit_custom import choose_speed
from .weight_files_vit_custom import Header, check_weight_map, read_headers, some

logger = logging.get_logger(__name__)

# Fields that describe the input: stored weights are resampled when these change, never re-initialised.
INPUT_FIELDS = ("image_size", "patch_size", "num_channels")
# The one layer whose shape follows the labels: another number of classes means a new one.
HEAD_PREFIX = "classifier."
# The encoder's own weights. All others are a head's, and another head legitimately lacks them.
_ENCODER = re.compile(r"embeddings\.(?!mask_token)|layers\.|layernorm\.")
# Types of a tensor that holds the numbers of a weight one by one, whatever a quantiser does.
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
        speed: str | None = None,
        **kwargs,
    ):
        """Load as transformers does, from safetensors only, at any input size, and never with random weights unsaid.

        `image_size`, `patch_size` or `num_channels`, as keywords or in `config`, may differ from what was stored: the
        weights are loaded at their own size, then resampled, and a warning says so. A head that the checkpoint does not
        have or has for other labels, and a part that was not in the stored configuration, is newly initialised, also
        said. `speed`: one of the configuration's `speeds`, such as "2x". Raises WeightFileError for a file whose header
        lies; RuntimeError, naming the weights, where the checkpoint lacks any that its own configuration promises,
        holds others, or has them in another shape (all of which `ignore_mismatched_sizes=True` turns into that
        warning), and where one is NaN or infinite, or integer or complex without quantisation; OSError where there is
        no safetensors file; ValueError, with the command that converts it, for another library's checkpoint.
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
            raise RuntimeError(f"NaN or infinite weights: {some(broken)}. This checkpoint is broken: use another.")
        if speed is not None:
            choose_speed(model.config, speed)
        if requested:
            model.resize_input(**requested)
        return (model, info) if output_loading_info else model

    @staticmethod
    def _load_pretrained_model(model, state_dict, checkpoint_files, load_config, expected_keys=None):
        """transformers' reading of the files, the headers checked before, what did not fit checked after.

        After it, transformers allocates what is missing: nothing that a configuration alone claims gets that far.
        expected_keys: the weights of an adapter, which is read into a model that has been loaded.
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
                f"Of the adapter these weights were not found: {some(lacking)}. Load the base model and then the "
                "adapter with peft.PeftModel.from_pretrained."
            )
        model._weights_were_checked = True
        return info, offloaded

    @staticmethod
    def _finalize_model_loading(model, load_config, loading_info):
        """transformers' initialising of new weights; `_load_pretrained_model` has decided which may be new."""
        fitting = dataclasses.replace(load_config, ignore_mismatched_sizes=True)
        return PreTrainedModel._finalize_model_loading(model, fitting, loading_info)

    @torch.no_grad()
    def resize_input(
        self,
        image_size: Size | None = None,
        patch_size: Size | None = None,
        num_channels: int | None = None,
    ) -> "ViTCustomPreTrainedModel":
        """Resample position table and patch kernel in place for another input; returns the model.

        The config follows; its `speeds`, which were measured at the size before, are dropped, with a warning.
        `resize_input(model, processor, size)` changes the image processor as well.
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
        if self.config.speeds:
            logger.warning(f"The speeds {', '.join(self.config.speeds)} were measured at another size: dropped.")
        said = [f"{name} {getattr(self.config, name)} -> {value}" for name, value in changes.items()]
        logger.warning(
            f"Resampled weights for {', '.join(said)} (grid {self.config.grid_hw} -> {target.grid_hw}). "
            "Accuracy may need a short fine-tuning at the new size."
        )
        copies: dict[int, Any] = {
            id(module.config): module.config for module in self.modules() if hasattr(module, "config")
        }
        for config in copies.values():  # an adapter copies modules and, with them, what they hold
            config.speeds = None
            for name, value in changes.items():
                setattr(config, name, value)
        return self


def resize_input(model: ViTCustomPreTrainedModel, processor: Any, size: Size):
    """Make a model and its image processor take images of `size` pixels, an int or (height, width).

    The processor's resize and crop keep their proportion to each other. Returns (model, processor), both changed
    in place.
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
    """Names of the weights that hold NaN or infinity, if quantised in a scale; those not loaded are passed by."""
    return [name for name, tensor in model.state_dict().items() if not is_finite(tensor)]


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


def _check_types(model: ViTCustomPreTrainedModel, header: Header, load_config: Any):
    """Raise RuntimeError for integers and complex numbers where weights belong: cast, they would be other weights."""
    prefix = f"{model.base_model_prefix}."
    weights = {name.removeprefix(prefix) for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    if load_config.is_quantized and load_config.hf_quantizer.pre_quantized:
        weights -= {f"{name.removeprefix(prefix)}.weight" for name, _ in linear_layers(model)}
    odd = [f"{name} {dtype}" for name, (dtype, _) in header.items() if not dtype.startswith(("F", "BF"))]
    if odd := [text for text in odd if text.split()[0].removeprefix(prefix) in weights]:
        raise RuntimeError(
            f"Weights that are no floating-point numbers: {some(odd)}. If they are quantised, load them with the "
            "quantization_config that they were saved with."
        )


def _check_fit(model: ViTCustomPreTrainedModel, info: Any, load_config: Any):
    """Say which weights are new; raise RuntimeError where the checkpoint should have held them, or holds others."""
    shapes = {key: f"{key} stored {tuple(s)}, needed {tuple(n)}" for key, s, n in sorted(info.mismatched_keys)}
    prefix = f"{model.base_model_prefix}."
    own = {key: key.removeprefix(prefix) for key in info.missing_keys | info.unexpected_keys}
    # quantised weights come with scales of their own
    layers = {name.removeprefix(prefix) for name, _ in linear_layers(model)} if load_config.is_quantized else set()
    foreign = {key for key in info.unexpected_keys if _ENCODER.match(own[key]) and not _is_of(own[key], layers)}
    if wrong_shapes := misshapen(model):
        raise RuntimeError(
            f"These quantised weights do not fit the configuration: {some(wrong_shapes, '; ')}. Load with the stored "
            "configuration, or load the weights that were quantised."
        )
    if not load_config.ignore_mismatched_sizes:
        promised = _promised_names(model, load_config) if info.missing_keys or foreign else set()
        wrong = {
            "of another shape": [text for key, text in shapes.items() if not key.startswith(HEAD_PREFIX)],
            "missing": sorted(key for key in info.missing_keys if own[key] in promised),
            "not of this model": sorted(key for key in foreign if own[key] not in promised),
        }
        if any(wrong.values()):
            listed = ". ".join(f"{what.capitalize()}: {some(keys, '; ')}" for what, keys in wrong.items() if keys)
            raise RuntimeError(
                f"These weights do not fit the configuration. {listed}. Load with the stored configuration, or pass "
                "ignore_mismatched_sizes=True to initialise anew what does not fit."
            )
    if any(key.startswith(HEAD_PREFIX) for key in {*shapes, *info.missing_keys}):  # a bias belongs to its weight
        for key in {key for key in model.state_dict() if key.startswith(HEAD_PREFIX)} - shapes.keys():
            setattr(model.get_parameter(key), "_is_hf_initialized", False)  # noqa: B010 - mypy knows no such field
            info.missing_keys.add(key)
    if new := [*shapes.values(), *sorted(info.missing_keys)]:
        logger.warning(f"NEWLY INITIALISED, train before use: {'; '.join(new)}.")


def _is_of(key: str, layers: set[str]) -> bool:
    """Whether a tensor belongs to one of the layers, such as the scale of its weight."""
    return any(parent in layers for parent in accumulate(key.split("."), "{}.{}".format))


def _promised_names(model: Any, load_config: Any) -> set[str]:
    """Weights, without the encoder's prefix, that a checkpoint holds by its own configuration.

    All where it was saved by this class, else the encoder's. Without a stored configuration, the model's counts.
    """
    fields: dict[str, Any] = {}
    if (path := load_config.pretrained_model_name_or_path) is not None:
        fields, _ = model.config_class.get_config_dict(path, **load_config.download_kwargs)
    config = model.config_class.from_dict(fields) if fields else model.config
    saved_with_head = type(model).__name__ in (fields.get("architectures") or [])
    with torch.device("meta"):
        stored = type(model if saved_with_head else model.base_model)(config)
    names = {name.removeprefix(f"{model.base_model_prefix}.") for name in stored.state_dict()}
    return names if saved_with_head else set(filter(_ENCODER.match, names))
