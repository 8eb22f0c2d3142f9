"""Confident learning equals values by hand and cleanlab's, and finds errors that were put into real labels."""

import numpy as np
import pytest
import torch
from real_digits import digits

from modeling_vit_custom.common.errors import DataError
from modeling_vit_custom.features.label_errors import (
    confident_joint,
    counted_classes,
    estimate_errors,
    find_label_errors,
    swapped_labels,
    thresholds,
    wrong_share,
)
from modeling_vit_custom.features.selection import held_out_logits

LABELS = np.array([0, 0, 1, 1, 2, 2])
PROBABILITIES = np.array(
    [[0.9, 0.05, 0.05], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.3, 0.6, 0.1], [0.1, 0.1, 0.8], [0.1, 0.3, 0.6]]
)


def pixels_and_labels(wrong: float = 0.0, seed: int = 0):
    """Return (pixels [1797, 64], labels, which were made wrong) of scikit-learn's digits."""
    images, labels = digits()
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(labels))[: round(wrong * len(labels))]
    given = labels.copy()
    given[chosen] = (labels[chosen] + rng.integers(1, 10, len(chosen))) % 10
    return torch.from_numpy(images.reshape(-1, 64)).float(), given, given != labels


def probabilities(pixels, labels, seed=0):
    return held_out_logits(pixels, labels, 10, "discriminant", 0.1, seed=seed).softmax(1).numpy()


def test_three_classes_by_hand():
    """The fourth and the last example reach no threshold; the second reaches that of class 1, exactly."""
    np.testing.assert_allclose(thresholds(LABELS, PROBABILITIES), [0.55, 0.7, 0.7])
    counted = counted_classes(LABELS, PROBABILITIES)
    assert counted.tolist() == [0, 1, 1, -1, 2, -1]
    np.testing.assert_allclose(confident_joint(LABELS, counted, 3), [[1, 1, 0], [0, 2, 0], [0, 0, 2]])
    errors = find_label_errors(LABELS, PROBABILITIES)
    assert errors.suspects.tolist() == [1] == np.flatnonzero(errors.confident).tolist()
    assert errors.likely[1] == 1 and errors.counted == 1
    assert errors.own.tolist() == [0.9, 0.2, 0.8, 0.6, 0.8, 0.6] and errors.likely_probability[1] == 0.7


def test_a_class_without_examples_and_an_even_choice_suspect_nobody():
    assert find_label_errors(np.array([0, 0, 1]), np.full((3, 3), 1 / 3)).suspects.tolist() == []
    assert thresholds(np.array([0, 0]), np.eye(3)[:2]).tolist() == [0.5, np.inf, np.inf]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrong", [0.0, 0.05, 0.2])
def test_it_is_what_cleanlab_finds(wrong):
    from cleanlab.count import compute_confident_joint, get_confident_thresholds
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    pixels, labels, _ = pixels_and_labels(wrong)
    found = probabilities(pixels, labels)
    errors = find_label_errors(labels, found)
    confident = find_label_issues(labels, found, filter_by="confident_learning", n_jobs=1)
    assert np.array_equal(errors.confident, confident) and confident.sum() > 5
    worst = find_label_issues(labels, found, filter_by="low_self_confidence", n_jobs=1)
    assert {*errors.suspects[: worst.sum()]} == {*np.flatnonzero(worst)}
    every = find_label_issues(
        labels, found, filter_by="predicted_neq_given", return_indices_ranked_by="self_confidence", n_jobs=1
    )
    assert errors.suspects.tolist() == every.tolist()
    np.testing.assert_allclose(errors.own, get_label_quality_scores(labels, found, method="self_confidence"))
    np.testing.assert_allclose(thresholds(labels, found), get_confident_thresholds(labels, found))
    np.testing.assert_allclose(errors.joint, compute_confident_joint(labels, found), atol=1)  # theirs are rounded


@pytest.mark.parametrize("wrong", [0.05, 0.1, 0.2])
def test_errors_put_into_real_labels_are_found(wrong):
    pixels, labels, bad = pixels_and_labels(wrong)
    errors = find_label_errors(labels, probabilities(pixels, labels))
    worst = np.argsort(errors.own)[: bad.sum()]
    precision, of_confident = bad[worst].mean(), bad[errors.confident].mean()
    print(f"{wrong:.0%}: {precision:.3f} of the first {bad.sum()}, {of_confident:.3f} of {errors.confident.sum()}")
    assert precision > 0.85 and of_confident > 0.85 and errors.confident.sum() > 0.7 * bad.sum()
    assert bad[errors.suspects].sum() > 0.9 * bad.sum()


@pytest.mark.parametrize("wrong,least,most", [(0.0, 0, 20), (0.05, 60, 120), (0.2, 280, 420)])
def test_the_estimate_is_near_the_number_put_in(wrong, least, most):
    pixels, labels, bad = pixels_and_labels(wrong)
    estimate = estimate_errors(labels, 10, lambda given, seed: probabilities(pixels, given, seed))
    print(f"{bad.sum()} wrong, estimated {estimate.wrong:.0f}")
    assert (
        least <= estimate.wrong <= most
        and estimate.among(1.0) == pytest.approx(estimate.wrong)
        and estimate.among(-1) == 0
    )


def test_the_share_of_a_mixture():
    rng = np.random.default_rng(0)
    known = rng.uniform(0, 0.2, 500)
    for share in (0.0, 0.3, 1.0):
        others = np.where(rng.random(5000) < share, rng.uniform(0, 0.2, 5000), rng.uniform(0.5, 1, 5000))
        assert wrong_share(known, others) == pytest.approx(share, abs=0.03)


def test_swapped_labels_are_a_tenth_and_all_others_stay():
    labels = np.arange(1000) % 4
    given, swapped = swapped_labels(labels, 4, 0)
    assert swapped.sum() == 100 and (given[~swapped] == labels[~swapped]).all() and set(given) == {0, 1, 2, 3}


def test_copies_lie_in_one_fold():
    """Labels are random and there are many dimensions: only a head that has seen a copy of an example can answer it."""
    rng = np.random.default_rng(0)
    once, labels = torch.from_numpy(rng.normal(size=(60, 300))).float(), np.arange(60) % 2
    twice, both = torch.cat([once, once]), np.concatenate([labels, labels])
    copies = np.concatenate([np.arange(60), np.arange(60)])
    right = {
        name: float((held_out_logits(twice, both, 2, "discriminant", 0.1, groups).argmax(1).numpy() == both).mean())
        for name, groups in (("apart", None), ("together", copies))
    }
    assert right["apart"] > 0.85 and right["together"] < 0.7


def test_one_image_cannot_be_held_out():
    with pytest.raises(DataError, match="cannot be held out"):
        held_out_logits(torch.randn(3, 4), np.array([0, 1, 0]), 2, "discriminant", 0.1, np.zeros(3, int))
