"""The reference for a saved folder: model and image processor as transformers itself loads them.

Shapes: B images, C channels, H×W pixels, p×q patch.
"""

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..common.model_files import PROCESSOR
from ..inference.foreign import check_processor_fields, check_size, foreign_config, header_of, weights_header
from ..weight_files_vit_custom import shorten_list
from .check import Reference, outputs_of
from .engine import ConversionError, State

# Supported image processors, by family for a folder that names none; their "Fast" and "Pil" classes do the same.
_CLASSES = {
    "deit": "DeiTImageProcessor", "dinov2": "BitImageProcessor", "dinov2_with_registers": "BitImageProcessor",
    "dinov3_vit": "DINOv3ViTImageProcessor", "clip": "CLIPImageProcessor", "siglip": "SiglipImageProcessor",
}  # fmt: skip
_DEFAULT_CLASS = "ViTImageProcessor"
SETTINGS = (
    "size", "crop_size", "resample", "do_resize", "do_center_crop", "do_rescale", "rescale_factor", "do_normalize",
    "image_mean", "image_std",
)  # fmt: skip
# Settings without effect here: images are always decoded to the model's channels.
_HARMLESS = {
    "auto_map", "data_format", "default_to_square", "device", "disable_grouping", "do_convert_rgb",
    "feature_extractor_type", "image_processor_type", "input_data_format", "processor_class", "return_tensors",
    "_processor_class", "_valid_processor_keys",
}  # fmt: skip
_RESAMPLES = (0, 1, 2, 3)  # nearest, lanczos, bilinear, bicubic: those that transformers supports on tensors
_TOWERS = {"clip": "CLIPVisionModel", "siglip": "SiglipVisionModel"}


def stored_processor(folder: Path) -> Any:
    """Load the image processor of a folder by transformers; return None if the folder stores none."""
    import transformers

    if not any((folder / name).is_file() for name in (PROCESSOR, "processor_config.json")):
        return None
    try:
        check_processor_fields(folder, transformers.ImageProcessingMixin.get_image_processor_dict(folder)[0])
        return transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConversionError(f"{folder.name}: transformers cannot build its image processor: {error}") from error


def processor_of(folder: Path) -> dict[str, Any]:
    """Read the settings for our image processor from a folder; {} if it stores none.

    transformers fills in the defaults of its class. Raises ConversionError for a step that our processor lacks.
    """
    import transformers

    processor = stored_processor(folder)
    if processor is None:
        return {}
    kind = type(processor).__name__.removesuffix("Fast").removesuffix("Pil")
    stored, _ = transformers.ImageProcessingMixin.get_image_processor_dict(folder)
    unknown = sorted(
        name for name, value in stored.items() if name not in {*SETTINGS, *_HARMLESS} and value not in (None, False)
    )
    problems = [f"the class {kind}"] if kind not in {_DEFAULT_CLASS, *_CLASSES.values()} else []
    problems += [f"settings {shorten_list([f'{name}={stored[name]!r}' for name in unknown])}"] if unknown else []
    problems += [f"resample={processor.resample}"] if processor.resample not in _RESAMPLES else []
    if problems:
        raise ConversionError(
            f"{folder.name}: its image processor has {' and '.join(problems)}, which ours has not. To take the "
            "family's documented preprocessing instead, leave preprocessor_config.json out of the folder."
        )
    return settings_of(processor)


def settings_of(processor: Any) -> dict[str, Any]:
    """Return those of SETTINGS that an image processor has, as plain values."""
    settings = {name: getattr(processor, name, None) for name in SETTINGS}
    if not settings["do_center_crop"]:
        del settings["crop_size"]
    return {
        name: dict(value) if name in ("size", "crop_size") else value
        for name, value in settings.items()
        if value is not None
    }


def reference_of(
    folder: Path, config: Mapping[str, Any], family: str, assumed: Any, pickled: State | None = None
) -> Reference:
    """Build the reference that runs a folder by transformers.

    assumed: our image processor, for a folder that stores none.   pickled: its tensors, if they are not in safetensors
    files.

    Raises ConversionError for a model that transformers does not have.
    """
    return reference_to(_model(folder, config, pickled), stored_processor(folder), family, assumed)


def reference_to(model: Any, processor: Any | None, family: str, assumed: Any) -> Reference:
    """Build the reference of a transformers model and its image processor.

    If `processor` is None, use the family's image processor class with the settings of `assumed`.
    """
    import transformers

    by = f"transformers {transformers.__version__}'s {type(model).__name__}"
    if processor is None:
        kind = _CLASSES.get(family.split(",")[0], _DEFAULT_CLASS)
        processor = getattr(transformers, kind)(**{name: getattr(assumed, name) for name in SETTINGS})
        by += f", with a {kind} of the settings that were assumed"

    def prepare(pictures: Sequence[Image.Image]) -> torch.Tensor:
        return processor(images=list(pictures), return_tensors="pt")["pixel_values"]

    return Reference(by, partial(run, model.eval().float()), prepare)


def run(model: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Run a transformers model on images [B, C, H, W]; return its outputs as defined by `Reference.run`.

    Positions are resampled if the size is not the model's own; masked autoencoders keep the order of patches.
    """
    config = getattr(model.config, "vision_config", model.config)
    encoder = getattr(model, "vision_model", model.base_model)
    takes = {name for module in (model, encoder) for name in inspect.signature(module.forward).parameters}
    options: dict[str, Any] = {}
    if "interpolate_pos_encoding" in takes and tuple(images.shape[2:]) != _pair(config.image_size):
        options["interpolate_pos_encoding"] = True
    if "noise" in takes:  # MAE sorts the patches by it
        h, w = (side // patch for side, patch in zip(images.shape[2:], _pair(config.patch_size), strict=True))
        options["noise"] = torch.arange(h * w).expand(len(images), -1)
    with outputs_of(encoder) as seen:
        output = model(images, **options)
    if "logits" in output:
        return {"tokens": seen[-1].last_hidden_state, "logits": output.logits}
    outputs = {"tokens": output.last_hidden_state}
    if "pooler_output" in output and getattr(model, "pooler", None) is None:  # else a layer that is not converted
        outputs["pooled"] = output.pooler_output
    return outputs


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _model(folder: Path, fields: Mapping[str, Any], pickled: State | None) -> Any:
    """The classifier that config.json names, else the image encoder."""
    import transformers

    name = (fields.get("architectures") or [""])[0]
    if "ForImageClassification" not in name:
        name = _TOWERS.get(fields.get("model_type", ""), "AutoModel")
    if not hasattr(transformers, name):
        raise ConversionError(f"{folder.name}: architectures names {name!r}, which transformers does not have.")
    cls = getattr(transformers, name)
    header = header_of(pickled) if pickled else weights_header(folder)
    try:
        config: Any = foreign_config(folder, fields, header)
        wanted = getattr(cls, "config_class", None) or type(config)
        if not isinstance(config, wanted):  # the folder holds image and text tower, this is the image tower
            config = getattr(config, wanted.base_config_key)
        if "mask_ratio" in fields:
            config.mask_ratio = 0.0
        check_size(folder, lambda: getattr(cls, "from_config", cls)(config), header)
    except (ValueError, AttributeError) as error:
        raise ConversionError(f"{folder.name}: transformers cannot run it: {error}") from error
    if pickled:
        return cls.from_pretrained(None, config=config, state_dict=dict(pickled), dtype=torch.float32)
    return cls.from_pretrained(folder, config=config, use_safetensors=True, dtype=torch.float32)
