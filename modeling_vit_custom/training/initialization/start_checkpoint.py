"""The checkpoint a training starts from: one of ours, or another library's, converted in memory."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
from ...modeling_vit_custom import ViTCustomForImageClassification
from ...pretrained_vit_custom import INPUT_FIELDS, ViTCustomPreTrainedModel
from ...weight_files_vit_custom import parse_strict_json

FIELDS = ViTCustomConfig.__dataclass_fields__.keys() - PreTrainedConfig.__dataclass_fields__.keys() | {"family"}


@dataclass(frozen=True)
class Start:
    """Where the weights of a training come from, as its flags say.

    checkpoint, variant: one of them.   fields: of the configuration that shall differ.   image_size: if another.
    source_fields: what a checkpoint of another library does not say of itself; None where nothing was given.
    options: of `from_pretrained`, for the Hub.   head_alone: nothing but the head will be trained.
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
    """config, processor: as stored.

    load: (configuration fields that shall differ, keywords of `from_pretrained`) → what that returns.
    report: what the conversion.json of its weights holds; None where they come from no other library.
    notes: a sentence on each thing that was assumed in converting them just now.
    """

    config: ViTCustomConfig
    processor: ViTCustomImageProcessor
    load: Callable[..., Any]
    report: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)


def open_checkpoint(
    start: Start, model_class: type[ViTCustomPreTrainedModel] = ViTCustomForImageClassification
) -> Pretrained | None:
    """What --model_name_or_path names, to be loaded as `model_class`; None without one.

    Raises UsageError where it cannot be read or converted.
    """
    if (name := start.checkpoint) is None:
        return None
    if is_foreign(name):
        return _converted(name, start.source_fields or {}, model_class)
    if start.source_fields is not None:
        raise UsageError(f"--source_config is for other libraries: {name} is ours, see --config_overrides.")
    return _ours(name, start.options, model_class)


def is_foreign(name: str) -> bool:
    """Whether `name` is for `convert`: a file, a folder without a configuration of ours, LIBRARY:NAME."""
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
    """As if the conversion had been saved. It is not: only the first of several processes would write a file."""
    model: Any = conversion.model
    prefix = "" if isinstance(model, ViTCustomForImageClassification) else f"{model.base_model_prefix}."
    at_input = {name: value for name, value in overrides.items() if name in INPUT_FIELDS}
    others = {name: value for name, value in overrides.items() if name not in INPUT_FIELDS}
    config, unknown = ViTCustomConfig.from_dict(model.config.to_dict(), return_unused_kwargs=True, **others)
    tensors = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    return model_class.from_pretrained(None, config=config, state_dict=tensors, **at_input, **unknown, **how)


def _with_our_flags(text: str) -> str:
    """The flags of `convert` that a sentence names, as they are given here."""
    return re.sub(r"--(\w+)", lambda flag: f"--source_config {flag[1]}=…" if flag[1] in FIELDS else flag[0], text)
