"""An exponential moving average (EMA) of the weights, which generalises better than the weights of the last step.

Polyak and Juditsky 1992; for ViTs Touvron et al. 2021 (DeiT, arXiv 2012.12877, section 6). Step t, counted from 0,
makes it d·average + (1 - d)·weights with d = min(decay, (1 + t) / (10 + t)), so the random start is soon forgotten.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ...common.sharding import local, reshard


class WeightAverage:
    """The average of the trained parameters; buffers and frozen parameters stay the model's own.

    average: by parameter name, sharded as the parameter is.   steps: the number of updates.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = model
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Update the average; to be called after each optimizer step."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        torch._foreach_lerp_(*self._both(), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average into the model for evaluating and saving; restore its own weights afterwards."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        reshard(self.model)
        averages, weights = self._both()
        kept = [weight.clone() for weight in weights]
        torch._foreach_copy_(weights, averages)
        torch._foreach_copy_(averages, kept)

    def _both(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        return [local(t) for t in self.average.values()], [local(p.detach()) for p in self.parameters.values()]
