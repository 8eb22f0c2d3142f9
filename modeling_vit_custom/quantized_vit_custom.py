"""Weights that are no ordinary tensors: quantised, offloaded, or in a layer that an adapter or a hook has changed.

What computes with a layer calls it, and then all of these act. What reads or replaces its weights asks here first.
"""

import copy
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import nn

# What quantisers of transformers call the layers that they leave as they are.
_LEFT_OUT = ("modules_to_not_convert", "llm_int8_skip_modules")


def is_ordinary(tensor: torch.Tensor) -> bool:
    """Whether the numbers of a tensor are just there: it is not quantised, sharded, or without data."""
    return type(tensor) in (torch.Tensor, nn.Parameter) and not tensor.is_meta


def has_own_weights(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a layer computes what a `kind` with its weights does: no adapter, no hook, ordinary weights."""
    hooked = "forward" in vars(layer) or layer._forward_hooks or layer._forward_pre_hooks
    return type(layer) is kind and not hooked and all(map(is_ordinary, layer.parameters()))


def plain_parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The ordinary tensors that a tensor is made of: itself, or a quantised one's codes, scales and zero points."""
    if hasattr(tensor, "full_tensor"):  # sharded by torch, which computes with it as with a whole one
        return [tensor.detach()]
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return [part for name in names for part in plain_parts(getattr(tensor, name))]
    return [tensor.detach().as_subclass(torch.Tensor)]


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no number of a tensor is NaN or infinite; of a quantised one its scales and zero points count too."""
    return all(map(_is_finite, plain_parts(tensor)))


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel() or "float4" in str(tensor.dtype):
        return True
    numbers = tensor if tensor.itemsize > 1 else tensor.float()  # float8 knows no comparisons
    return all(extreme.isfinite() for extreme in numbers.aminmax())


def check_resampling(layer: nn.Module, name: str, kind: type[nn.Module] | None = None) -> None:
    """Raises ValueError unless `layer.name` can be replaced by a resampled tensor.

    kind: the class of the layer where nothing has wrapped it.
    """
    wrapped = kind is not None and type(layer) is not kind
    if not wrapped and is_ordinary(tensor := getattr(layer, name)):
        return
    if wrapped:
        what, fix = f"it is in a {type(layer).__name__}, such as an adapter makes", "Merge the adapter first"
    elif tensor.is_meta:
        what, fix = "it is offloaded", "Resize the model where all of it is in memory, save it, and offload that"
    else:
        what, fix = f"it is a {type(tensor).__name__}", "Resize the model before it is quantised or sharded, save it"
    raise ValueError(f"{name} of the {type(layer).__name__} cannot be resampled: {what}. {fix}.")


def linear_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The linear layers by name, also those of a quantiser's own class."""
    return ((name, layer) for name, layer in model.named_modules() if hasattr(layer, "in_features"))


def keep_new_layers_plain(model: Any, stored: Mapping[str, tuple[int, ...] | None], quantizer: Any) -> list[str]:
    """Before loading: layers that a checkpoint does not fill are not quantised, as only plain ones can be initialised.

    stored: the shapes of the checkpoint's tensors, None for one in a quantiser's own layout. The configuration of the
    quantiser, a copy from now on, leaves the layers out as well: what is saved is then loaded as it is. Returns the
    layers' names.
    """
    prefix, names = f"{model.base_model_prefix}.", []
    shapes = {name.removeprefix(prefix): shape for name, shape in stored.items()}
    filled = {parent for name in shapes for parent in accumulate(name.split("."), "{}.{}".format)}
    for name, layer in list(linear_layers(model)):
        own = name.removeprefix(prefix)
        needed = {"weight": (layer.out_features, layer.in_features), "bias": (layer.out_features,)}
        if own in filled and all(shapes.get(f"{own}.{part}") in (None, shape) for part, shape in needed.items()):
            continue
        bias = layer.bias is not None
        plain = nn.Linear(layer.in_features, layer.out_features, bias=bias, device="meta", dtype=model.dtype)
        model.set_submodule(name, plain)
        names.append(name)
    if names:
        quantizer.quantization_config = copy.deepcopy(quantizer.quantization_config)
        for holder in (quantizer, quantizer.quantization_config):
            for field in _LEFT_OUT:
                if hasattr(holder, field):
                    setattr(holder, field, [*(getattr(holder, field) or []), *names])
    return names


def shapes_of(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for named in (model.named_parameters(), model.named_buffers()) for name, tensor in named}


def renew_misfits(model: Any, needed: Mapping[str, torch.Size], new_layers: list[str]) -> set[Any]:
    """After loading: makes room for initial values where a plain tensor has not the shape that it had before.

    A quantiser fills a new layer with its old weights, and under it older transformers compare no shapes at all.
    Returns {(name, stored, needed)}.
    """
    found = set()
    for name, shape in needed.items():
        parent, _, own = name.rpartition(".")
        layer: Any = model.get_submodule(parent)
        tensor = getattr(layer, own)
        fits = tensor.shape == shape and (tensor.is_meta or is_ordinary(tensor))
        if fits or not (parent in new_layers or is_ordinary(tensor)):
            continue
        found.add((name, tensor.shape, shape))
        empty = torch.empty(shape, dtype=model.dtype, device="meta")
        setattr(layer, own, nn.Parameter(empty) if own in layer._parameters else empty)
    for name in new_layers:
        model.get_submodule(name)._is_hf_initialized = False  # a quantiser marks what it has filled
    return found


def misshapen(model: nn.Module) -> list[str]:
    """After loading: the quantised weights that have not the shape of their layer, which transformers compares not."""
    found = []
    for name, layer in linear_layers(model):
        weight: Any = getattr(layer, "weight", None)
        needed = (layer.out_features, layer.in_features)
        if hasattr(weight, "quant_state"):  # of bitsandbytes, whose 4 bits are packed
            weight = weight.quant_state
        elif not torch.is_tensor(weight) or not (weight.is_floating_point() or hasattr(weight, "SCB")):
            continue  # a layout of its own
        if weight is not None and (shape := tuple(weight.shape)) != needed:
            found.append(f"{name}.weight stored {shape}, needed {needed}")
    return found
