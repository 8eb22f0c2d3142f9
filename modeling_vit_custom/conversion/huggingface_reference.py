"""What transformers itself makes of a folder: its model, and its image processor.

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
from ..inference.foreign import check_processor_fields, check_size, foreign_config, weights_header
from .check import Reference, outputs_of
from .engine import ConversionError, listed

# Image processors whose steps ours has, by family where a folder does not name one; "Fast" and "Pil" do the same.
_CLASSES = {
    "deit": "DeiTImageProcessor", "dinov2": "BitImageProcessor", "dinov2_with_registers": "BitImageProcessor",
    "dinov3_vit": "DINOv3ViTImageProcessor", "clip": "CLIPImageProcessor", "siglip": "SiglipImageProcessor",
}  # fmt: skip
_DEFAULT_CLASS = "ViTImageProcessor"
SETTINGS = (
    "size", "crop_size", "resample", "do_resize", "do_center_crop", "do_rescale", "rescale_factor", "do_normalize",
    "image_mean", "image_std",
)  # fmt: skip
# In files, but of no consequence here: images are always decoded to the model's channels.
_HARMLESS = {
    "auto_map", "data_format", "default_to_square", "device", "disable_grouping", "do_convert_rgb",
    "feature_extractor_type", "image_processor_type", "input_data_format", "processor_class", "return_tensors",
    "_processor_class", "_valid_processor_keys",
}  # fmt: skip
_RESAMPLES = (0, 1, 2, 3)  # nearest, lanczos, bilinear, bicubic: what transformers' tensors can
_TOWERS = {"clip": "CLIPVisionModel", "siglip": "SiglipVisionModel"}


def stored_processor(folder: Path) -> Any:
    """transformers' image processor of a folder, or None where it stores none."""
    import transformers

    if not any((folder / name).is_file() for name in (PROCESSOR, "processor_config.json")):
        return None
    try:
        check_processor_fields(folder, transformers.ImageProcessingMixin.get_image_processor_dict(folder)[0])
        return transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConversionError(f"{folder.name}: transformers cannot build its image processor: {error}") from error


def processor_of(folder: Path) -> dict[str, Any]:
    """Our image processor's settings from a folder's, {} where it stores none.

    Defaults of its class are resolved by transformers. Raises ConversionError for a step that ours has not.
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
    problems += [f"settings {listed([f'{name}={stored[name]!r}' for name in unknown])}"] if unknown else []
    problems += [f"resample={processor.resample}"] if processor.resample not in _RESAMPLES else []
    if problems:
        raise ConversionError(
            f"{folder.name}: its image processor has {' and '.join(problems)}, which ours has not. To take the "
            "family's documented preprocessing instead, leave preprocessor_config.json out of the folder."
        )
    return settings_of(processor)


def settings_of(processor: Any) -> dict[str, Any]:
    """Those of SETTINGS that an image processor has, in plain values."""
    settings = {name: getattr(processor, name, None) for name in SETTINGS}
    if not settings["do_center_crop"]:
        del settings["crop_size"]
    return {
        name: dict(value) if name in ("size", "crop_size") else value
        for name, value in settings.items()
        if value is not None
    }


def reference_of(folder: Path, config: Mapping[str, Any], family: str, assumed: Any) -> Reference:
    """The folder as transformers runs it.   assumed: our image processor, for a folder that stores none.

    Raises ConversionError for a model that transformers does not have.
    """
    return reference_to(_model(folder, config), stored_processor(folder), family, assumed)


def reference_to(model: Any, processor: Any | None, family: str, assumed: Any) -> Reference:
    """A model of transformers and its image processor, without one that of the family with `assumed`'s settings."""
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
    """What a model of transformers gives for images [B, C, H, W], as `Reference.run` has it.

    Positions are resampled where the size is not the model's own; masked autoencoders keep the order of patches.
    """
    config = getattr(model.config, "vision_config", model.config)
    encoder = getattr(model, "vision_model", model.base_model)
    takes = {name for module in (model, encoder) for name in inspect.signature(module.forward).parameters}
    options: dict[str, Any] = {}
    if "interpolate_pos_encoding" in takes and tuple(images.shape[2:]) != _pair(config.image_size):
        options["interpolate_pos_encoding"] = True
    if "noise" in takes:  # patches are sorted by it
        h, w = (side // patch for side, patch in zip(images.shape[2:], _pair(config.patch_size), strict=True))
        options["noise"] = torch.arange(h * w).expand(len(images), -1)
    with outputs_of(encoder) as seen:
        output = model(images, **options)
    if "logits" in output:
        return {"tokens": seen[-1].last_hidden_state, "logits": output.logits}
    outputs = {"tokens": output.last_hidden_state}
    if "pooler_output" in output and getattr(model, "pooler", None) is None:  # else its own layer, left out
        outputs["pooled"] = output.pooler_output
    return outputs


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _model(folder: Path, fields: Mapping[str, Any]) -> Any:
    """The classifier its config.json names, else the image encoder."""
    import transformers

    name = (fields.get("architectures") or [""])[0]
    if "ForImageClassification" not in name:
        name = _TOWERS.get(fields.get("model_type", ""), "AutoModel")
    if not hasattr(transformers, name):
        raise ConversionError(f"{folder.name}: architectures names {name!r}, which transformers does not have.")
    cls, header = getattr(transformers, name), weights_header(folder)
    try:
        config: Any = foreign_config(folder, fields, header)
        wanted = getattr(cls, "config_class", None) or type(config)
        if not isinstance(config, wanted):  # of a tower, where the folder holds both
            config = getattr(config, wanted.base_config_key)
        if "mask_ratio" in fields:
            config.mask_ratio = 0.0
        check_size(folder, lambda: getattr(cls, "from_config", cls)(config), header)
    except (ValueError, AttributeError) as error:
        raise ConversionError(f"{folder.name}: transformers cannot run it: {error}") from error
    return cls.from_pretrained(folder, config=config, use_safetensors=True, dtype=torch.float32)
