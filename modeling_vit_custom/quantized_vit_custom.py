"""Weights that are no ordinary tensors: quantised, offloaded, or in a layer that an adapter or a hook has changed.

What computes with a layer calls it, and then all of these act. What reads or replaces its weights asks here first.
"""

import torch
from torch import nn


def is_ordinary(tensor: torch.Tensor) -> bool:
    """Whether the numbers of a tensor are just there: it is not quantised, sharded, or without data."""
    return type(tensor) in (torch.Tensor, nn.Parameter) and not tensor.is_meta


def has_own_weights(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a layer computes what a `kind` with its weights does: no adapter, no hook, ordinary weights."""
    hooked = "forward" in vars(layer) or layer._forward_hooks or layer._forward_pre_hooks
    return type(layer) is kind and not hooked and all(map(is_ordinary, layer.parameters()))


def plain_parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The ordinary tensors that a tensor is made of: itself, or a quantised one's codes, scales and zero points."""
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
