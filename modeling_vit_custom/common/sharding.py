"""Tensors of which each process holds a part (FSDP2's), and ordinary ones, by the same functions."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of it, in this process's main memory. All processes have to call this together."""
    return whole_here(tensor).detach().cpu().contiguous()


def whole_here(tensor: torch.Tensor) -> torch.Tensor:
    """All of it, on its device. All processes have to call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The whole `value`, which each process has, as `like` is: a part of it in each process, or all."""
    if isinstance(like, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return value


@torch.no_grad()
def assign(target: torch.Tensor, value: torch.Tensor) -> None:
    """Writes the whole `value`, which each process has, into `target` in place."""
    local(target.detach()).copy_(local(part_of(value, target)))


def reshard(model: nn.Module) -> None:
    """Before parameters are changed: a forward without a backward leaves copies that would be used once more."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def plain_class(model: nn.Module) -> Iterator[None]:
    """The model is of its own class, whose code is saved, and not of the one that FSDP2 has made of it."""
    sharded = type(model)
    if isinstance(model, FSDPModule):
        model.__class__ = sharded.__mro__[2]  # after FSDP's class and FSDPModule
    try:
        yield
    finally:
        model.__class__ = sharded
