"""Metrics equal scikit-learn and values computed by hand; undefined values and errors are reported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk
from transformers import EvalPrediction

from modeling_vit_custom.evaluation.metrics import (
    Accuracy,
    ClassReport,
    MacroF1,
    MeanAveragePrecision,
    RegressionErrors,
    TopKAccuracy,
)
from modeling_vit_custom.tasks.measuring import TrainerMetrics, compute_metrics
from modeling_vit_custom.tasks.multi_label import MULTI_LABEL
from modeling_vit_custom.tasks.registry import task_named
from modeling_vit_custom.tasks.regression import REGRESSION
from modeling_vit_custom.tasks.single_label import SINGLE_LABEL


@pytest.fixture
def seven_classes():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 7)), rng.integers(0, 7, 200)
    logits[np.arange(200), labels] += 1.5
    return logits, labels


def test_single_label_scores_are_those_of_scikit_learn(seven_classes):
    logits, labels = seven_classes
    scores = compute_metrics(SINGLE_LABEL, 7, logits, labels)
    predicted = logits.argmax(axis=1)
    assert scores["accuracy"] == pytest.approx(np.mean(predicted == labels))
    assert scores["top5_accuracy"] == pytest.approx(sk.top_k_accuracy_score(labels, logits, k=5))
    assert scores["macro_f1"] == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
    assert set(scores) == {"accuracy", "top5_accuracy", "macro_f1", "ece"}
    assert all(type(value) is float for value in scores.values())


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_top5_is_absent_when_it_says_nothing(classes):
    scores = compute_metrics(SINGLE_LABEL, classes, np.zeros((3, classes)), np.zeros(3))
    assert "top5_accuracy" not in scores
    assert scores["accuracy"] == 1.0


def test_classes_absent_from_the_evaluation_set_do_not_lower_macro_f1():
    logits = np.eye(7)[[0, 1, 1, 0]]
    assert compute_metrics(SINGLE_LABEL, 7, logits, [0, 1, 1, 0])["macro_f1"] == 1.0
    # Unless they are predicted by mistake: F1 is 1 for class 1, 2/3 for class 0 and 0 for class 6.
    logits = np.eye(7)[[0, 1, 1, 6]]
    assert compute_metrics(SINGLE_LABEL, 7, logits, [0, 1, 1, 0])["macro_f1"] == pytest.approx(5 / 9)


def test_class_report_tells_undefined_from_zero():
    report = ClassReport().compute(predictions=[0, 0, 1], references=[0, 1, 1], num_classes=3)
    assert report["support"].tolist() == [1, 2, 0]
    np.testing.assert_allclose(report["precision"], [0.5, 1.0, np.nan])
    np.testing.assert_allclose(report["recall"], [1.0, 0.5, np.nan])
    np.testing.assert_allclose(report["f1"], [2 / 3, 2 / 3, np.nan])


def test_many_classes_few_images_gives_no_warning():
    compute_metrics(SINGLE_LABEL, 30, np.eye(30), np.arange(30))
    MacroF1().compute(predictions=np.arange(30), references=np.arange(30))


def test_multi_label_scores():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4)), (rng.random((50, 4)) < 0.3).astype(np.float32)
    scores = compute_metrics(MULTI_LABEL, 4, logits, labels)
    assert scores["mean_average_precision"] == pytest.approx(
        sk.average_precision_score(labels, logits, average="macro")
    )
    assert scores["macro_f1"] == pytest.approx(sk.f1_score(labels, logits > 0, average="macro"))


def test_a_label_without_positives_is_left_out_of_the_mean():
    references = np.array([[1, 0], [0, 0], [1, 0]])
    result = MeanAveragePrecision().compute(predictions=[[0.9, 0.5], [0.5, 0.1], [0.1, 0.2]], references=references)
    # Ranked 0.9 (right), 0.5 (wrong), 0.1 (right): (1/1 + 2/3) / 2.
    assert result["mean_average_precision"] == pytest.approx(5 / 6)
    assert np.isnan(result["average_precision"][1])


def test_scores_that_are_undefined_are_left_out_not_nan():
    scores = compute_metrics(MULTI_LABEL, 2, -np.ones((3, 2)), np.zeros((3, 2)))
    assert scores == {}
    scores = compute_metrics(REGRESSION, 1, [[1.0], [2.0]], [5.0, 5.0])
    assert scores == {"mae": 3.5, "rmse": pytest.approx(np.sqrt((16 + 9) / 2))}


def test_regression_scores_worked_out_by_hand():
    scores = compute_metrics(REGRESSION, 1, [[1.0], [2.0], [6.0]], [1.0, 3.0, 5.0])
    assert scores["mae"] == pytest.approx(2 / 3)
    assert scores["rmse"] == pytest.approx(np.sqrt(2 / 3))
    assert scores["r2"] == pytest.approx(1 - 2 / 8)


def test_regression_over_two_targets_is_the_mean_of_each():
    rng = np.random.default_rng(0)
    predictions, references = rng.normal(size=(20, 2)), rng.normal(size=(20, 2)) * [1, 100]
    result = RegressionErrors().compute(predictions=predictions, references=references)
    for t in range(2):
        assert result["per_target"]["r2"][t] == pytest.approx(sk.r2_score(references[:, t], predictions[:, t]))
    assert result["rmse"] == pytest.approx(
        np.mean([np.sqrt(np.mean((predictions[:, t] - references[:, t]) ** 2)) for t in range(2)])
    )


@pytest.mark.parametrize(
    ("logits", "labels", "problem_type", "message"),
    [
        ([[0.0, np.nan]], [0], SINGLE_LABEL.name, "logits: 1 of 1 rows hold NaN or infinity, the first is row 0"),
        ([[0.0, np.inf]], [0], SINGLE_LABEL.name, "diverged"),
        (
            [[0.0, 1.0]],
            [2],
            SINGLE_LABEL.name,
            "row 0 is 2; single_label_classification takes whole numbers 0 to 1",
        ),
        ([[0.0, 1.0]], [-1], SINGLE_LABEL.name, "row 0 is -1"),
        ([[0.0, 1.0]], [0.5], SINGLE_LABEL.name, "whole numbers"),
        ([[0.0, 1.0]], [[0, 2]], MULTI_LABEL.name, "whole numbers 0 to 1"),
        ([[0.0, 1.0]], [0], MULTI_LABEL.name, r"labels have shape \(1,\)"),
        ([[0.0, 1.0]], [[0, np.nan]], REGRESSION.name, "correct these labels"),
        ([[0.0, 1.0, 2.0]], [0], SINGLE_LABEL.name, r"expected \[N, 2\]"),
        (np.zeros((0, 2)), [], SINGLE_LABEL.name, "no examples"),
        ([[0.0, 1.0]], [0], "ranking", "use one of single_label_classification"),
    ],
)
def test_bad_input_is_refused_by_name(logits, labels, problem_type, message):
    with pytest.raises(ValueError, match=message):
        compute_metrics(task_named(problem_type), 2, logits, labels)


def test_trainer_metrics_reads_an_eval_prediction(seven_classes):
    logits, labels = seven_classes
    compute = TrainerMetrics(SINGLE_LABEL, 7)
    expected = compute_metrics(SINGLE_LABEL, 7, logits, labels)
    assert compute(EvalPrediction(predictions=logits, label_ids=labels)) == expected
    assert compute(EvalPrediction(predictions=(logits, np.zeros(3)), label_ids=labels)) == expected


def test_batches_can_be_added_one_by_one(seven_classes):
    logits, labels = seven_classes
    ranked = np.argsort(-logits, axis=1)[:, :3]
    metric = TopKAccuracy()
    for start in range(0, 200, 64):
        metric.add_batch(predictions=ranked[start : start + 64], references=labels[start : start + 64])
    assert metric.compute()["top3_accuracy"] == pytest.approx(sk.top_k_accuracy_score(labels, logits, k=3))


def test_the_files_of_evaluate_remain_available_on_request(tmp_path):
    metric = Accuracy(keep_in_memory=False, cache_dir=str(tmp_path))
    metric.add_batch(predictions=[0, 1], references=[0, 0])
    assert list(tmp_path.rglob("*.arrow"))
    assert metric.compute() == {"accuracy": 0.5}


def test_two_processes_at_once_offline_leave_nothing_behind(tmp_path):
    program = (
        "import json, numpy as np\n"
        "from modeling_vit_custom.evaluation.metrics import Accuracy\n"
        "from modeling_vit_custom.tasks.measuring import compute_metrics\n"
        "from modeling_vit_custom.tasks.single_label import SINGLE_LABEL\n"
        "labels = np.arange(600) % 6\n"
        "for _ in range(20):\n"
        "    s = compute_metrics(SINGLE_LABEL, 6, np.eye(6)[labels], labels)\n"
        "    assert Accuracy().compute(predictions=labels, references=labels) == {'accuracy': 1}\n"
        "print(json.dumps(s))\n"
    )
    root = Path(__file__).parents[2]
    environment = os.environ | {
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(root),
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }
    runs = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    results = [json.loads(run.communicate(timeout=120)[0]) for run in runs]
    assert results[0] == results[1] and results[0]["accuracy"] == 1.0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not (tmp_path / "hf" / "metrics").exists()
