"""`vit-custom convert --to`: conversion of a saved folder of ours to a model of transformers or timm."""

import copy
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from ..common.claims import BEFORE, read_record, weights_digest, write_stamped
from ..common.model_files import CONFIG, CONVERSION, CONVERTED_FOLDERS, PROCESSOR
from ..common.outputs import check_new_folder, new_folder
from ..configuration_vit_custom import ViTCustomConfig
from ..image_processing_vit_custom import ViTCustomImageProcessor
from ..modeling_vit_custom import ViTCustomForImageClassification, ViTCustomModel
from . import export_huggingface, export_timm
from .check import GREY_LEVELS, IMAGES, MEAN_GREY_LEVELS, TOLERANCE, Reference, compare_pixels, compare_tensors
from .engine import ConversionError
from .target import Exported, Target, choose

LIBRARIES: dict[str, Sequence[Target]] = {"hf": export_huggingface.TARGETS, "timm": export_timm.TARGETS}
_CLASSES = {cls.__name__: cls for cls in (ViTCustomForImageClassification, ViTCustomModel)}


def export(
    source: str, output: str | Path, library: str, family: str | None = None, from_images: bool = False
) -> dict[str, Any]:
    """Convert the saved folder `source` of ours to a model of `library` ("hf" or "timm") and return the report.

    output: a new or empty folder that the library can load, or a new file *.safetensors for the tensors alone.
    family: the kind of model to write; default: the first that can express ours.   from_images: compare the image
    processors as well, as `check.compare_pixels` does. Raises ConversionError, before anything is written, if no kind
    can express ours (it names the configuration fields) or if the outputs, or the pixels, differ.
    """
    output = Path(output)
    tensors_only = output.suffix == ".safetensors"
    check_new_folder(output, ConversionError, empty=not tensors_only)
    folder = Path(source).expanduser()
    config = read_ours(folder)
    left_out = ['answers every image: that library has no place for "unknown"'] if config.unknown else []
    config.unknown = None
    if getattr(config, "quantization_config", None) is not None:
        raise ConversionError(f"{source} is quantised: give the checkpoint that was, and quantise what comes out.")
    target = choose(LIBRARIES[library], config, family)
    if from_images:
        check_colours(config, library)
    model = load_ours(folder, config)
    processor = None if tensors_only else _read_processor(folder)
    exported = target.build(config, _named(model, model.state_dict()), processor)
    check = compare(exported, model, processor if from_images else None)
    if not check["passed"]:
        raise ConversionError(_difference(target.name, check))
    report = {
        "source": folder.name,
        "family": f"{target.name} ({exported.kind})",
        "parameters": sum(parameter.numel() for parameter in exported.model.parameters()),
        "image_size": list(config.image_hw),
        "classes": config.num_labels,
        "notes": target.notes(config) + exported.notes + left_out,
        "check": check,
        **_origin(folder),
    }
    if tensors_only:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as aside:
            exported.save_tensors(Path(aside) / output.name)
            os.replace(Path(aside) / output.name, output)
        return report
    with new_folder(output, ConversionError) as folder:
        exported.save(folder)
        return write_stamped(folder / CONVERSION, report)


def check_expressible(
    model: ViTCustomForImageClassification | ViTCustomModel,
    processor: ViTCustomImageProcessor,
    library: str,
    changes: bool,
) -> None:
    """Raise ConversionError, naming the field, unless `library` can express this model as it is after a training.

    changes: whether the training changes every tensor; what the library has no place for is then no longer zero.
    """
    config: Any = model.config
    target = choose(LIBRARIES[library], config)
    check_colours(config, library)
    tensors = _named(model, model.state_dict())
    if changes:
        tensors = {name: tensor.new_ones(()).expand_as(tensor) for name, tensor in tensors.items()}
    target.build(config, tensors, processor)


def check_colours(config: ViTCustomConfig, library: str) -> None:
    """Raise ConversionError for images that are not in colour, of which the pipelines of `library` know nothing."""
    if config.num_channels != 3:
        raise ConversionError(
            f"num_channels={config.num_channels} (only 3): pipelines and servers of {CONVERTED_FOLDERS[library]} "
            "decode images in colour. Publish this model with its own code, or train it with --config_overrides "
            "num_channels=3."
        )


