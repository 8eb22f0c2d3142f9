"""Targets: how each kind encodes labels, fills a batch, forms strata, and what it refuses."""

import numpy as np
import pytest
import torch

from modeling_vit_custom.common.errors import DataError
from modeling_vit_custom.data.dataset import ImageDataset
from modeling_vit_custom.data.examples import Examples, Splits
from modeling_vit_custom.data.targets import LABELLED, ClassIds, MultiHot, NoTargets, Targets, Values

IDS = {0: "dog", 1: "été", 2: "owl"}
HOT = [[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0], [1, 1, 0]]


def of_each_kind() -> list[Targets]:
    return [ClassIds([2, 0, 1, 1]), MultiHot(np.float32(HOT[:4])), Values(np.float32([0.5, 1, 2, -3])), NoTargets(4)]


def test_the_kinds_are_known_by_what_transformers_calls_their_tasks():
    assert {
        "single_label_classification": ClassIds,
        "multi_label_classification": MultiHot,
        "regression": Values,
    } == LABELLED
    assert NoTargets.problem_type == ""
    assert [(kind.named, kind.single) for kind in (ClassIds, MultiHot, Values, NoTargets)] == [
        (True, True),
        (True, False),
        (False, False),
        (False, False),
    ]
    examples = Examples(["a"], ["a"], Values([1.0]))
    assert Splits(examples, None, None, {0: "age"}).problem_type == "regression"
    assert Splits(Examples(["a"], ["a"]), None, None, {}).problem_type == ""


# ---------- labels as a source holds them


@pytest.mark.parametrize(
    ("kind", "labels", "values", "dtype"),
    [
        (ClassIds, ["owl", " dog", "e\u0301te\u0301", "dog "], [2, 0, 1, 0], np.int64),
        (MultiHot, [["owl", "dog "], [], ["e\u0301te\u0301"]], [[1, 0, 1], [0, 0, 0], [0, 1, 0]], np.float32),
        (Values, np.array([0.1, 2.0]), np.float32([0.1, 2.0]), np.float32),
        (Values, np.array([[0.1, 2.0, 3.0]]), np.float32([[0.1, 2.0, 3.0]]), np.float32),
        (NoTargets, [(), ()], np.zeros((2, 0)), np.float32),
    ],
)
def test_labels_become_numbers(kind, labels, values, dtype):
    encoded = kind.encode(labels, IDS)
    assert type(encoded) is kind and encoded.values.dtype == dtype and len(encoded) == len(labels)
    np.testing.assert_array_equal(encoded.values, values)


@pytest.mark.parametrize(
    ("kind", "labels"), [(ClassIds, ["cat10", "dog", "cat9"]), (MultiHot, [["cat10"], [], ["dog", "cat9"]])]
)
def test_names_that_are_not_in_the_label_map_are_refused_in_natural_order(kind, labels):
    with pytest.raises(DataError, match=r"class\(es\) cat9, cat10 are not in the label map: dog, été, owl\."):
        kind.encode(labels, IDS)


def test_names_of_a_label():
    assert list(ClassIds.names_of("dog")) == ["dog"]
    assert list(MultiHot.names_of(["dog", "owl"])) == ["dog", "owl"] and list(MultiHot.names_of([])) == []
    assert list(Values.names_of(0.5)) == list(NoTargets.names_of(())) == []


def test_equal_labels_compare_equal_and_others_do_not():
    assert ClassIds.comparable(" e\u0301te\u0301") == ClassIds.comparable("été") != ClassIds.comparable("owl")
    assert MultiHot.comparable(["owl", "dog"]) == MultiHot.comparable(["dog ", "owl"]) != MultiHot.comparable(["dog"])
    assert Values.comparable(np.float64(0.5)) == Values.comparable(0.5) == (0.5,)
    assert Values.comparable(np.array([1.0, 2.0])) == (1, 2) != Values.comparable(np.array([2.0, 1.0]))
    assert NoTargets.comparable(()) == NoTargets.comparable(())
    assert all(
        isinstance(hash(found), int)
        for found in (ClassIds.comparable("a"), MultiHot.comparable(["a"]), Values.comparable([1.0]))
    )


# ---------- strata, selection and renumbering


def test_strata_spread_rare_labels_and_targets():
    np.testing.assert_array_equal(ClassIds([2, 0, 1]).strata(), [2, 0, 1])
    np.testing.assert_array_equal(MultiHot(np.array(HOT)).strata(), [1, 0, 2, 3, 1])
    assert len(np.unique(Values(np.linspace(0, 1, 12)).strata())) == 1
    groups = Values(np.linspace(5, -5, 100)).strata()
    np.testing.assert_array_equal(groups, np.repeat(np.arange(10)[::-1], 10))
    two = Values(np.stack([np.linspace(5, -5, 100), np.zeros(100)], axis=1))
    np.testing.assert_array_equal(two.strata(), groups)
    np.testing.assert_array_equal(NoTargets(3).strata(), [0, 0, 0])
    assert all(targets.strata().dtype == np.int64 for targets in of_each_kind())


@pytest.mark.parametrize("targets", of_each_kind(), ids=lambda targets: type(targets).__name__)
def test_some_are_chosen_in_the_order_asked_for(targets):
    for indices in ([3, 0, 0], np.array([3, 0, 0]), ()):
        chosen = targets.select(indices)
        assert type(chosen) is type(targets) and len(chosen) == len(indices)
        np.testing.assert_array_equal(chosen.values, targets.values[np.asarray(indices, int)])


