"""Mistakes follow their definition, written out example by example."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from modeling_vit_custom.reporting.confused import confused_pairs, matrix_of, pairs_of
from modeling_vit_custom.reporting.history import newest_scores, panels
from modeling_vit_custom.tasks.multi_label import MULTI_LABEL
from modeling_vit_custom.tasks.regression import REGRESSION
from modeling_vit_custom.tasks.single_label import SINGLE_LABEL
from modeling_vit_custom.tasks.task import Mistake

NAMES = {0: "cat", 1: "dog", 2: "owl"}


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_single_label_by_the_probability_of_the_wrong_class(random):
    logits, labels = random.normal(size=(50, 3)), random.integers(0, 3, 50)
    expected = sorted(
        (
            Mistake(i, NAMES[labels[i]], NAMES[best], pytest.approx(row.max()), f"{row.max():.1%}", best, labels[i])
            for i, row in enumerate(softmax(logits, axis=1))
            if (best := row.argmax()) != labels[i]
        ),
        key=lambda one: -one.score.expected,
    )
    found, total = SINGLE_LABEL.mistakes(logits, labels, NAMES, 7)
    assert found == expected[:7] and total == len(expected)
    assert SINGLE_LABEL.mistakes(np.eye(3), np.arange(3), NAMES, 7) == ([], 0)


def test_multi_label_by_the_probability_of_the_wrong_answer(random):
    logits, labels = random.normal(size=(40, 3)), random.integers(0, 2, (40, 3))
    logits[3], labels[3] = 0, (0, 1, 0)  # at a probability of 0.5 a label counts as absent
    expected = []
    for i, c in np.ndindex(40, 3):
        if labels[i, c] and logits[i, c] <= 0:
            expected.append((i, NAMES[c], f"not {NAMES[c]}", 1 - expit(logits[i, c]), c))
        elif not labels[i, c] and logits[i, c] > 0:
            expected.append((i, f"not {NAMES[c]}", NAMES[c], expit(logits[i, c]), c))
    expected.sort(key=lambda one: -one[3])
    found, total = MULTI_LABEL.mistakes(logits, labels, NAMES, 1000)
    assert [(one.index, one.true, one.predicted) for one in found] == [one[:3] for one in expected]
    assert [one.output for one in found] == [one[4] for one in expected]
    assert np.allclose([one.score for one in found], [one[3] for one in expected]) and total == len(expected)
    assert [one.shown for one in found] == [f"{one.score:.1%}" for one in found]
    assert MULTI_LABEL.mistakes(labels * 2.0 - 1, labels, NAMES, 5) == ([], 0)


def test_regression_by_the_absolute_error():
    logits, labels = np.array([[1.0, 5.0], [2.0, 0.0]]), np.array([[1.5, 1.0], [2.0, 1.0]])
    found, total = REGRESSION.mistakes(logits, labels, {0: "age", 1: "height"}, 2)
    assert found == [Mistake(0, "height 1", "5", 4.0, "4", 1), Mistake(1, "height 1", "0", 1.0, "1", 1)] and total == 4


def test_confused_pairs_leave_out_what_is_right():
    confusion = np.array([[9, 2, 0], [5, 9, 2], [0, 0, 9]])
    pairs = pairs_of(confusion)
    assert np.array_equal(matrix_of(pairs, 3), confusion)
    assert confused_pairs(pairs, 10) == [(5, 1, 0), (2, 0, 1), (2, 1, 2)]
    assert confused_pairs(pairs, 1) == [(5, 1, 0)] and confused_pairs(pairs_of(np.eye(3)), 5) == []


def test_all_that_was_logged_is_in_a_panel_and_nothing_else():
    log = [
        {"step": 10, "epoch": 0.5, "loss": 2.0, "learning_rate": 1e-3, "grad_norm": 3.0, "images_per_second": 90.5},
        {"step": 20, "epoch": 1, "eval_loss": 1.5, "eval_mae": 0.5, "eval_r2": 0.1, "eval_runtime": 3.0},
        {"step": 30, "epoch": 1.5, "loss": 1.0, "learning_rate": 5e-4, "grad_norm": 3.0},
        {"step": 40, "epoch": 2, "eval_loss": 1.0, "eval_mae": 0.4, "eval_r2": 0.2, "eval_runtime": 3.0},
        {"step": 20, "epoch": 1, "train_runtime": 60.0, "total_flos": 0.0, "train_loss": 2.0},
    ]
    found = {panel.title: {curve.key: (curve.steps, curve.values) for curve in panel.curves} for panel in panels(log)}
    assert found == {
        "loss": {"loss": ([10, 30], [2.0, 1.0]), "eval_loss": ([20, 40], [1.5, 1.0])},
        "validation: Mean absolute error": {"eval_mae": ([20, 40], [0.5, 0.4])},
        "validation: R²": {"eval_r2": ([20, 40], [0.1, 0.2])},
        "learning rate": {"learning_rate": ([10, 30], [1e-3, 5e-4])},
        "gradient norm": {"grad_norm": ([10, 30], [3.0, 3.0])},
    }  # one point is no curve: images per second is left out
    assert newest_scores(log) == {"mae": 0.4, "r2": 0.2} and newest_scores(log[:1]) == {}
