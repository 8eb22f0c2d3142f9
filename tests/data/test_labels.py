"""Label maps, stratified sampling, and the plan for a checkpoint's head."""

import numpy as np
import pytest
from real_digits import write_digit

from modeling_vit_custom.common.errors import DataError
from modeling_vit_custom.data.labels import label_map, plan_head
from modeling_vit_custom.data.names import check_class_names, natural_sorted
from modeling_vit_custom.data.source import Source
from modeling_vit_custom.data.sources import read_splits
from modeling_vit_custom.data.splits import draw_subset, draw_validation
from modeling_vit_custom.data.targets import ClassIds, MultiHot
from modeling_vit_custom.labels_vit_custom import validate_labels

PERSIAN, HINDI = "\u0645\u06cc\u200c\u0631\u0648\u062f", "\u0915\u094d\u200d\u0937"
WITH_JOINERS = [PERSIAN, HINDI, "👨\u200d👩\u200d👧"]


def test_natural_order():
    assert natural_sorted(["10", "9", "1", "a10", "a9", "B2"]) == ["1", "9", "10", "a9", "a10", "B2"]


@pytest.mark.parametrize("name", ["", "  ", "a\x00b", "<script>", "a\u202eb", "tab\there", "a\u2028b", "\u200d \u200c"])
def test_names_no_label_map_should_hold(name):
    with pytest.raises(DataError, match=r"class name"):
        check_class_names(["fine", name])
    with pytest.raises(ValueError, match=r"id2label\[1\]"):
        validate_labels({0: "fine", 1: name}, {"fine": 0, name: 1})


def test_names_that_are_fine():
    check_class_names(["été", "猫", "t-shirt / top", "C#", "a|b", *WITH_JOINERS])


def test_names_that_differ_by_joiners_alone_look_the_same():
    with pytest.raises(DataError, match="same name"):
        check_class_names(["cat", "c\u200dat"])


@pytest.mark.parametrize("name", WITH_JOINERS)
def test_a_name_with_joiners_is_that_of_a_folder_and_of_a_label(tmp_path, name):
    write_digit(tmp_path / name / "0.png", 0)
    write_digit(tmp_path / "dog" / "1.png", 1)
    assert name in label_map(read_splits(Source(tmp_path))["train"]).values()


@pytest.mark.parametrize(
    ("checkpoint", "checkpoint_type", "new_head", "expected"),
    [
        ({0: "cat", 1: "dog"}, None, False, {0: "cat", 1: "dog"}),
        ({0: "dog", 1: "cat"}, ClassIds.problem_type, False, {0: "dog", 1: "cat"}),  # its ids are kept
        ({"1": "cat", "0": "dog"}, ClassIds.problem_type, False, {0: "dog", 1: "cat"}),
        ({0: "LABEL_0", 1: "LABEL_1"}, None, True, {0: "cat", 1: "dog"}),  # as many labels, but other names
        ({0: "cat", 1: "dog", 2: "eel"}, None, True, {0: "cat", 1: "dog"}),
        ({0: "cat", 1: "dog"}, MultiHot.problem_type, True, {0: "cat", 1: "dog"}),
    ],
)
def test_head_plan(checkpoint, checkpoint_type, new_head, expected):
    plan = plan_head({0: "cat", 1: "dog"}, ClassIds, checkpoint, checkpoint_type)
    assert (plan.new_head, plan.id2label) == (new_head, expected)


def test_head_plan_explains_itself():
    plan = plan_head({0: "cat", 1: "dog"}, ClassIds, {0: "cat", 1: "eel", 2: "fox"}, None)
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
