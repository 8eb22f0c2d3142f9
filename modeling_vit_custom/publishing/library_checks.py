"""Checks of a folder that holds a model of transformers or timm; none of them loads weights.

Each is a function as those of `checks`.
"""

import math
from pathlib import Path
from typing import Any

import torch
import transformers

from ..common.json_files import read_json
from ..common.model_files import CONFIG, PROCESSOR
from ..conversion.huggingface import canonical
from ..conversion.huggingface_models import ROWS
from ..inference.foreign import (
    check_fields,
    check_processor_fields,
    check_size,
    check_timm_folder,
    code_named,
    foreign_config,
    refuse_adapter,
)
from ..weight_files_vit_custom import Header, check_shapes, read_headers, shorten_list
from .forms import form_in, labels_for
from .staging import weight_files

CLASSES = {name for row in ROWS for name in (row.encoder, row.classifier) if name}
PROCESSORS = {"ViTImageProcessor", "ViTImageProcessorPil"}
CODE = ("auto_map", "custom_pipelines")
# What timm's pretrained_cfg may say: how images are prepared. Other keys name files, addresses or loaders.
PREPARATION = {
    "input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std", "num_classes",
    "first_conv", "classifier",
}  # fmt: skip


def no_code(folder: Path) -> str:
    """Check that nothing in the folder is code, and that no setting names any."""
    if found := sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py")):
        raise ValueError(f"{shorten_list(found)}: code, which a model of {form_in(folder).library} has not. Remove it.")
    for name in form_in(folder).configs:
        fields = read_json(folder / name)
        if named := [key for key in CODE if key in _keys(fields)] + code_named(fields):
            raise ValueError(f"{name} has {named[0]}, which names code to run. Remove it, or publish again.")
    return "none: no remote code is run, nor named"


def _keys(value: Any) -> set[str]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {*(value if isinstance(value, dict) else ()), *(key for each in inside for key in _keys(each))}


def header_in(folder: Path) -> Header:
    return read_headers([folder / name for name in weight_files(folder) if name.endswith(".safetensors")])


def _count(folder: Path) -> str:
    labels = labels_for(read_json(folder / CONFIG))
    return f"{len(labels)} labels" if labels else "an encoder"


# ---------- transformers


def hf_class(fields: dict[str, Any]) -> Any:
    """Return transformers' class of a config.json. Raises ValueError for one that `publish --as hf` does not write."""
    names = fields.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else names
    if name not in CLASSES:
        raise ValueError(f"config.json: architectures is {names}; give one of {', '.join(sorted(CLASSES))}.")
    return getattr(transformers, str(name))


def hf_configuration(folder: Path) -> str:
    fields = read_json(folder / CONFIG)
    refuse_adapter(folder)
    cls, config = hf_class(fields), foreign_config(folder, fields, header_in(folder), local_files_only=True)
    tower = getattr(cls, "config_class", None)
    if tower is not None and not isinstance(config, tower):
        raise ValueError(f"config.json: model_type is {fields.get('model_type')!r}, not that of {cls.__name__}.")
    return f"transformers' {cls.__name__}, {_count(folder)}"


def hf_weights_fit(folder: Path) -> str:
    """Check that the stored tensors have the names and shapes of transformers' model, built without memory."""
    fields, header = read_json(folder / CONFIG), header_in(folder)
    config, cls = foreign_config(folder, fields, header, local_files_only=True), hf_class(fields)
    check_size(folder, lambda: cls(config), header)
    with torch.device("meta"):
        model = cls(config)
    stored: Any = canonical(header)  # type: ignore[arg-type]
    check_shapes(stored, {name: tuple(tensor.shape) for name, tensor in canonical(model.state_dict()).items()})
    return f"{sum(tensor.numel() for tensor in model.parameters()):,} parameters, names and shapes as in the model"


def hf_processor(folder: Path) -> str:
    stored, config = read_json(folder / PROCESSOR), read_json(folder / CONFIG)
    if (kind := stored.get("image_processor_type")) not in PROCESSORS:
        raise ValueError(
            f"preprocessor_config.json: image_processor_type is {kind!r}; give {max(PROCESSORS, key=len)}."
        )
    check_processor_fields(folder, stored)
    made = stored.get("crop_size") if stored.get("do_center_crop") else stored.get("size")
    size = (config.get("vision_config") or config).get("image_size")
    height, width = (size, size) if isinstance(size, int) else size or (None, None)
    if made != {"height": height, "width": width}:
        raise ValueError(f"preprocessor_config.json gives {made}, the model takes {height}x{width} pixels.")
    return f"transformers' {kind}, {height}x{width} px, as the model takes"


# ---------- timm


def timm_configuration(folder: Path) -> str:
    fields = read_json(folder / CONFIG)
    check_fields(folder, fields, header_in(folder))
    prepared = fields.get("pretrained_cfg")
    if not isinstance(prepared, dict) or (unknown := sorted(prepared.keys() - PREPARATION)):
        said = shorten_list(unknown) if isinstance(prepared, dict) else type(prepared).__name__
        raise ValueError(f"config.json: pretrained_cfg holds {said}; it may say how images are prepared, nothing else.")
    return f"timm's {fields['architecture']}, {_count(folder)}"


def timm_weights_fit(folder: Path) -> str:
    import timm

    header = header_in(folder)
    check_timm_folder(folder, header)
    with torch.device("meta"):
        model = timm.create_model(f"local-dir:{folder}", pretrained=False)
    check_shapes(header, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
    return f"{sum(tensor.numel() for tensor in model.parameters()):,} parameters, names and shapes as in the model"


def timm_preparation(folder: Path) -> str:
    fields = read_json(folder / CONFIG)
    prepared, arguments = fields["pretrained_cfg"], fields.get("model_args") or {}
    channels, height, width = prepared["input_size"]
    size = arguments.get("img_size")
    if size not in (None, height if height == width else [height, width]):
        raise ValueError(f"config.json: pretrained_cfg gives {height}x{width} pixels, the model takes {size}.")
    for name in ("mean", "std"):
        if len(prepared[name]) != channels or not all(math.isfinite(value) for value in prepared[name]):
            raise ValueError(
                f"config.json: pretrained_cfg's {name} must hold {channels} numbers, not {prepared[name]}."
            )
    return f"timm's transform, {height}x{width} px, {channels} channels, as the model takes"
