"""The two promises of "unknown" hold over many draws, and the statistics equal scikit-learn's and a sum over pairs."""

import math

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_digits

from modeling_vit_custom.common.errors import DataError
from modeling_vit_custom.features.selection import stratified_folds
from modeling_vit_custom.features.unknown import (
    STARTS,
    class_statistics,
    limit_error,
    lowest_safe_threshold,
    needed_for_error,
    needed_to_reject,
    reject_in_folds,
    reject_in_split,
)
from modeling_vit_custom.unknown_vit_custom import CONFIDENCE, distances, proven_bound


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, np.ndarray]:
    """Real digits of eight classes as vectors of 64 grey values, and their labels; then those of the digits 8 and 9."""
    images, labels = load_digits(return_X_y=True)
    return torch.from_numpy(images + 0.0).float(), labels


def logits_for(vectors: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(vectors), 8)  # mahalanobis does not read them


def test_distances_are_mahalanobis_with_the_covariance_of_ledoit_and_wolf(digits):
    vectors, labels = digits
    unit = torch.nn.functional.normalize(vectors[:400], dim=1)
    found = distances(unit, *class_statistics(unit, labels[:400], 12))  # two classes have no image
    means = np.stack([unit.numpy()[labels[:400] == label].mean(axis=0) for label in range(10)])
    precision = np.linalg.inv(LedoitWolf(assume_centered=True).fit(unit.numpy() - means[labels[:400]]).covariance_)
    apart = unit.numpy()[:, None] - means
    expected = np.einsum("nkd,de,nke->nk", apart, precision, apart).min(axis=1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-4)


def test_typicality_is_the_p_value_counted_by_hand(digits):
    vectors, labels = digits
    found = reject_in_split(vectors[:300], labels[:300], vectors[300:319], 10, 0.05)
    known = distances(torch.nn.functional.normalize(vectors[300:319], dim=1), found.whitening[0], found.means[0])
    asked = distances(torch.nn.functional.normalize(vectors[400:420], dim=1), found.whitening[0], found.means[0])
    expected = [(1 + sum(float(one) >= float(own) for one in known)) / 20 for own in asked]
    assert found(vectors[400:420], logits_for(vectors[400:420])).tolist() == pytest.approx(expected)
    assert found.options == {
        "score": "mahalanobis", "level": 0.05, "images": [19], "promise": "reject", "asked": 0.05
    }  # fmt: skip


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_the_share_of_known_images_that_is_rejected_is_the_promised_one(digits, share):
    """The mean over 60 draws is at most the promised share, and not far below it."""
    vectors, labels = digits
    rates = []
    for seed in range(60):
        order = np.random.default_rng(seed).permutation(len(labels))
        train, calibration, rest = np.split(order, [400, 499])
        found = reject_in_split(vectors[train], labels[train], vectors[calibration], 10, share)
        rates.append(float((found(vectors[rest], logits_for(rest)) <= share).float().mean()))
    error = np.std(rates) / math.sqrt(len(rates))
    assert share - 1 / 100 - 4 * error < np.mean(rates) < share + 3 * error


def test_folds_reject_about_the_promised_share_and_less_than_the_proven_bound(digits):
    vectors, labels = digits
    rates = []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(labels))
        train, rest = order[:120], order[120:]
        folds = stratified_folds(labels[train], 10, seed)
        found = reject_in_folds(vectors[train], labels[train], folds, 10, 0.1)
        assert found.counts == [len(fold) for fold in folds] and found.whitening.shape == (10, 64, 64)
        rates.append(float((found(vectors[rest], logits_for(rest)) <= 0.1).float().mean()))
    assert 0.04 < np.mean(rates) < 0.16 < proven_bound(found.options) < 0.3


def test_classes_that_were_left_out_are_recognised_more_often_than_known_ones(digits):
    vectors, labels = digits
    known, others = labels < 8, labels >= 8
    held_out, train = np.flatnonzero(known)[:300], np.flatnonzero(known)[300:]
    found = reject_in_split(vectors[train], labels[train], vectors[held_out], 8, 0.05)
    assert float((found(vectors[others], logits_for(vectors[others])) <= 0.05).float().mean()) > 0.15


def test_the_bound_of_folds_is_that_of_the_paper():
    def bound(share: float, *images: int) -> float:
        return proven_bound({"asked": share, "images": images})

    assert bound(0.05, 300) == 0.05
    assert bound(0.1, *[1] * 100) == 0.2, "leave one out, as the jackknife+"
    assert bound(0.1, *[10] * 10) == pytest.approx(0.2 + min(2 * 0.9 / 11, 0.9 / 11))


@pytest.mark.parametrize(("share", "needed"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.5, 1)])
def test_a_share_needs_so_many_images(digits, share, needed):
    vectors, labels = digits
    assert needed_to_reject(share) == needed
    reject_in_split(vectors[:200], labels[:200], vectors[200 : 200 + needed], 10, share)
    with pytest.raises(DataError, match=rf"--reject {share:g} needs {needed} images .* here are {needed - 1}"):
        reject_in_split(vectors[:200], labels[:200], vectors[200 : 200 + needed - 1], 10, share)


# ---------- max_error


def answers(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (probabilities, whether each is right) of a model whose probabilities are too high by a fifth."""
    probabilities = rng.uniform(0.2, 1, count)
    return probabilities, rng.random(count) < 0.8 * probabilities + 0.2 * probabilities**8


def true_error(threshold: float) -> float:
    grid = np.linspace(max(threshold, 0.2), 1, 20_001)
    return float(1 - (0.8 * grid + 0.2 * grid**8).mean())


@pytest.mark.parametrize("share", [0.2, 0.3])
def test_the_error_of_answers_is_kept_in_nine_of_ten_draws(share):
    broken = found = 0
    for seed in range(300):
        level = lowest_safe_threshold(*answers(np.random.default_rng(seed), 1000), share)
        found += level is not None
        broken += level is not None and true_error(level) > share
    assert found > 250 and broken <= 0.1 * 300 + 3 * math.sqrt(0.09 * 300)


def test_a_threshold_is_the_lowest_that_a_binomial_test_accepts():
    """All answers above 0.9 are right and the others wrong: the threshold is near 0.9."""
    probabilities = np.linspace(0.3, 0.9995, 2000)
    level = lowest_safe_threshold(probabilities, probabilities > 0.9, 0.05)
    assert level is not None and 0.88 < level < 0.9
    assert lowest_safe_threshold(probabilities, probabilities > 2, 0.05) is None


def test_error_needs_enough_images_and_tells_how_many():
    needed = needed_for_error(0.05)
    assert (1 - 0.05) ** needed <= (1 - CONFIDENCE) / len(STARTS) < (1 - 0.05) ** (needed - 1)
    outputs = np.array([[9.0, 0.0]] * needed)
    found = limit_error(outputs, np.ones(needed, bool), 0.05)
    assert found is not None and found.options["score"] == "probability" and found.options["images"] == [needed]
    assert found(torch.zeros(1, 3), torch.tensor([[9.0, 0.0]])).item() > found.level
    assert limit_error(outputs, np.zeros(needed, bool), 0.05) is None
    with pytest.raises(DataError, match=f"--max_error 0.05 needs {needed} images"):
        limit_error(outputs[1:], np.ones(needed - 1, bool), 0.05)
