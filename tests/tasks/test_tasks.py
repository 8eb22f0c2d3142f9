"""The records of the tasks say what is so, and fewer and fewer files beside them name a task."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import modeling_vit_custom
from modeling_vit_custom.evaluation.metrics import compute_metrics
from modeling_vit_custom.tasks.registry import PROBLEM_TYPES, TASKS, one_label, task_named, task_of
from modeling_vit_custom.tasks.task import ONE_LABEL

PACKAGE = Path(modeling_vit_custom.__file__).parent
# What names a task, its labels or its outputs, and may do so in tasks/ and in the root alone. (`conversion/`,
# `benchmarks/` and the loading of teachers name other libraries' classes and outputs.)
OF_A_TASK = re.compile(
    r"\b(SINGLE_LABEL|MULTI_LABEL|REGRESSION)\b|\.logits\b|\.argmax\(|id2label\[|ForImageClassification"
)
ELSEWHERE = ("tasks/", "conversion/", "benchmarks/", "training/objectives/teacher_loading.py")
# Files that still do. The list may only shrink: take out what no longer names one.
STILL = {
    "audit/classes.py",
    "audit/duplicates.py",
    "audit/findings.py",
    "audit/similar.py",
    "commands/serve_fresh.py",
    "data/columns.py",
    "data/examples.py",
    "data/folders.py",
    "data/labels.py",
    "data/sources.py",
    "data/streamed_splits.py",
    "data/unlabelled.py",
    "engines/fastest.py",
    "engines/logits.py",
    "engines/registry.py",
    "engines/tracing.py",
    "evaluation/calibration.py",
    "evaluation/evaluate.py",
    "evaluation/metrics.py",
    "evaluation/mistakes.py",
    "evaluation/page.py",
    "evaluation/result.py",
    "features/fitted.py",
    "features/selection.py",
    "features/taps.py",
    "inference/forward.py",
    "inference/loading.py",
    "inference/predict.py",
    "publishing/golden.py",
    "reporting/charts.py",
    "reporting/facts.py",
    "serving/app.py",
    "serving/demo.py",
    "speed/export.py",
    "speed/table.py",
    "training/initialization/build.py",
    "training/initialization/start_checkpoint.py",
    "training/objectives/distillation.py",
    "training/objectives/loss.py",
    "training/objectives/teacher_classes.py",
    "training/runs/auto.py",
    "training/runs/compared.py",
    "training/runs/finishing.py",
    "training/runs/fitting.py",
    "training/search/floor.py",
    "training/search/folds.py",
    "training/search/search.py",
    "training/search/trials.py",
}
LABELS = {
    "single_label_classification": np.array([0, 1, 2, 1]),
    "multi_label_classification": np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]]),
    "regression": np.array([[0.5, 1, 2], [3, 1, -1], [0, 0, 0], [2, 2, 4]]),
}


def test_no_other_file_names_a_task():
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.glob("*/**/*.py")
        if OF_A_TASK.search(path.read_text()) and not path.relative_to(PACKAGE).as_posix().startswith(ELSEWHERE)
    }
    assert found == STILL


@pytest.mark.parametrize("name", PROBLEM_TYPES)
def test_the_score_of_each_answer_is_the_better_the_righter_and_the_measures_are_measured(name):
    task, labels = TASKS[name], LABELS[name]
    good = np.eye(3)[labels] * 4 if labels.ndim == 1 else labels * 8.0 - 4 if "multi" in name else labels * 1.0
    bad = -good + 1
    assert (task.score(good, labels) > task.score(bad, labels)).all() and task.score(good, labels).shape == (4,)
    measured = compute_metrics(good, labels, name, dict(enumerate("abc")))
    assert measured.keys() == task.measures(3).keys()
    if task.in_points:
        assert measured[task.score_name] == task.score(good, labels).mean()
    assert "colour images" in task.does("colour images", ["a", "b"])


def test_a_configuration_without_a_problem_type_is_read_as_transformers_trains_it():
    unset = SimpleNamespace(problem_type=None, num_labels=1)
    assert task_of(unset) is TASKS["regression"]
    assert task_named(None, 2) is task_named("", 7) is TASKS[one_label()] and ONE_LABEL in TASKS[one_label()].supports
    with pytest.raises(ValueError, match="problem_type is 'sorting'; use one of single_label_classification, multi_"):
        task_named("sorting")
