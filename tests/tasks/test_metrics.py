"""Streaming metrics: batches give the same as all examples at once, and as scikit-learn on the same data."""

import copy
import math
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.special import softmax
from transformers import EvalPrediction

from modeling_vit_custom.evaluation import metrics as reference
from modeling_vit_custom.tasks.measuring import TrainerMetrics, compute_metrics, measured
from modeling_vit_custom.tasks.multi_label import MULTI_LABEL
from modeling_vit_custom.tasks.registry import TASKS
from modeling_vit_custom.tasks.regression import REGRESSION
from modeling_vit_custom.tasks.single_label import SINGLE_LABEL
from modeling_vit_custom.tasks.task import Metrics, Task

LABELLED = (SINGLE_LABEL, MULTI_LABEL, REGRESSION)
CUTS = ((), (1, 8, 9, 120), (64, 128, 192))  # where 200 examples are cut into batches
each_task = pytest.mark.parametrize("task", LABELLED, ids=lambda task: task.name)


def outputs_and_values(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Return a model's (outputs float32 [200, 7], labels [200] or [200, 7]).

    For classes and labels: the first is never predicted, the sixth is never true, the last is neither.
    """
    random = np.random.default_rng(0)
    outputs = random.normal(size=(200, 7)).astype(np.float32)
    if task is REGRESSION:
        truth = (outputs + random.normal(size=(200, 7)) * 0.3) * [1, 2, 3, 4, 100, 1, 0.01]
        return outputs, truth.astype(np.float32)
    ids = random.integers(0, 5, 200)
    outputs[np.arange(200), ids] += 1.5
    outputs[:, [0, 6]] = -9
    if task is SINGLE_LABEL:
        return outputs, ids
    return outputs, (np.eye(7)[ids] + np.eye(7)[(ids + 1) % 5]).astype(np.float32)


def fed(task: Task, outputs: np.ndarray, values: np.ndarray, cuts: Sequence[int] = ()) -> Metrics:
    metrics = task.metrics(outputs.shape[1])
    for batch in zip(np.split(outputs, cuts), np.split(values, cuts), strict=True):
        metrics.update(*batch)
    return metrics


def of_scikit_learn(task: Task, outputs: np.ndarray, values: np.ndarray) -> tuple[dict, dict]:
    """Return (the metrics, the metrics of each label) from the classes of `evaluate`."""
    if task is REGRESSION:
        found = reference.RegressionErrors().compute(predictions=outputs, references=values)
        return found, found.pop("per_target")
    if task is MULTI_LABEL:
        both = {"predictions": (outputs > 0).astype(int), "references": values.astype(int)}
        ranking = reference.MeanAveragePrecision().compute(predictions=outputs, references=values.astype(int))
        report = reference.ClassReport().compute(**both, num_classes=7)
        report["average_precision"] = ranking.pop("average_precision")
        return ranking | reference.MacroF1().compute(**both), report
    probabilities, predicted = softmax(outputs.astype(np.float64), axis=1), outputs.argmax(axis=1)
    both = {"predictions": predicted, "references": values}
    best = np.argsort(-outputs, axis=1, kind="stable")[:, :5]
    return {
        **reference.Accuracy().compute(**both),
        **reference.TopKAccuracy().compute(predictions=best, references=values),
        **reference.MacroF1().compute(**both),
        **reference.ExpectedCalibrationError().compute(
            predictions=probabilities.max(axis=1), references=(predicted == values).astype(int)
        ),
    }, reference.ClassReport().compute(**both, num_classes=7)


def assert_same(found: dict, expected: dict, rounding: float) -> None:
    """Check that metrics are equal within a relative error of `rounding`, bit for bit if it is 0; NaN equals NaN."""
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=rounding, atol=0, err_msg=name)


@pytest.mark.parametrize("cuts", CUTS[1:], ids=str)
@each_task
def test_batches_give_what_all_examples_give_at_once(task, cuts):
    outputs, values = outputs_and_values(task)
    parts, whole = fed(task, outputs, values, cuts), fed(task, outputs, values)
    rounding = 1e-12 if task is REGRESSION else 0
    assert_same(parts.compute(), whole.compute(), rounding)
    assert_same(parts.per_label(), whole.per_label(), rounding)
    assert parts.compute() == parts.compute() and list(parts.compute()) == list(task.measures(7))


@pytest.mark.parametrize("cuts", CUTS, ids=str)
@each_task
def test_they_are_what_scikit_learn_computes(task, cuts):
    outputs, values = outputs_and_values(task)
    found, (metrics, each) = fed(task, outputs, values, cuts), of_scikit_learn(task, outputs, values)
    rounding = 1e-12 if task is REGRESSION else 0
    assert_same(found.compute(), metrics, rounding)
    assert_same(found.per_label(), each, rounding)


@pytest.mark.parametrize("task", LABELLED[:2], ids=lambda task: task.name)
def test_what_is_absent_is_undefined_and_not_in_the_mean(task):
    found = fed(task, *outputs_and_values(task), CUTS[1])
    each = found.per_label()
    undefined = {name: np.flatnonzero(np.isnan(values)).tolist() for name, values in each.items()}
    assert undefined["precision"] == [0, 6] and undefined["recall"] == [5, 6] and undefined["f1"] == [6]
    assert each["support"][5:].tolist() == [0, 0] and each["f1"][[0, 5]].tolist() == [0, 0]
    assert found.compute()["macro_f1"] == pytest.approx(np.nanmean(each["f1"]))
    if task is MULTI_LABEL:
        assert undefined["average_precision"] == [5, 6]
        assert found.compute()["mean_average_precision"] == pytest.approx(np.nanmean(each["average_precision"]))


def test_labels_that_never_occur_have_no_defined_metrics():
    found = fed(MULTI_LABEL, -np.ones((4, 2)), np.zeros((4, 2)), (1, 3))
    assert all(math.isnan(value) for value in found.compute().values())
    assert compute_metrics(MULTI_LABEL, 2, -np.ones((4, 2)), np.zeros((4, 2))) == {}


@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_a_constant_target_has_no_r2(cuts):
    outputs, values = outputs_and_values(REGRESSION)
    values = values.astype(np.float64)
    values[:, 2] = 0.1  # the mean is not 0.1 to the last digit
    found = fed(REGRESSION, outputs, values, cuts)
    assert np.isnan(found.per_label()["r2"]).tolist() == [False, False, True] + [False] * 4
    assert math.isnan(found.compute()["r2"]) and found.compute()["mae"] > 0
    assert set(compute_metrics(REGRESSION, 7, outputs, values)) == {"mae", "rmse"}


def test_a_target_that_only_varies_between_batches_or_far_from_0_keeps_its_digits():
    outputs, values = outputs_and_values(REGRESSION)
    outputs, values = outputs.astype(np.float64), values.astype(np.float64)
    values[:, 0] = np.repeat([1.0, 3.0], 100)
    outputs[:, 1] += 1e6
    values[:, 1] += 1e6
    found, (_, each) = fed(REGRESSION, outputs, values, (100,)), of_scikit_learn(REGRESSION, outputs, values)
    np.testing.assert_allclose(found.per_label()["r2"], each["r2"], rtol=1e-9)


def test_numbers_may_come_without_a_second_axis():
    outputs, values = outputs_and_values(REGRESSION)
    one = fed(REGRESSION, outputs[:, :1], values[:, 0], CUTS[1])
    assert one.compute() == fed(REGRESSION, outputs[:, :1], values[:, :1], CUTS[1]).compute()


@each_task
def test_a_bad_row_is_named_by_its_number_among_all(task):
    outputs, values = outputs_and_values(task)
    metrics = fed(task, outputs[:120], values[:120], (50,))
    before = metrics.compute()
    torn, wrong = outputs[120:].copy(), values[120:].copy()
    torn[[3, 5], 1] = np.nan
    with pytest.raises(ValueError, match=r"logits: 2 of 80 rows hold NaN or infinity, the first is row 123; look for"):
        metrics.update(torn, values[120:])
    wrong[4] = np.nan if task is REGRESSION else 9
    message = (
        "labels: 1 of 80 rows .* is row 124; correct" if task is REGRESSION else "labels: row 124 is .*whole numbers"
    )
    with pytest.raises(ValueError, match=message):
        metrics.update(outputs[120:], wrong)
    assert metrics.compute() == before, "a refused batch must not count"
    metrics.update(outputs[120:], values[120:])
    assert_same(metrics.compute(), fed(task, outputs, values, (50, 120)).compute(), 0)


@each_task
def test_a_trainer_may_hand_over_all_predictions_or_one_batch_after_another(task):
    outputs, values = outputs_and_values(task)
    expected = compute_metrics(task, 7, outputs, values)
    compute = TrainerMetrics(task, 7)
    assert compute(EvalPrediction(predictions=outputs, label_ids=values)) == expected
    for _ in range(2):  # the second evaluation starts from zero
        for start in range(0, 200, 64):
            rows = slice(start, start + 64)
            batch = EvalPrediction(predictions=torch.tensor(outputs[rows]), label_ids=torch.tensor(values[rows]))
            found = compute(batch, compute_result=start == 192)
            assert (found == {}) == (start < 192)
        assert_same(found, expected, 1e-12)


def test_answers_agree_that_say_the_same():
    one = np.array([[3.0, 1.0, -1.0], [0.5, 0.6, -2.0]])
    other = np.array([[0.2, 0.1, -0.1], [0.7, 0.6, -2.0]])
    assert SINGLE_LABEL.agree(one, other).tolist() == [True, False]
    assert MULTI_LABEL.agree(one, other).tolist() == [True, True]
    assert MULTI_LABEL.agree(one, one * [1, 1, -1]).tolist() == [False, False]
    assert REGRESSION.agree(one, one + np.array([[0.0029, 0, 0], [0, -0.0031, 0]])).tolist() == [True, False]
    for task in LABELLED:
        assert task.agree(one, one).dtype == bool and task.agree(one, one).all()


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_task_is_the_same_one_in_another_process(task):
    assert pickle.loads(pickle.dumps(task)) is task and copy.deepcopy([task])[0] is task


def test_tasks_without_labels_measure_no_answers():
    unlabelled = [task for task in TASKS.values() if task not in LABELLED]
    for task in unlabelled:
        with pytest.raises(ValueError, match="a task without labels measures no answers"):
            task.score(np.zeros((2, 3)), np.zeros(2))
    masked = TASKS["masked_image_modeling"]
    with pytest.raises(ValueError, match="a task without labels measures no answers"):
        measured(next(task for task in unlabelled if task is not masked), 3, np.zeros((2, 3)), np.zeros(2))
    losses = np.array([0.25, 1, 4, 2], np.float32)
    found = masked.metrics(0)
    for part in (losses[:3], losses[3:]):
        found.update(part, np.arange(len(part)))
    assert found.compute() == {"loss": float(losses.mean(dtype=np.float64))}
    with pytest.raises(ValueError, match="look for diverged weights"):
        found.update(np.array([np.nan]), np.zeros(1))
