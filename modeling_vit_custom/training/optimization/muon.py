"""Muon for the matrices of the blocks, AdamW for everything else, as one optimizer.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) replaces the momentum of a matrix by the nearest
semi-orthogonal matrix, so all directions are learnt at the same speed. torch.optim.Muon handles the matrices one by
one, and in bfloat16, which is slow on CPUs; here the matrices of one shape go through the iteration together.

Shapes: n matrices of one shape a x b.
"""

import math
from collections.abc import Callable, Set
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from ...common.sharding import part_of, whole_here

MOMENTUM = 0.95
QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's: after five steps singular values are in [0.7, 1.2]
STEPS = 5
ADAM_RMS = 0.2  # of AdamW's update, to which Muon's is scaled (Liu et al. 2025, arXiv 2502.16982, section 2.2)


class Muon(AdamW):
    """AdamW that trains its groups with `orthogonal` true by Muon, at the same learning rate and weight decay."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["orthogonal"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["orthogonal"]:
                self._orthogonal_step(group)
        return loss

    def _orthogonal_step(self, group: dict[str, Any]) -> None:
        shapes: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                shapes.setdefault(parameter.shape, []).append(parameter)
        for shape, parameters in shapes.items():
            gradients: list[Any] = [parameter.grad for parameter in parameters]
            momenta = [self._momentum(parameter) for parameter in parameters]
            torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
            ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov's
            update = orthogonal(torch.stack([whole_here(matrix) for matrix in ahead]))
            rate = group["lr"] * ADAM_RMS * math.sqrt(max(shape))
            for parameter, matrix in zip(parameters, update, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(part_of(matrix.to(parameter.dtype), parameter), alpha=rate)

    def _momentum(self, parameter: nn.Parameter) -> torch.Tensor:
        state = self.state[parameter]
        if not state:  # AdamW looks for these names when a state is loaded
            state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(parameter))
        return state["exp_avg"]


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Return approximately U Vᵀ for each U S Vᵀ in [n, a, b].

    Uses five steps of a quintic Newton-Schulz iteration instead of the SVD.
    """
    linear, cubic, quintic = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x.to(torch.bfloat16) if x.is_cuda else x.float()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic), x, beta=linear)
    return x.mT if tall else x


def with_muon(optimizer: AdamW, matrices: Set[nn.Parameter]) -> Muon:
    """Build a Muon from a fresh AdamW: each group is split into `matrices`, which Muon trains, and the others."""
    groups = []
    for group in optimizer.param_groups:
        for orthogonal_ones in (False, True):
            chosen = [parameter for parameter in group["params"] if (parameter in matrices) == orthogonal_ones]
            if chosen:
                groups.append({**group, "params": chosen, "orthogonal": orthogonal_ones})
    defaults = {name: value for name, value in optimizer.defaults.items() if name != "decoupled_weight_decay"}
    return Muon(groups, **defaults)