def read_ours(folder: Path) -> ViTCustomConfig:
    """Return the configuration of a saved model of ours: a classifier, or an encoder, which has no labels.

    Raises ConversionError for any other folder.
    """
    if not (folder / CONFIG).is_file():
        raise ConversionError(f"{folder} holds no config.json: give a folder saved by this package.")
    stored, _ = PreTrainedConfig.get_config_dict(folder)
    if stored.get("model_type") != ViTCustomConfig.model_type:
        raise ConversionError(f"{folder} holds a {stored.get('model_type')!r}: only models of this package go --to.")
    name = (stored.get("architectures") or [None])[0]
    if name not in _CLASSES:
        raise ConversionError(f"{folder}: architectures names {name}; what goes --to is {' or '.join(_CLASSES)}.")
    encoder = {} if _CLASSES[name] is ViTCustomForImageClassification else {"num_labels": 0}
    try:
        return ViTCustomConfig.from_dict(stored, **encoder)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ConversionError(f"{folder}: {error}") from error


def load_ours(folder: Path, config: ViTCustomConfig) -> ViTCustomForImageClassification | ViTCustomModel:
    """Load the classifier, or the encoder if there are no labels, in eval mode and its own dtype.

    Raises ConversionError for weights that do not fit.
    """
    cls: Any = _CLASSES[(config.architectures or [""])[0]]
    try:
        model = cls.from_pretrained(folder, dtype="auto").eval()
        model.drop_unknown("another library's class")
    except (RuntimeError, ValueError) as error:
        raise ConversionError(f"{folder}: {error}") from error
    return model.vit if cls is ViTCustomForImageClassification and not config.num_labels else model


def _read_processor(folder: Path) -> ViTCustomImageProcessor:
    if not (folder / PROCESSOR).is_file():
        raise ConversionError(f"{folder} holds no preprocessor_config.json. Save its image processor, or write a file.")
    return ViTCustomImageProcessor.from_pretrained(folder)


def _origin(folder: Path) -> dict[str, Any]:
    """Which weights were converted, and where those came from, if they were themselves converted."""
    digest, earlier = weights_digest(folder), read_record(folder / CONVERSION)
    known = {name: earlier[name] for name in ("source", "family", "notes") if name in earlier}
    return {BEFORE: digest and {"sha256": digest}} | ({"converted_before": known} if known else {})


def _named(model: Any, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a classifier or an encoder under their full names."""
    prefix = "" if isinstance(model, ViTCustomForImageClassification) else "vit."
    return {prefix + name: tensor for name, tensor in tensors.items()}


def compare(exported: Exported, model: Any, processor: Any | None = None) -> dict[str, Any]:
    """Compare both models in float32 on random images of the native size; report as `check.compare`.

    processor: of `model`; None leaves pixels out.
    """
    theirs, ours = (_in_float32(one) for one in (exported.model, model))
    only = "an export is of one size"
    reference = Reference(exported.kind, partial(exported.run, theirs), exported.prepare, only_size=only)
    rows, report = compare_tensors(reference, ours), {}
    if processor is not None:
        report["from_pixels"] = compare_pixels(reference, ours, processor)
        report["tolerance_in_grey_levels"] = {"largest": GREY_LEVELS, "mean": MEAN_GREY_LEVELS}
    return {
        "passed": all(row["passed"] for row in (*rows, *([report["from_pixels"]] if report else []))),
        "reference": exported.kind,
        "images": IMAGES,
        "tolerance": TOLERANCE,
        "from_tensors": rows,
        **report,
    }


def _difference(name: str, check: Mapping[str, Any]) -> str:
    pixels = check.get("from_pixels", {"passed": True})
    if pixels["passed"] or not check["from_tensors"][0]["passed"]:
        return f"{name} gives other numbers than this model: {check['from_tensors'][0]}."
    if "grey_levels" not in pixels:
        return f"{name}'s image processor makes {pixels['size']} pixels of an image, ours {pixels['size_here']}."
    return (
        f"{name}'s image processor makes other pixels than preprocessor_config.json: off by up to "
        f"{pixels['grey_levels']:.3g} of 255 grey levels, {pixels['mean_grey_levels']:.2g} on average (allowed: "
        f"{GREY_LEVELS:.2g} and {MEAN_GREY_LEVELS:.2g}). Publish this model with its own code."
    )


def _in_float32(model: Any) -> Any:
    if all(tensor.dtype == torch.float32 for tensor in model.parameters()):
        return model
    return copy.deepcopy(model).float()
