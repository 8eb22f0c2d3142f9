"""`vit-custom convert --to`: a saved folder of ours, as a model of transformers or timm."""

import copy
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from ..common.json_files import write_json
from ..common.model_files import CONFIG, CONVERSION, PROCESSOR
from ..common.outputs import check_new_folder, new_folder
from ..configuration_vit_custom import ViTCustomConfig
from ..image_processing_vit_custom import ViTCustomImageProcessor
from ..modeling_vit_custom import ViTCustomForImageClassification, ViTCustomModel
from . import export_huggingface, export_timm
from .check import IMAGES, TOLERANCE, Reference, compare_tensors
from .engine import ConversionError
from .target import Exported, Target, choose

LIBRARIES: dict[str, Sequence[Target]] = {"hf": export_huggingface.TARGETS, "timm": export_timm.TARGETS}
_CLASSES = {cls.__name__: cls for cls in (ViTCustomForImageClassification, ViTCustomModel)}


def export(source: str, output: str | Path, library: str, family: str | None = None) -> dict[str, Any]:
    """Writes the saved folder `source` of ours as a model of `library` ("hf" or "timm"); returns the report.

    output: a new or empty folder, which the library then loads, or a new file *.safetensors for the tensors alone.
    family: the kind of model it is to be; without it the first that expresses ours. Raises ConversionError, before
    anything is written, where none does, naming the configuration fields, and where the two models' outputs differ.
    """
    output = Path(output)
    tensors_only = output.suffix == ".safetensors"
    check_new_folder(output, ConversionError, empty=not tensors_only)
    folder = Path(source).expanduser()
    config = _read_config(folder)
    if getattr(config, "quantization_config", None) is not None:
        raise ConversionError(f"{source} is quantised: give the checkpoint that was, and quantise what comes out.")
    target = choose(LIBRARIES[library], config, family)
    model = _load(folder, config)
    processor = None if tensors_only else _read_processor(folder)
    prefix = "" if isinstance(model, ViTCustomForImageClassification) else "vit."
    tensors = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    exported = target.build(config, tensors, processor)
    check = compare(exported, model)
    if not check["passed"]:
        raise ConversionError(f"{target.name} gives other numbers than this model: {check['from_tensors'][0]}.")
    report = {
        "source": folder.name,
        "family": f"{target.name} ({exported.kind})",
        "parameters": sum(parameter.numel() for parameter in exported.model.parameters()),
        "image_size": list(config.image_hw),
        "classes": config.num_labels,
        "notes": target.notes(config) + exported.notes,
        "check": check,
    }
    if tensors_only:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as aside:
            exported.save_tensors(Path(aside) / output.name)
            os.replace(Path(aside) / output.name, output)
        return report
    with new_folder(output, ConversionError) as folder:
        exported.save(folder)
        write_json(folder / CONVERSION, report)
    return report


def _read_config(folder: Path) -> ViTCustomConfig:
    """The configuration of what the folder holds: a classifier, or an encoder, which has no labels."""
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


def _load(folder: Path, config: ViTCustomConfig) -> ViTCustomForImageClassification | ViTCustomModel:
    """The classifier, or where there are no labels the encoder, in eval mode and its own dtype."""
    cls: Any = _CLASSES[(config.architectures or [""])[0]]
    try:
        model = cls.from_pretrained(folder, dtype="auto").eval()
    except (RuntimeError, ValueError) as error:
        raise ConversionError(f"{folder}: {error}") from error
    return model.vit if cls is ViTCustomForImageClassification and not config.num_labels else model


def _read_processor(folder: Path) -> ViTCustomImageProcessor:
    if not (folder / PROCESSOR).is_file():
        raise ConversionError(f"{folder} holds no preprocessor_config.json. Save its image processor, or write a file.")
    return ViTCustomImageProcessor.from_pretrained(folder)


def compare(exported: Exported, model: Any) -> dict[str, Any]:
    """Both in float32 on random images of the native size: a report as of `check.compare`, without pixels."""
    theirs, ours = (_in_float32(one) for one in (exported.model, model))
    reference = Reference(exported.kind, partial(exported.run, theirs), only_size="an export is of one size")
    rows = compare_tensors(reference, ours)
    return {
        "passed": all(row["passed"] for row in rows),
        "reference": exported.kind,
        "images": IMAGES,
        "tolerance": TOLERANCE,
        "from_tensors": rows,
    }


def _in_float32(model: Any) -> Any:
    if all(tensor.dtype == torch.float32 for tensor in model.parameters()):
        return model
    return copy.deepcopy(model).float()
