"""Label maps, stratified drawing, and the plan for a checkpoint's head."""

import numpy as np
import pytest

from modeling_vit_custom.common.errors import DataError
from modeling_vit_custom.data.examples import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from modeling_vit_custom.data.labels import check_class_names, natural_sorted, plan_head, strata
from modeling_vit_custom.data.splits import draw_subset, draw_validation


def test_natural_order():
    assert natural_sorted(["10", "9", "1", "a10", "a9", "B2"]) == ["1", "9", "10", "a9", "a10", "B2"]


@pytest.mark.parametrize("name", ["", "  ", "a\x00b", "<script>", "a\u202eb", "tab\there"])
def test_names_no_label_map_should_hold(name):
    with pytest.raises(DataError, match=r"class name"):
        check_class_names(["fine", name])


def test_names_that_are_fine():
    check_class_names(["été", "猫", "t-shirt / top", "C#", "a|b"])


@pytest.mark.parametrize(
    ("checkpoint", "checkpoint_type", "new_head", "expected"),
    [
        ({0: "cat", 1: "dog"}, None, False, {0: "cat", 1: "dog"}),
        ({0: "dog", 1: "cat"}, SINGLE_LABEL, False, {0: "dog", 1: "cat"}),  # its ids are kept
        ({"1": "cat", "0": "dog"}, SINGLE_LABEL, False, {0: "dog", 1: "cat"}),
        ({0: "LABEL_0", 1: "LABEL_1"}, None, True, {0: "cat", 1: "dog"}),  # as many, but others
        ({0: "cat", 1: "dog", 2: "eel"}, None, True, {0: "cat", 1: "dog"}),
        ({0: "cat", 1: "dog"}, MULTI_LABEL, True, {0: "cat", 1: "dog"}),
    ],
)
def test_head_plan(checkpoint, checkpoint_type, new_head, expected):
    plan = plan_head({0: "cat", 1: "dog"}, SINGLE_LABEL, checkpoint, checkpoint_type)
    assert (plan.new_head, plan.id2label) == (new_head, expected)


def test_head_plan_explains_itself():
    plan = plan_head({0: "cat", 1: "dog"}, SINGLE_LABEL, {0: "cat", 1: "eel", 2: "fox"}, None)
    assert "knows 3" in plan.reason and "has 2" in plan.reason and "1 in common" in plan.reason


def test_validation_is_stratified_seeded_and_complete():
    groups = np.repeat([0, 1, 2], [40, 20, 2])
    train, validation, uncovered = draw_validation(groups, 0.2, seed=1)
    assert sorted([*train, *validation]) == list(range(62)) and not uncovered
    np.testing.assert_array_equal(np.bincount(groups[validation]), [8, 4, 1])
    np.testing.assert_array_equal(draw_validation(groups, 0.2, seed=1)[1], validation)
    assert (draw_validation(groups, 0.2, seed=2)[1] != validation).any()


def test_a_single_example_stays_in_training():
    train, _, uncovered = draw_validation(np.array([0, 0, 0, 7]), 0.9, seed=0)
    assert uncovered == [7] and 3 in train and (train < 3).sum() > 0


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 15, float("nan")])
def test_impossible_fractions(fraction):
    with pytest.raises(DataError, match=r"fraction between 0 and 1"):
        draw_validation(np.zeros(10), fraction, 0)


def test_subset_has_the_size_and_the_shares():
    groups = np.repeat([0, 1, 2], [50, 30, 20])
    chosen = draw_subset(groups, 10, seed=0)
    np.testing.assert_array_equal(np.bincount(groups[chosen]), [5, 3, 2])
    assert len(draw_subset(groups, 7, seed=0)) == 7
    assert len(draw_subset(groups, 1000, seed=0)) == 100


def test_strata_spread_rare_labels_and_targets():
    multi_hot = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0], [1, 1, 0]])
    np.testing.assert_array_equal(strata(multi_hot, MULTI_LABEL), [1, 0, 2, 3, 1])
    assert len(np.unique(strata(np.linspace(0, 1, 12), REGRESSION))) == 1
    groups = strata(np.linspace(5, -5, 100), REGRESSION)
    np.testing.assert_array_equal(groups, np.repeat(np.arange(10)[::-1], 10))