def test_renumbered_labels_mean_the_same_names():
    ids = np.array([2, 0, 1])  # class 0 becomes class 2
    np.testing.assert_array_equal(ClassIds([0, 1, 2, 2]).renumbered(ids).values, [2, 0, 1, 1])
    np.testing.assert_array_equal(
        MultiHot(np.array([[1, 0, 0], [0, 1, 1]])).renumbered(ids).values, [[0, 0, 1], [1, 1, 0]]
    )
    np.testing.assert_array_equal(Values(np.array([[5.0, 6.0, 7.0]])).renumbered(ids).values, [[6, 7, 5]])
    one, none = Values(np.array([5.0])), NoTargets(2)
    assert one.renumbered(np.array([0])) is one and none.renumbered(np.array([])) is none
    renamed = {int(ids[i]): name for i, name in IDS.items()}
    for kind, labels in ((ClassIds, ["owl", "dog", "été"]), (MultiHot, [["owl", "dog"], [], ["été"]])):
        expected = kind.encode(labels, renamed)
        np.testing.assert_array_equal(kind.encode(labels, IDS).renumbered(ids).values, expected.values)


# ---------- batches


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (ClassIds(np.array([2, 0, 1])), torch.tensor([1, 2])),
        (MultiHot(np.float32(HOT)), torch.tensor([[1.0, 0, 1], [1, 1, 0]])),
        (Values(np.float32([0.5, 1, 2])), torch.tensor([2.0, 0.5])),
    ],
)
def test_a_batch_holds_what_a_loss_takes(targets, expected):
    (name, labels), *others = targets.batch([2, 0]).items()
    assert name == "labels" and not others
    assert labels.dtype == expected.dtype and torch.equal(labels, expected)


def test_a_batch_without_targets_holds_no_labels():
    def views(indices):
        return torch.zeros(len(indices), 3, 2, 2, dtype=torch.uint8)

    unlabelled = Examples(["a", "b"], ["a", "b"])
    assert isinstance(unlabelled.targets, NoTargets) and isinstance(unlabelled.select([1]).targets, NoTargets)
    assert len(unlabelled.select([1]).targets) == 1
    assert set(ImageDataset(unlabelled, views).__getitems__([1, 0])) == {"pixel_values", "index"}
    labelled = Examples(["a", "b"], ["a", "b"], ClassIds([0, 1]))
    batch = ImageDataset(labelled, views).__getitems__([1, 0])
    assert set(batch) == {"pixel_values", "index", "labels"} and batch["labels"].tolist() == [1, 0]


def test_the_fingerprint_is_of_the_values():
    assert ClassIds([0, 1]).fingerprint() == ClassIds([0, 1]).fingerprint() != ClassIds([1, 0]).fingerprint()
    assert NoTargets(3).fingerprint() == b""


# ---------- refusals


@pytest.mark.parametrize(
    ("kind", "names", "message"),
    [
        (ClassIds, [], r"the training data has 0 class \(.*\): a classifier needs two or more\."),
        (ClassIds, ["cat"], r"the training data has 1 class \(cat\): a classifier needs two or more\."),
        (ClassIds, ["cat", "dog"], None),
        (MultiHot, [], r"the training data names no label at all\."),
        (MultiHot, ["cat"], None),
        (Values, [], r"the training data names no label at all\."),
        (Values, ["age"], None),
        (NoTargets, [], None),
    ],
)
def test_names_that_a_model_cannot_learn_to_tell_apart(kind, names, message):
    if message is None:
        kind.check_names(names)
    else:
        with pytest.raises(DataError, match=message):
            kind.check_names(names)


def test_columns_that_are_no_targets_of_the_checkpoint():
    with pytest.raises(DataError, match=r"^t\.csv has 2 target\(s\), the checkpoint 3\.$"):
        Values.check_count(2, IDS, "t.csv")
    for kind, count in ((Values, 3), (Values, None), (ClassIds, 2), (MultiHot, 2), (NoTargets, 2)):
        kind.check_count(count, IDS, "t.csv")


def test_splits_of_numbers_that_do_not_go_together():
    train = np.array([[0.0, 1.0], [1.0, 1.0]])
    with pytest.raises(DataError, match=r"^target\(s\) height never vary in train\.$"):
        Values.check_together({"train": Values(train)}, {0: "age", 1: "height"})
    with pytest.raises(DataError, match=r"^test has 1 target\(s\), train has 2\.$"):
        Values.check_together({"train": Values(train), "test": Values(train[:, 0])}, {0: "age", 1: "height"})
    assert Values.check_together({"train": Values(train[:, 0]), "test": Values(train[:, 1])}, {0: "age"}) == []
    (note,) = Values.check_together({"train": Values(np.array([10.0, 20.0]))}, {0: "age"})
    assert note == (
        "targets have mean 15.0 and standard deviation 5.0: training goes better when they are scaled to about 0 and 1"
    )
    for targets in (ClassIds([0, 0]), MultiHot(np.zeros((2, 3))), NoTargets(2)):
        assert type(targets).check_together({"train": targets, "test": targets}, IDS) == []
