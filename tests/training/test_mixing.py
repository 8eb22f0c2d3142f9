"""Erasing, mixup and CutMix: labels match the shares of the pixels, and the statistics are those of the papers."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import beta, kstest

from modeling_vit_custom.data.counter_rng import example_keys, uniform
from modeling_vit_custom.data.dataset import DRAWS
from modeling_vit_custom.training.inputs.mixing import Mix, RandomErasing

H, W, CLASSES = 20, 30, 5


def draws(count: int) -> torch.Tensor:
    return torch.from_numpy(uniform(example_keys(0, 0, np.arange(count)), DRAWS))


def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (images of one colour each, the number of the image; labels of the classes in turn)."""
    return torch.arange(count).float()[:, None, None, None].expand(-1, 3, H, W), torch.arange(count) % CLASSES


KINDS = {"mixup": {"mixup": 0.8}, "cutmix": {"cutmix": 1.0}, "both": {"mixup": 0.2, "cutmix": 1.0}}


@pytest.mark.parametrize("alphas", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("count", [64, 7])
def test_labels_are_the_shares_of_the_pixels(alphas, count):
    pixels, labels = batch(count)
    mixed, targets = Mix(**alphas, num_labels=CLASSES)(pixels, labels, draws(count))
    torch.testing.assert_close(targets.sum(1), torch.ones(count))
    for i in range(count):
        partner = min(i ^ 1, count - 1)
        assert mixed[i].min() >= min(i, partner) - 1e-4 and mixed[i].max() <= max(i, partner) + 1e-4
        if partner != i:
            own = ((mixed[i].mean() - partner) / (i - partner)).item()
            assert targets[i, labels[i]].item() == pytest.approx(own, abs=1e-3)
            assert targets[i, labels[partner]].item() == pytest.approx(1 - own, abs=1e-3)
        else:
            assert targets[i, labels[i]] == 1 and torch.equal(mixed[i], pixels[i])
    assert (targets.max(dim=1).values < 0.999).float().mean() > 0.5


def test_nothing_is_mixed_by_default_and_by_chance_as_often_as_asked():
    pixels, labels = batch(2000)
    same = Mix()(pixels, labels, draws(2000))
    assert same[0] is pixels and same[1] is labels
    _, targets = Mix(mixup=1.0, probability=0.3, num_labels=CLASSES)(pixels, labels, draws(2000))
    assert 0.25 < (targets.max(dim=1).values < 1).float().mean() < 0.35


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_shares_are_drawn_from_beta(alpha):
    own = Mix(mixup=alpha).mix_mask(draws(4000), (1, 1))[:, 0, 0, 0]
    assert kstest(own.numpy(), beta(alpha, alpha).cdf).pvalue > 0.01
    own = Mix(cutmix=alpha).mix_mask(draws(500), (200, 200))
    assert set(own.unique().tolist()) == {0, 1}
    height, width = ((1 - own).amax(dim=dim).flatten(1).sum(dim=1) for dim in (3, 2))
    inside = (height > 0) & (own[:, 0, [0, -1], :].amin(dim=(1, 2)) > 0) & (own[..., [0, -1]].amin(dim=(1, 2, 3)) > 0)
    assert (height - width)[inside].abs().max() <= 1, "a box that no edge cuts must have the image's shape"


def test_mixup_and_cutmix_together_get_half_of_the_pairs_each():
    own = Mix(mixup=1.0, cutmix=1.0).mix_mask(draws(2000), (H, W))
    cut = ((own == 0) | (own == 1)).flatten(1).all(dim=1)
    assert 0.46 < cut.float().mean() < 0.54


def test_pairs_do_not_depend_on_the_batch_they_are_in():
    mix = Mix(mixup=0.5, cutmix=0.5, num_labels=CLASSES)
    pixels, labels = batch(12)
    whole = mix(pixels, labels, draws(12))
    parts = [mix(pixels[i : i + 4], labels[i : i + 4], draws(12)[i : i + 4]) for i in (0, 4, 8)]
    for mine, theirs in zip(whole, map(torch.cat, zip(*parts, strict=True)), strict=True):
        assert torch.equal(mine, theirs)


def test_erasing():
    pixels = torch.full((4000, 1, H, W), 7.0)
    erased = RandomErasing(0.25)(pixels, draws(4000))
    boxes = (erased == 0)[:, 0]
    share = boxes.float().mean(dim=(1, 2))
    assert torch.equal(erased[~boxes[:, None]], pixels[~boxes[:, None]])
    assert 0.22 < (share > 0).float().mean() < 0.28
    assert share[share > 0].min() > 0.01 and share.max() < 0.36 and 0.14 < share[share > 0].mean() < 0.2
    height, width = boxes.any(dim=2).sum(1), boxes.any(dim=1).sum(1)
    assert torch.equal(height * width, boxes.sum(dim=(1, 2))), "there must be one box"
    assert (width / height)[share > 0].log().abs().max() < math.log(3.3) + 0.35
    assert boxes.any(dim=0).all(), "every place must be reached"
    assert RandomErasing(0.0)(pixels, draws(4000)) is pixels
