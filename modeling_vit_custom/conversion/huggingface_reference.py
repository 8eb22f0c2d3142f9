"""What transformers itself makes of a folder: its model, and its image processor.

Shapes: B images, C channels, H×W pixels, p×q patch.
"""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .check import Reference, outputs_of
from .engine import ConversionError, listed

# Image processors whose steps ours has, by family where a folder does not name one; "Fast" and "Pil" do the same.
_CLASSES = {
    "deit": "DeiTImageProcessor", "dinov2": "BitImageProcessor", "dinov2_with_registers": "BitImageProcessor",
    "dinov3_vit": "DINOv3ViTImageProcessor", "clip": "CLIPImageProcessor", "siglip": "SiglipImageProcessor",
}  # fmt: skip
_DEFAULT_CLASS = "ViTImageProcessor"
_SETTINGS = (
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

    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        return None
    try:
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
        name for name, value in stored.items() if name not in {*_SETTINGS, *_HARMLESS} and value not in (None, False)
    )
    problems = [f"the class {kind}"] if kind not in {_DEFAULT_CLASS, *_CLASSES.values()} else []
    problems += [f"settings {listed([f'{name}={stored[name]!r}' for name in unknown])}"] if unknown else []
    problems += [f"resample={processor.resample}"] if processor.resample not in _RESAMPLES else []
    if problems:
        raise ConversionError(
            f"{folder.name}: its image processor has {' and '.join(problems)}, which ours has not. To take the "
            "family's documented preprocessing instead, leave preprocessor_config.json out of the folder."
        )
    settings = {name: getattr(processor, name, None) for name in _SETTINGS}
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
    import transformers

    model = _model(folder, config).eval()
    classifies = "ForImageClassification" in type(model).__name__
    encoder = getattr(model, "vision_model", model.base_model) if classifies else model
    takes = inspect.signature(encoder.forward).parameters
    options: dict[str, Any] = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}

    def run(images: torch.Tensor) -> dict[str, torch.Tensor]:
        if "noise" in takes:  # MAE: nothing is masked, this keeps the order
            p, q = model.embeddings.patch_embeddings.patch_size
            options["noise"] = torch.arange(images.shape[2] // p * (images.shape[3] // q)).expand(len(images), -1)
        with outputs_of(encoder) as seen:
            output = model(images, **options)
        outputs = {"tokens": seen[-1].last_hidden_state}
        if classifies:
            return outputs | {"logits": output.logits}
        if "pooler_output" in output and getattr(model, "pooler", None) is None:  # else its own layer, left out
            outputs["pooled"] = output.pooler_output
        return outputs

    processor = stored_processor(folder)
    by = f"transformers {transformers.__version__}'s {type(model).__name__}"
    if processor is None:
        kind = _CLASSES.get(family.split(",")[0], _DEFAULT_CLASS)
        processor = getattr(transformers, kind)(**{name: getattr(assumed, name) for name in _SETTINGS})
        by += f", with a {kind} of the settings that were assumed"

    def prepare(pictures: Sequence[Image.Image]) -> torch.Tensor:
        return processor(images=list(pictures), return_tensors="pt")["pixel_values"]

    return Reference(by, run, prepare)


def _model(folder: Path, config: Mapping[str, Any]) -> Any:
    """The classifier its config.json names, else the image encoder."""
    import transformers

    name = (config.get("architectures") or [""])[0]
    if "ForImageClassification" not in name:
        name = _TOWERS.get(config.get("model_type", ""), "AutoModel")
    if not hasattr(transformers, name):
        raise ConversionError(f"{folder.name}: architectures names {name!r}, which transformers does not have.")
    masking = {"mask_ratio": 0.0} if "mask_ratio" in config else {}
    return getattr(transformers, name).from_pretrained(folder, use_safetensors=True, dtype=torch.float32, **masking)
