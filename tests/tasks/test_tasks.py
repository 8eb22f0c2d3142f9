"""The records of the tasks are true, and no other file names a task."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import modeling_vit_custom
from modeling_vit_custom.tasks.measuring import compute_metrics
from modeling_vit_custom.tasks.registry import PROBLEM_TYPES, TASKS, one_label, task_named, task_of

PACKAGE = Path(modeling_vit_custom.__file__).parent
# Words of a task, its labels or its outputs, allowed only in tasks/ and in the root. (`conversion/` and `benchmarks/`
# name other libraries' classes and outputs.)
OF_A_TASK = re.compile(
    r"\b(SINGLE_LABEL|MULTI_LABEL|REGRESSION)\b|\.logits\b|\.argmax\(|id2label\[|ForImageClassification"
)
ELSEWHERE = ("tasks/", "conversion/", "benchmarks/")
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
    assert not found


@pytest.mark.parametrize("name", PROBLEM_TYPES)
def test_better_answers_have_better_scores_and_all_measures_are_computed(name):
    task, labels = TASKS[name], LABELS[name]
    good = np.eye(3)[labels] * 4 if labels.ndim == 1 else labels * 8.0 - 4 if "multi" in name else labels * 1.0
    bad = -good + 1
    assert (task.score(good, labels) > task.score(bad, labels)).all() and task.score(good, labels).shape == (4,)
    measured = compute_metrics(task, 3, good, labels)
    assert measured.keys() == task.measures(3).keys()
    if task.in_points:
        assert measured[task.score_name] == task.score(good, labels).mean()
    assert "colour images" in task.does("colour images", {"labels": ["a", "b"]})


def test_a_configuration_without_a_problem_type_is_read_as_transformers_trains_it():
    unset = SimpleNamespace(problem_type=None, num_labels=1)
    assert task_of(unset) is TASKS["regression"]
    assert task_named(None, 2) is task_named("", 7) is TASKS[one_label()] and TASKS[one_label()].one_label
    with pytest.raises(ValueError, match="problem_type is 'sorting'; use one of single_label_classification, multi_"):
        task_named("sorting")
