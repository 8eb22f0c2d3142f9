"""Opening a source by the name that a user gave: its `Source`, its family, and its reference in its own library.

FILE.npz                 Google's checkpoints
FILE.safetensors, .pth   tensors under any library's names; nothing in them is run
FOLDER                   a model saved by transformers, or by timm for the Hub; without safetensors files, only the
                         tensors of its pytorch_model.bin are read
timm:NAME, torchvision:NAME   a live pretrained model of an installed library
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.utils import WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from ..common.model_files import CONFIG
from ..inference.foreign import check_fields, check_timm_folder, header_of, stored_fields
from ..weight_files_vit_custom import parse_strict_json, read_headers, shorten_list
from . import (
    export_huggingface,
    google,
    huggingface,
    huggingface_reference,
    meta,
    meta_reference,
    timm_vit,
    torchvision_vit,
)
from .build import Conversion
from .check import Reference
from .engine import ConversionError, State
from .family import Family, Source

# For each library: how to bring tensor names to one spelling, and the families that these names distinguish.
LIBRARIES: tuple[tuple[Callable[[State], Mapping[str, Any]], list[Family]], ...] = (
    (huggingface.canonical, huggingface.FAMILIES),
    (meta.canonical, meta.FAMILIES),
    (dict, torchvision_vit.FAMILIES),
    (dict, google.FAMILIES),
)

_SHARD = re.compile(r"pytorch_model-\d+-of-\d+\.bin")


@dataclass(frozen=True)
class Opened:
    """A source and its family.   reference: conversion → the source as its own library runs it."""

    source: Source
    family: Family
    reference: Callable[[Conversion], Reference]


def open_source(name: str, flags: Mapping[str, Any], family: str | None = None) -> Opened:
    """Open the source `name`. Raises ConversionError if it cannot be read, or matches no or several families."""
    library, _, model = name.partition(":")
    if library in _LIVE and model:
        return _LIVE[library](model, name, flags)
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder(path, name, flags, family)
    if not path.is_file():
        raise ConversionError(f"{name} is no file, no folder, and does not begin with {':, '.join(_LIVE)}:.")
    if path.name == WEIGHTS_NAME and (path.parent / CONFIG).is_file() and not _safe_files(path.parent):
        return _folder(path.parent, name, flags, family)  # the file alone has neither heads nor labels
    readers: dict[str, Callable[[Path], State]] = {
        ".npz": google.read_npz, ".safetensors": _safetensors, ".pth": meta.read_pth, ".pt": meta.read_pth,
        ".bin": meta.read_pth,
    }  # fmt: skip
    if path.suffix.lower() not in readers:
        raise ConversionError(f"{name}: files end in {', '.join(readers)}.")
    source, found = identify(name, readers[path.suffix.lower()](path), flags, family)
    return Opened(source, found, _reference_of_file(path, source, found))


def _reference_of_file(path: Path, source: Source, family: Family) -> Callable[[Conversion], Reference]:
    """Reference for bare tensors: another implementation than ours, with the settings that the conversion assumed."""
    if path.suffix.lower() == ".npz":
        return lambda made: google.reference_of(path, made.model.config, family.name)
    if family in meta.FAMILIES:
        return lambda made: meta_reference.reference_of(
            family.name, source.state, made.model.config.num_attention_heads, made.model.config.image_hw[0]
        )
    if family in torchvision_vit.FAMILIES:
        return lambda made: torchvision_vit.reference_of_state(
            source.state, made.model.config, torchvision_vit.assumed_transforms(made.model.config.image_hw[0])
        )

    def by_transformers(made: Conversion) -> Reference:
        config: Any = made.model.config
        model, _ = export_huggingface.model_of(config, family.name, source.state)
        return huggingface_reference.reference_to(model, None, family.name, made.processor)

    return by_transformers


def identify(
    origin: str, state: State, flags: Mapping[str, Any], family: str | None = None, **settings: Any
) -> tuple[Source, Family]:
    """Return the source and its family, by tensor names or by `family`. Raises ConversionError unless one matches."""
    found = []
    for spell, families in LIBRARIES:
        spelled = spell(state)
        wanted = [one for one in families if one.name == family or (family is None and one.matches(spelled))]
        found += [(Source(origin, spelled, flags=flags, **settings), one) for one in wanted]
    if len(found) == 1:
        return found[0]
    known = ", ".join(one.name for _, families in LIBRARIES for one in families)
    if family is not None:
        raise ConversionError(f"--family {family} is unknown; the families are: {known}.")
    what = f"could be {', '.join(one.name for _, one in found)}" if found else f"are of no known family ({known})"
    hint = f" {meta.FOR_TIMM}." if "blocks.0.attn.qkv.weight" in meta.canonical(state) else ""
    raise ConversionError(f"{origin}: its tensors {what}. They begin with {', '.join(sorted(state)[:5])}.{hint}")


def _safetensors(path: Path) -> State:
    read_headers([path])
    return load_file(path)


def _safe_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _pickled(folder: Path, name: str) -> State:
    """The tensors of pytorch_model.bin, or of the shards in its index; nothing in them is run."""
    if (whole := folder / WEIGHTS_NAME).is_file():
        return meta.read_pickled(whole)
    if not (index := folder / WEIGHTS_INDEX_NAME).is_file():
        raise ConversionError(f"{name} holds no .safetensors file and no {WEIGHTS_NAME}.")
    weight_map: Any = parse_strict_json(index.read_bytes(), index).get("weight_map")
    places = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not places or not all(isinstance(file, str) and _SHARD.fullmatch(file) for file in places):
        what = "its weight_map must give each tensor a file pytorch_model-…-of-….bin beside it"
        raise ConversionError(f"{index}: {what}.")
    state: dict[str, torch.Tensor] = {}
    for file in sorted(set(places)):
        state |= meta.read_pickled(folder / file)
    if missing := sorted(weight_map.keys() - state.keys()):
        raise ConversionError(f"{name}: its index names {shorten_list(missing)}, which its files do not hold.")
    return state


def _folder(path: Path, name: str, flags: Mapping[str, Any], family: str | None) -> Opened:
    """A folder made by transformers' save_pretrained, or by timm for the Hub."""
    config = stored_fields(path)
    if not config:
        raise ConversionError(f"{name} holds no config.json: give a folder made by save_pretrained, or a file.")
    files = _safe_files(path)
    pickled = None if files else _pickled(path, name)
    header = header_of(pickled) if pickled is not None else read_headers(files)
    try:
        check_fields(name, config, header)
        if is_timm := "architecture" in config and "pretrained_cfg" in config:
            check_timm_folder(path, header, dynamic_img_size=True)
    except ValueError as error:
        raise ConversionError(str(error)) from error
    if is_timm:
        return _timm(f"local-dir:{path}", name, flags, pickled)
    state: dict[str, Any] = dict(pickled or {})
    for file in files:
        state |= load_file(file)
    processor = huggingface_reference.processor_of(path)
    source, found = identify(name, state, flags, family, config=config, processor=processor)
    return Opened(
        source,
        found,
        lambda made: huggingface_reference.reference_of(path, config, found.name, made.processor, pickled),
    )


