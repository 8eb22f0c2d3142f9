"""The records of the tasks are true, and no other file names a task."""

import re
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tiny import TINY

import modeling_vit_custom
from modeling_vit_custom import (
    ViTCustomConfig,
    ViTCustomForSemanticSegmentation,
    ViTCustomSegmentationImageProcessor,
)
from modeling_vit_custom.api import load
from modeling_vit_custom.engines.fastest import reason_against
from modeling_vit_custom.tasks.hub import SEGMENTATION, listing_stored
from modeling_vit_custom.tasks.measuring import compute_metrics
from modeling_vit_custom.tasks.registry import PROBLEM_TYPES, TASKS, one_label, task_named, task_of, task_stored

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


def test_a_model_of_segmentation_is_one_by_its_head_alone():
    """Its labels, and the problem_type of the classifier that it started from, would make it a classifier."""
    fields = {"num_labels": 3, "problem_type": "multi_label_classification"}
    config = ViTCustomConfig(**fields, head={"kind": "image-segmentation"})
    assert task_of(config).listing is listing_stored(config.to_dict()) is SEGMENTATION
    assert task_stored(config.to_dict(), 3) is task_of(config) is TASKS["semantic_segmentation"]
    assert task_of(ViTCustomConfig(**fields)) is TASKS["multi_label_classification"]
    facts = {"labels": ["road", "sky"]}
    assert "every pixel of colour images one of 2" in task_of(config).does("colour images", facts)
    assert len(task_of(config).limits(facts)) == 1


REFUSED = {
    "predict": ("--model", "{}", "images/a/0.png"),
    "evaluate": ("--model", "{}", "--data_dir", "images"),
    "serve": ("--model", "{}", "--port", "0"),
    "demo": ("--model", "{}", "--port", "0"),
    "explain": ("--model", "{}", "images/a/0.png"),
    "index": ("--model", "{}", "--data_dir", "images", "--output", "index"),
    "export": ("--model", "{}", "--format", "onnx", "--output", "exported"),
    "publish": ("--model", "{}", "--repo_id", "me/model", "--license", "mit", "--dry_run"),
    "train": ("--model_name_or_path", "{}", "--train_dir", "images", "--output_dir", "run"),
    "pretrain": ("--model_name_or_path", "{}", "--train_dir", "images", "--output_dir", "run"),
    "convert": ("--to", "hf", "{}", "converted"),
}


@pytest.mark.slow
def test_every_command_that_needs_one_answer_an_image_refuses_it_by_name(tmp_path, monkeypatch, capsys):
    model = ViTCustomForSemanticSegmentation(ViTCustomConfig(**TINY))
    model.save_pretrained(tmp_path / "roads")
    ViTCustomSegmentationImageProcessor.for_model(model.config).save_pretrained(tmp_path / "roads")
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
        Image.new("RGB", (32, 24)).save(tmp_path / "images" / label / "0.png")
    monkeypatch.chdir(tmp_path)
    for command, arguments in REFUSED.items():
        given = [argument.format("roads") for argument in arguments]
        code = import_module(f"modeling_vit_custom.commands.{command}").main(given)
        said = capsys.readouterr().err
        assert code not in (0, None), command
        assert "roads" in said and "emantic" in said, (command, said)
    assert {path.name for path in tmp_path.iterdir()} <= {"roads", "images", "run", "explanations"}
    loaded, processor = load("roads")
    assert type(loaded) is ViTCustomForSemanticSegmentation
    assert type(processor) is ViTCustomSegmentationImageProcessor
    assert "one answer an image" in str(reason_against(model, processor, False))


def test_a_configuration_without_a_problem_type_is_read_as_transformers_trains_it():
    unset = SimpleNamespace(problem_type=None, num_labels=1)
    assert task_of(unset) is TASKS["regression"]
    assert task_named(None, 2) is task_named("", 7) is TASKS[one_label()] and TASKS[one_label()].one_label
    with pytest.raises(ValueError, match="problem_type is 'sorting'; use one of single_label_classification, multi_"):
        task_named("sorting")
