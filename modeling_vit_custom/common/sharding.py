"""Functions that take both ordinary tensors and sharded ones (FSDP2's, of which each process holds a part)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a tensor, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole tensor in this process's main memory. All processes have to call this together."""
    return whole_here(tensor).detach().cpu().contiguous()


def whole_here(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole tensor on its device. All processes have to call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return the whole `value`, which each process has, laid out as `like`: a part of it in each process, or all."""
    if isinstance(like, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return value


@torch.no_grad()
def assign(target: torch.Tensor, value: torch.Tensor) -> None:
    """Write the whole `value`, which each process has, into `target` in place."""
    local(target.detach()).copy_(local(part_of(value, target)))


def reshard(model: nn.Module) -> None:
    """Free the gathered copies of FSDP2's parameters, before parameters are changed.

    A forward without a backward leaves such copies, and they would be used once more.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def plain_class(model: nn.Module) -> Iterator[None]:
    """Restore the original class for a while (FSDP2 swaps it), so that save_pretrained finds the right source file."""
    sharded = type(model)
    if isinstance(model, FSDPModule):
        model.__class__ = sharded.__mro__[2]  # after FSDP's class and FSDPModule
    try:
        yield
    finally:
        model.__class__ = sharded