def _timm(model: str, name: str, flags: Mapping[str, Any], pickled: State | None = None) -> Opened:
    """A timm model.   pickled: its tensors if they are in a pickle file, because timm would execute code in it."""
    import timm

    if model.replace("_", "-").startswith("hf-hub:") and not model.partition("@")[2]:
        raise ConversionError(f"{name} names no revision, and what lies on the Hub may change: give {name}@COMMIT.")
    try:
        if pickled is None and ":" not in model:  # before anything is downloaded
            _check_family(timm, model, name)
        made = timm.create_model(model, pretrained=pickled is None, dynamic_img_size=True)
        if pickled is not None:
            made.load_state_dict(pickled)
    except (RuntimeError, AssertionError) as error:
        raise ConversionError(f"{name}: timm cannot build it: {error}") from error
    return from_timm(made, name, flags)


def _check_family(timm: Any, model: str, name: str) -> None:
    """Raise ConversionError for a model with unsupported parts; the model is built by shapes alone."""
    with torch.device("meta"):
        shapes = timm.create_model(model, pretrained=False)
    try:
        timm_vit.family_of(shapes)
    except ConversionError as error:
        raise ConversionError(f"{name}: {error}") from error


def from_timm(model: Any, name: str, flags: Mapping[str, Any]) -> Opened:
    """Open a live timm model."""
    model = model.eval()
    source = Source(name, model.state_dict(), flags=flags)
    return Opened(source, timm_vit.family_of(model), lambda made: timm_vit.reference_of(model))


def _torchvision(model: str, name: str, flags: Mapping[str, Any]) -> Opened:
    from torchvision.models import get_model, get_model_weights, list_models

    if model not in (known := list_models(include="vit_*")):
        raise ConversionError(f"{name} is no Vision Transformer of torchvision: give one of {', '.join(known)}.")
    weights = get_model_weights(model).DEFAULT
    return from_torchvision(get_model(model, weights=weights), weights, name, flags)


def from_torchvision(model: Any, weights: Any, name: str, flags: Mapping[str, Any]) -> Opened:
    """Open a live torchvision model; `weights` is its weights entry, which has the preprocessing and the labels."""
    model = model.eval()
    config = torchvision_vit.config_of(model) | {"id2label": dict(enumerate(weights.meta["categories"]))}
    source, family = identify(
        name, model.state_dict(), flags, config=config, processor=torchvision_vit.processor_of(weights.transforms())
    )
    return Opened(source, family, lambda made: torchvision_vit.reference_of(model, weights.transforms()))


_LIVE: dict[str, Callable[[str, str, Mapping[str, Any]], Opened]] = {"timm": _timm, "torchvision": _torchvision}
