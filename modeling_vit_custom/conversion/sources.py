"""From what a user names to a `Source`, its family, and the source as its own library runs it.

FILE.npz                 Google's checkpoints
FILE.safetensors, .pth   tensors under any library's names; nothing in them is run
FOLDER                   a model saved by transformers, or as timm pushes them to the Hub
timm:NAME, torchvision:NAME   a live pretrained model of an installed library
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ..inference.foreign import check_fields, check_timm_folder, stored_fields
from ..weight_files_vit_custom import read_headers
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

# How each library's names are brought to one spelling, and the families told apart by them.
LIBRARIES: tuple[tuple[Callable[[State], Mapping[str, Any]], list[Family]], ...] = (
    (huggingface.canonical, huggingface.FAMILIES),
    (meta.canonical, meta.FAMILIES),
    (dict, torchvision_vit.FAMILIES),
    (dict, google.FAMILIES),
)


@dataclass(frozen=True)
class Opened:
    """A source and its family.   reference: makes of the conversion the source as its library runs it."""

    source: Source
    family: Family
    reference: Callable[[Conversion], Reference]


def open_source(name: str, flags: Mapping[str, Any], family: str | None = None) -> Opened:
    """Reads what `name` names. Raises ConversionError where that is not possible, or not of one known family."""
    library, _, model = name.partition(":")
    if library in _LIVE and model:
        return _LIVE[library](model, name, flags)
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder(path, name, flags, family)
    if not path.is_file():
        raise ConversionError(f"{name} is no file, no folder, and does not begin with {':, '.join(_LIVE)}:.")
    readers: dict[str, Callable[[Path], State]] = {
        ".npz": google.read_npz, ".safetensors": _safetensors, ".pth": meta.read_pth, ".pt": meta.read_pth,
        ".bin": meta.read_pth,
    }  # fmt: skip
    if path.suffix.lower() not in readers:
        raise ConversionError(f"{name}: files end in {', '.join(readers)}.")
    source, found = identify(name, readers[path.suffix.lower()](path), flags, family)
    return Opened(source, found, _reference_of_file(path, source, found))


def _reference_of_file(path: Path, source: Source, family: Family) -> Callable[[Conversion], Reference]:
    """How bare tensors are run by another code than ours, of the settings that were taken for them."""
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
    """The family whose names these tensors bear, or the one asked for. Raises ConversionError for none and several."""
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


def _folder(path: Path, name: str, flags: Mapping[str, Any], family: str | None) -> Opened:
    """A folder made by transformers' save_pretrained, or by timm for the Hub."""
    config = stored_fields(path)
    if not config:
        raise ConversionError(f"{name} holds no config.json: give a folder made by save_pretrained, or a file.")
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ConversionError(f"{name} holds no .safetensors file; pickled weights are not read from a folder.")
    header = read_headers(files)
    try:
        check_fields(name, config, header)
        if is_timm := "architecture" in config and "pretrained_cfg" in config:
            check_timm_folder(path, header, dynamic_img_size=True)
    except ValueError as error:
        raise ConversionError(str(error)) from error
    if is_timm:
        return _timm(f"local-dir:{path}", name, flags)
    state: dict[str, torch.Tensor] = {}
    for file in files:
        state |= load_file(file)
    processor = huggingface_reference.processor_of(path)
    source, found = identify(name, state, flags, family, config=config, processor=processor)
    return Opened(
        source,
        found,
        lambda made: huggingface_reference.reference_of(path, config, found.name, made.processor),
    )


def _timm(model: str, name: str, flags: Mapping[str, Any]) -> Opened:
    import timm

    try:
        made = timm.create_model(model, pretrained=True, dynamic_img_size=True)
    except (RuntimeError, AssertionError) as error:
        raise ConversionError(f"{name}: timm cannot build it: {error}") from error
    return from_timm(made, name, flags)


def from_timm(model: Any, name: str, flags: Mapping[str, Any]) -> Opened:
    """A live timm model."""
    model = model.eval()
    source = Source(name, model.state_dict(), flags=flags)
    return Opened(source, timm_vit.family_of(model), lambda made: timm_vit.reference_of(model))


def _torchvision(model: str, name: str, flags: Mapping[str, Any]) -> Opened:
    from torchvision.models import get_model, get_model_weights

    weights = get_model_weights(model).DEFAULT
    return from_torchvision(get_model(model, weights=weights), weights, name, flags)


def from_torchvision(model: Any, weights: Any, name: str, flags: Mapping[str, Any]) -> Opened:
    """A live torchvision model; `weights` is its entry of the weights table, which knows preprocessing and labels."""
    model = model.eval()
    config = torchvision_vit.config_of(model) | {"id2label": dict(enumerate(weights.meta["categories"]))}
    source, family = identify(
        name, model.state_dict(), flags, config=config, processor=torchvision_vit.processor_of(weights.transforms())
    )
    return Opened(source, family, lambda made: torchvision_vit.reference_of(model, weights.transforms()))


_LIVE: dict[str, Callable[[str, str, Mapping[str, Any]], Opened]] = {"timm": _timm, "torchvision": _torchvision}
