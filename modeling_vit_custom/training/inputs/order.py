"""The order in which a training sees its examples.

Shapes: N examples, L labels.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler
from transformers import TrainerCallback

from ...data.dataset import ImageDataset


class TrainingOrder(Sampler[int]):
    """A new permutation in each epoch, determined by (seed, epoch) alone; it passes the epoch on to the data set.

    balanced: instead N draws in which every class has the same share. All examples of a class are used once before any
    is used again.
    """

    def __init__(self, dataset: ImageDataset, seed: int, balanced: bool = False):
        self.dataset, self.seed, self.balanced, self.epoch = dataset, seed, balanced, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        if not self.balanced:
            return iter(rng.permutation(len(self)).tolist())
        labels = self.dataset.examples.targets.values
        classes = np.unique(labels)
        share, rest = divmod(len(self), len(classes))
        shares = share + (rng.permutation(len(classes)) < rest)
        drawn = [_cycled(np.flatnonzero(labels == c), n, rng) for c, n in zip(classes, shares, strict=True)]
        return iter(rng.permutation(np.concatenate(drawn)).tolist())


class StreamOrder(TrainingOrder):
    """`TrainingOrder` for a data set whose views are streamed: it reads the shards and yields `Row`s."""

    def __iter__(self) -> Iterator[int]:
        views: Any = self.dataset.views
        return views.rows(np.random.default_rng((self.seed, self.epoch)))


def _cycled(members: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of `members`, with a new permutation each time all have been used."""
    rounds = -(-count // len(members))
    return np.concatenate([rng.permutation(members) for _ in range(rounds)])[:count]


class SetEpoch(TrainerCallback):
    """Callback that sets the epoch of `order` (accelerate's loaders, with several processes, skip the data set's)."""

    def __init__(self, order: TrainingOrder):
        self.order = order

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.order.set_epoch(int(state.epoch or 0))
