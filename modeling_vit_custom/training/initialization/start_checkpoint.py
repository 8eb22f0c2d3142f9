"""The checkpoint that a training starts from: one of ours, or one of another library, converted in memory."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.utils import cached_file

from ...common.errors import UsageError
from ...common.model_files import CONVERSION
from ...configuration_vit_custom import ViTCustomConfig
from ...conversion.build import Conversion, build
from ...conversion.convert import describe
from ...conversion.sources import open_source
from ...image_processing_vit_custom import ViTCustomImageProcessor
from ...inference.foreign import stored_fields
from ...pretrained_vit_custom import INPUT_FIELDS, ViTCustomPreTrainedModel
from ...tasks.hub import CLASSIFICATION
from ...tasks.registry import task_of
from ...weight_files_vit_custom import parse_strict_json

# What --source_config may say of another library's checkpoint, which has none of our heads.
FIELDS = ViTCustomConfig.__dataclass_fields__.keys() - PreTrainedConfig.__dataclass_fields__.keys() - {"heads"} | {
    "family"
}


@dataclass(frozen=True)
class Start:
    """Where the weights of a training come from, by its flags.

    checkpoint, variant: one of them is given.   fields: of the configuration, to be changed.   image_size: to be
    changed; None: as stored.
    source_fields: what another library's checkpoint does not say of itself; None if not given.
    options: of `from_pretrained`, for the Hub.   head_alone: whether only the head will be trained.
    """

    checkpoint: str | None = None
    variant: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    image_size: int | tuple[int, int] | None = None
    source_fields: dict[str, Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    ignore_mismatched_sizes: bool = False
    head_alone: bool = False


@dataclass(frozen=True)
class Pretrained:
    """An opened checkpoint.

    config, processor: as stored.
    load: (configuration fields to change, keywords of `from_pretrained`) → what `from_pretrained` returns.
    report: content of the conversion.json of its weights; None if they come from no other library.
    notes: sentences on a conversion made just now and its assumptions.
    """

    config: ViTCustomConfig
    processor: ViTCustomImageProcessor
    load: Callable[..., Any]
    report: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)


def open_checkpoint(
    start: Start, model_class: type[ViTCustomPreTrainedModel] = CLASSIFICATION.model
) -> Pretrained | None:
    """Return the checkpoint that --model_name_or_path names, to be loaded as `model_class`; None if none is named.

    Raises UsageError if it cannot be read or converted.
    """
    if (name := start.checkpoint) is None:
        return None
    if is_foreign(name):
        return _converted(name, start.source_fields or {}, model_class)
    if start.source_fields is not None:
        raise UsageError(f"--source_config is for other libraries: {name} is ours, see --config_overrides.")
    return _ours(name, start.options, model_class)


def variant_config(start: Start, **labels: Any) -> ViTCustomConfig:
    """Return the configuration of --variant and the flags given with it. Raises UsageError if it is invalid."""
    size = {} if start.image_size is None else {"image_size": start.image_size}
    try:
        return ViTCustomConfig.from_variant(str(start.variant), **{**start.fields, **labels, **size})
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise UsageError(f"--variant {start.variant} with these flags is no model: {error}") from error


def check_whole_patches(start: Start, pretrained: Pretrained | None) -> None:
    """Raise UsageError for a requested image size that is no multiple of the patches and would be cropped.

    A stored size is taken as it is.
    """
    size: Any = start.image_size or start.fields.get("image_size")
    if size is None:
        return
    config = variant_config(replace(start, image_size=None)) if pretrained is None else pretrained.config
    patch: Any = start.fields.get("patch_size", config.patch_size)
    square = isinstance(size, int) and isinstance(patch, int)
    sides, cells = ([size], [patch]) if square else (_pair(size), _pair(patch))
    if len(sides) != len(cells) or not all(isinstance(side, int) and side > 0 for side in (*sides, *cells)):
        return  # the configuration will say what is wrong
    cut = [(side // cell * cell, -(-side // cell) * cell) for side, cell in zip(sides, cells, strict=True)]
    if any(below != above for below, above in cut):
        fitting = [" ".join(map(str, fit)) for fit in zip(*cut, strict=True) if all(fit)]
        raise UsageError(
            f"--image_size {' '.join(map(str, sides))} is no multiple of the patches' {' x '.join(map(str, cells))} "
            f"pixels, and images would be cropped: give {' or '.join(fitting)}."
        )


def refuse_dense(start: Start, pretrained: Pretrained | None) -> None:
    """Raise UsageError for a model with an answer a pixel: no training continues it yet, or takes its encoder."""
    if pretrained is not None:
        try:
            task_of(pretrained.config).listing.refuse_dense(f"--model_name_or_path {start.checkpoint}")
        except ValueError as error:
            raise UsageError(str(error)) from error


def _pair(size: Any) -> list[Any]:
    return list(size) if isinstance(size, list | tuple) else [size, size]


def is_foreign(name: str) -> bool:
    """Return whether `name` must be converted: a file, a folder with a configuration that is not ours, LIBRARY:NAME.

    Raises UsageError for a folder whose configuration cannot be read.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return folder.is_file() or ":" in name
    try:
        fields, _ = PreTrainedConfig.get_config_dict(folder)
    except (OSError, ValueError) as error:
        raise UsageError(f"--model_name_or_path {name} cannot be used: {error}") from error
    return fields.get("model_type") != ViTCustomConfig.model_type


