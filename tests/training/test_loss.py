"""The loss of single labels: torch's for hard labels, linear in mixed ones, the same however a batch is divided."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modeling_vit_custom.training.objectives.loss import ClassificationLoss, balanced_weights

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 3, 1, 1, 2, 0])
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 3.0])
SOFT = F.one_hot(LABELS, 4) * 0.7 + F.one_hot(LABELS.flip(0), 4) * 0.3


def loss(labels, num_items=None, logits=LOGITS, **options):
    return ClassificationLoss(**options)({"logits": logits}, labels, num_items)


def test_is_torchs_cross_entropy():
    torch.testing.assert_close(loss(LABELS), F.cross_entropy(LOGITS, LABELS))
    torch.testing.assert_close(loss(SOFT), F.cross_entropy(LOGITS, SOFT))
    smoothed = F.cross_entropy(LOGITS, LABELS, label_smoothing=0.1)
    torch.testing.assert_close(loss(LABELS, label_smoothing=0.1), smoothed)
    weighted = F.cross_entropy(LOGITS, LABELS, weight=WEIGHTS, reduction="sum") / 6
    torch.testing.assert_close(loss(LABELS, class_weights=WEIGHTS), weighted)


def test_is_torchs_binary_cross_entropy():
    one_hot = F.one_hot(LABELS, 4).float()
    torch.testing.assert_close(loss(LABELS, loss="bce"), F.binary_cross_entropy_with_logits(LOGITS, one_hot))
    torch.testing.assert_close(loss(SOFT, loss="bce"), F.binary_cross_entropy_with_logits(LOGITS, SOFT))
    smooth = one_hot * 0.9 + 0.025
    expected = F.binary_cross_entropy_with_logits(LOGITS, smooth)
    torch.testing.assert_close(loss(LABELS, loss="bce", label_smoothing=0.1), expected)


@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_an_examples_weight_is_that_of_its_classes(kind):
    each = torch.stack([loss(SOFT[i : i + 1], logits=LOGITS[i : i + 1], loss=kind) for i in range(6)])
    torch.testing.assert_close(loss(SOFT, loss=kind, class_weights=WEIGHTS), (each * (SOFT @ WEIGHTS)).mean())


@pytest.mark.parametrize("labels", [LABELS, SOFT])
@pytest.mark.parametrize("options", [{}, {"loss": "bce"}, {"label_smoothing": 0.2, "class_weights": WEIGHTS}])
def test_parts_add_up_to_the_whole(labels, options):
    parts = [loss(labels[s], torch.tensor(6), LOGITS[s], **options) for s in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(sum(parts), loss(labels, **options))


def test_balanced_weights():
    labels = np.array([0] * 6 + [1] * 3 + [3])
    weights = balanced_weights(labels, 4)
    torch.testing.assert_close(weights, torch.tensor([10 / 18, 10 / 9, 0, 10 / 3]))
    assert weights[labels].mean().item() == pytest.approx(1)
