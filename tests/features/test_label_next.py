"""What to label next is typical, uncertain and spread, as brute force chooses it."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.preprocessing import StandardScaler

from modeling_vit_custom.features.label_next import NEIGHBOURS, UNCERTAIN, choose_next, margins, typicality


def groups(sizes, seed=0):
    """Return (features [U, 8] around orthogonal directions, the group of each)."""
    rng = np.random.default_rng(seed)
    of = np.repeat(np.arange(len(sizes)), sizes)
    return np.eye(8)[of] + 0.1 * rng.normal(size=(len(of), 8)), of


def test_typical_is_close_to_its_nearest_neighbours():
    features = load_digits().data[:60]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    distances = np.sort(np.linalg.norm(unit[:, None] - unit[None], axis=2), axis=1)[:, 1 : NEIGHBOURS + 1]
    np.testing.assert_allclose(typicality(unit), 1 / distances.mean(axis=1), rtol=1e-6)
    assert typicality(unit[:1]).tolist() == [1.0]


def test_the_margin_is_between_the_two_highest():
    np.testing.assert_allclose(margins(np.array([[0.2, 0.5, 0.3], [0.9, 0.05, 0.05]])), [0.2, 0.85])


def test_one_of_each_group_the_most_typical_of_its_uncertain_part():
    features, of = groups([40, 20, 12])
    scaled = StandardScaler().fit_transform(features)
    unit = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    first = np.random.default_rng(1).uniform(0.5, 1, len(of))
    chosen = choose_next(features, np.stack([first, 1 - first], axis=1), 3)
    assert of[chosen].tolist() == [0, 1, 2]  # the largest first
    for group, index in enumerate(chosen):
        members = np.flatnonzero(of == group)
        unsure = members[np.argsort(first[members])[: round(UNCERTAIN * len(members))]]
        distance = {
            i: np.sort(np.linalg.norm(unit[members] - unit[i], axis=1))[1 : NEIGHBOURS + 1].mean() for i in unsure
        }
        assert index == min(distance, key=distance.get)


@pytest.mark.parametrize("budget", [1, 7, 50])
def test_nothing_is_chosen_twice_and_the_choice_repeats(budget):
    digits = load_digits().data[:300]
    probabilities = np.random.default_rng(0).dirichlet(np.ones(10), 300)
    chosen = choose_next(digits, probabilities, budget)
    assert len(chosen) == len(set(chosen)) == budget and np.array_equal(
        chosen, choose_next(digits, probabilities, budget)
    )


def test_if_there_are_no_more_than_the_budget_all_are_chosen_the_most_uncertain_first():
    probabilities = np.array([[0.9, 0.1], [0.5, 0.5], [0.7, 0.3]])
    assert choose_next(np.eye(3), probabilities, 3).tolist() == [1, 2, 0]
