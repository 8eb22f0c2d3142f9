"""Builds our model and its image processor from a source and its family, with a note on each assumption.

Shapes: D width, H heads.
"""

from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from ..configuration_vit_custom import ViTCustomConfig
from ..image_processing_vit_custom import ViTCustomImageProcessor
from ..modeling_vit_custom import ViTCustomForImageClassification, ViTCustomModel
from ..position_vit_custom import sincos_table
from ..weight_files_vit_custom import shorten_list
from .engine import ConversionError, Shapes, State, fill, own, read
from .family import Family, Source
from .structure import square_image_size, structure_of

HEAD_DIM = 64  # head size of every published ViT whose file does not state the number of heads
_HALVES = (torch.bfloat16, torch.float16)
Converted = ViTCustomForImageClassification | ViTCustomModel


@dataclass(frozen=True)
class Conversion:
    """model: in eval mode; a classifier if the source has one, else the encoder.   notes: one sentence each."""

    model: Converted
    processor: ViTCustomImageProcessor
    family: Family
    notes: list[str]


def build(source: Source, family: Family) -> Conversion:
    """Convert every tensor, or raise ConversionError: no weight is initialised at random."""
    if not family.matches(source.state):
        raise ConversionError(f"{source.origin} is not of the family {family.name}: {family.lacks(source.state)}.")
    tensors, notes = read(family.table, in_full(source.state))
    structure = structure_of(tensors)
    settings = family.settings(source, tensors)
    notes += settings.notes
    fields = structure | settings.fields | dict(source.flags)
    if fields.get("image_size") is None:
        size = square_image_size(tensors, fields["patch_size"])
        if size is None:
            raise ConversionError("the image size cannot be read off these tensors: give it with --image_size.")
        fields["image_size"] = size
        notes.append(f"image_size={size}: read off the positions; with pixels beyond the last patch, give --image_size")
    if "num_attention_heads" not in fields:
        fields["num_attention_heads"] = fields["hidden_size"] // HEAD_DIM
        notes.append(f"num_attention_heads={fields['num_attention_heads']}: taken as heads of {HEAD_DIM}")
    if "id2label" in fields and len(fields["id2label"]) == fields["num_labels"]:
        del fields["num_labels"]  # the labels determine it
    elif fields.pop("id2label", None) is not None and fields["num_labels"]:
        raise ConversionError(f"the classifier has {fields['num_labels']} outputs, the configuration other labels.")
    try:
        config = ViTCustomConfig(**fields)
        processor = ViTCustomImageProcessor.for_model(config, **settings.processor)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ConversionError(f"these tensors and settings are no model: {error}") from error
    _check_positions(config, tensors)
    if config.position_embedding == "sincos2d":
        computed = sincos_table(config.grid_hw, config.hidden_size)[None]
        tensors.setdefault("vit.embeddings.position_embeddings", computed.to(next(iter(tensors.values())).dtype))
    filled = fill(family.table, tensors, shapes_of(config))
    halves = {tensor.dtype for tensor in source.state.values() if tensor.is_floating_point()}
    if halves <= set(_HALVES) and len(halves) == 1:
        filled, said = in_half(filled, *halves)
        notes += said
    model = load(config, filled)
    return Conversion(model, processor, family, notes)


def _check_positions(config: ViTCustomConfig, tensors: State) -> None:
    """Raise ConversionError if the image size, given or stored, does not match the position table."""
    table = tensors.get("vit.embeddings.position_embeddings")
    rows, columns = config.grid_hw
    if table is None or table.shape[1] == rows * columns:
        return
    p, q = config.patch_hw
    size = square_image_size(tensors, p if p == q else (p, q))
    fit = f"image_size={size}" if size else "no square image"
    raise ConversionError(
        f"image_size={config.image_size} has {rows}x{columns} patches, but position_embeddings has {table.shape[1]} "
        f"positions: those of {fit}. Convert at that size; loading or training with another image_size resamples them."
    )


def in_full(state: State) -> dict[str, torch.Tensor]:
    """Cast half-precision tensors to float32, so that sums are not rounded."""
    return {name: tensor.float() if tensor.dtype in _HALVES else tensor for name, tensor in state.items()}


def in_half(state: dict[str, torch.Tensor], dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Cast the tensors back to `dtype` if no number would be rounded, else return them unchanged with a note."""
    halved = {name: tensor.to(dtype) for name, tensor in state.items()}
    if rounded := [name for name, tensor in state.items() if not torch.equal(halved[name].float(), tensor.float())]:
        return state, [f"stored in float32: {dtype} would round {shorten_list(rounded)}, which are sums here"]
    return halved, []


def shapes_of(config: ViTCustomConfig) -> Shapes:
    """Return full name and shape of every tensor of the classifier (or, without labels, of the encoder)."""
    with torch.device("meta"):
        model = ViTCustomForImageClassification(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def load(config: ViTCustomConfig, state: State) -> Converted:
    """Build the model, in eval mode, from copies of these tensors."""
    with torch.device("meta"):
        whole = ViTCustomForImageClassification(config)
    whole.load_state_dict({name: own(tensor) for name, tensor in state.items()}, strict=True, assign=True)
    model: Any = whole if config.num_labels or config.pre_logits_size else whole.vit
    return model.eval()