def _ours(name: str, options: Mapping[str, Any], model_class: type[ViTCustomPreTrainedModel]) -> Pretrained:
    softly = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    try:
        stored_fields(name, **options)
        config: Any = ViTCustomConfig.from_pretrained(name, **options)
        processor = ViTCustomImageProcessor.from_pretrained(name, **options)
        found = cached_file(name, CONVERSION, **softly, **options)
        report = None if found is None else parse_strict_json(Path(found).read_bytes(), CONVERSION)
    except (OSError, ValueError, StrictDataclassError) as error:
        raise UsageError(
            f"--model_name_or_path {name} cannot be used: {error}\nGive a folder or Hub name of ours, or a source that "
            "`vit-custom convert` reads: a file, a folder saved by transformers, timm:NAME, torchvision:NAME."
        ) from error
    if getattr(config, "quantization_config", None) is not None:
        raise UsageError(
            f"--model_name_or_path {name} is quantised, and a training changes weights that are numbers. Give the "
            "checkpoint that was quantised; adapters beside quantised weights are peft's, in Python."
        )
    load = model_class.from_pretrained
    return Pretrained(config, processor, lambda fields, **how: load(name, **fields, **options, **how), report)


def _converted(name: str, given: Mapping[str, Any], model_class: type[ViTCustomPreTrainedModel]) -> Pretrained:
    fields = dict(given)
    if unknown := sorted(fields.keys() - FIELDS):
        raise UsageError(f"--source_config: {', '.join(unknown)} unknown; it takes {', '.join(sorted(FIELDS))}.")
    family = fields.pop("family", None)
    path = Path(name).expanduser()
    source = os.path.abspath(path) if path.exists() else name
    try:
        opened = open_source(source, fields, family)
        conversion = build(opened.source, opened.family)
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        raise UsageError(f"--model_name_or_path {name} cannot be converted: {_with_our_flags(str(error))}") from error
    report = describe(source, conversion)
    notes = [f"converted from {report['source']}, family {report['family']}, {report['parameters']:,} parameters"]
    notes += map(_with_our_flags, report["notes"])
    config: Any = conversion.model.config
    config.dtype = conversion.model.dtype
    return Pretrained(config, conversion.processor, partial(_load_converted, conversion, model_class), report, notes)


def _load_converted(
    conversion: Conversion, model_class: type[ViTCustomPreTrainedModel], overrides: Mapping[str, Any], **how: Any
) -> Any:
    """Load as if from a saved conversion. None is saved: only the first of several processes would write the file."""
    model: Any = conversion.model
    prefix = f"{model.base_model_prefix}." if model.base_model is model else ""  # a bare encoder's names have no prefix
    at_input = {name: value for name, value in overrides.items() if name in INPUT_FIELDS}
    others = {name: value for name, value in overrides.items() if name not in INPUT_FIELDS}
    config, unknown = ViTCustomConfig.from_dict(model.config.to_dict(), return_unused_kwargs=True, **others)
    tensors = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    return model_class.from_pretrained(None, config=config, state_dict=tensors, **at_input, **unknown, **how)


def _with_our_flags(text: str) -> str:
    """The text with the flags of `convert` that it names rewritten as --source_config NAME=…"""
    return re.sub(r"--(\w+)", lambda flag: f"--source_config {flag[1]}=…" if flag[1] in FIELDS else flag[0], text)
