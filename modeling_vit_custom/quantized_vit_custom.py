"""Weights that are not ordinary tensors: quantised, offloaded, or in a layer that an adapter or a hook has changed.

Code that computes with a layer calls the layer, so that these take effect. Code that reads or replaces its weights asks
here first.
"""

import copy
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import nn

# Names in transformers' quantisers of the list of layers that are not quantised.
_LEFT_OUT = ("modules_to_not_convert", "llm_int8_skip_modules")


def is_ordinary(tensor: torch.Tensor) -> bool:
    """Return whether a tensor holds its numbers directly: it is not quantised, sharded, or on the meta device."""
    return type(tensor) in (torch.Tensor, nn.Parameter) and not tensor.is_meta


def has_own_weights(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Return whether a layer computes what a `kind` with its weights does: no adapter, no hook, ordinary weights."""
    hooked = "forward" in vars(layer) or layer._forward_hooks or layer._forward_pre_hooks
    return type(layer) is kind and not hooked and all(map(is_ordinary, layer.parameters()))


def plain_parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return the ordinary tensors of a tensor: itself, or the codes, scales and zero points of a quantised one."""
    if hasattr(tensor, "full_tensor"):  # sharded: torch computes with it as with a whole tensor
        return [tensor.detach()]
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return [part for name in names for part in plain_parts(getattr(tensor, name))]
    return [tensor.detach().as_subclass(torch.Tensor)]


def is_finite(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is free of NaN and infinity, in its scales and zero points too if it is quantised."""
    return all(map(_is_finite, plain_parts(tensor)))


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel() or "float4" in str(tensor.dtype):
        return True
    numbers = tensor if tensor.itemsize > 1 else tensor.float()  # float8 has no comparisons
    return all(extreme.isfinite() for extreme in numbers.aminmax())


def check_resampling(layer: nn.Module, name: str, kind: type[nn.Module] | None = None) -> None:
    """Raise ValueError unless tensor `name` of the layer can be replaced by a resampled one.

    kind: the class that the layer has if nothing wraps it.
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
    """Yield (name, layer) of each linear layer, also of those in a quantiser's own class."""
    return ((name, layer) for name, layer in model.named_modules() if hasattr(layer, "in_features"))


def keep_new_layers_plain(model: Any, stored: Mapping[str, tuple[int, ...] | None], quantizer: Any) -> list[str]:
    """Replace layers that a checkpoint does not fill by plain ones, before loading, and return their names.

    Only plain layers can be initialised. The quantiser gets a copy of its configuration that leaves them out too, so
    that the model loads the same way once it is saved.
    stored: the shapes of the checkpoint's tensors, None for one in a quantiser's own layout.
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
    """Replace plain tensors that lost their `needed` shape in loading by empty ones, which are then initialised.

    A quantiser fills a new layer with its old weights, and with a quantiser older transformers compare no shapes.
    Returns {(name, stored shape, needed shape)}.
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
        model.get_submodule(name)._is_hf_initialized = False  # a quantiser marks layers that it fills as initialised
    return found


def misshapen(model: nn.Module) -> list[str]:
    """Return the quantised weights that do not fit their layer after loading, which transformers does not check."""
    found = []
    for name, layer in linear_layers(model):
        weight: Any = getattr(layer, "weight", None)
        needed = (layer.out_features, layer.in_features)
        if hasattr(weight, "quant_state"):  # bitsandbytes packs 4-bit weights
            weight = weight.quant_state
        elif not torch.is_tensor(weight) or not (weight.is_floating_point() or hasattr(weight, "SCB")):
            continue  # a quantiser's own layout
        if weight is not None and (shape := tuple(weight.shape)) != needed:
            found.append(f"{name}.weight stored {shape}, needed {needed}")
    return found
