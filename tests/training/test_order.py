"""The order of examples: each once in an epoch, or every class equally often; the epoch reaches the data set."""

import numpy as np
import torch

from modeling_vit_custom.data.dataset import ImageDataset
from modeling_vit_custom.data.examples import Examples
from modeling_vit_custom.data.targets import ClassIds
from modeling_vit_custom.training.inputs.order import TrainingOrder

LABELS = np.repeat([0, 1, 3], [70, 20, 10])


def order(seed=0, epoch=0, balanced=False) -> list[int]:
    names = [str(i) for i in range(len(LABELS))]
    examples = Examples(names, names, ClassIds(LABELS))
    made = TrainingOrder(ImageDataset(examples, lambda indices: torch.zeros(1)), seed, balanced)
    made.set_epoch(epoch)
    assert int(made.dataset.epoch) == epoch and len(made) == 100
    return list(made)


def test_a_permutation_for_each_seed_and_epoch():
    assert sorted(order()) == list(range(100)) and order() == order()
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_balanced():
    drawn = np.array(order(balanced=True))
    assert len(drawn) == 100
    assert all(33 <= np.sum(LABELS[drawn] == label) <= 34 for label in (0, 1, 3))
    uses = np.bincount(drawn, minlength=100)
    assert uses[:70].max() == 1 and set(uses[70:90]) <= {1, 2} and set(uses[90:]) <= {3, 4}
    others = {i for epoch in range(8) for i in order(epoch=epoch, balanced=True)}
    assert len(others) > 95, "each example must occur in some epoch"
    assert np.abs(np.diff(LABELS[drawn])).sum() > 30, "classes must be mixed"
