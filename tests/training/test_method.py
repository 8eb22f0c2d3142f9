"""The method that trains if none is named, and the comparison of full fine-tuning with the fitted head."""

import json
import shutil

import pytest
import torch
import yaml
from real_digits import write_train_and_test
from safetensors.torch import load_file
from tiny_training import QUICK, tiny_checkpoint, tiny_train

from modeling_vit_custom.commands.training_flags import parse_args
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.training.arguments.completion import complete_arguments
from modeling_vit_custom.training.runs.train import train
from modeling_vit_custom.training.search import planning


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_train_and_test(tmp_path_factory.mktemp("data"), train=16, test=14)


@pytest.fixture(scope="module")
def base(digits, tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("base") / "o", digits / "train")


@pytest.mark.parametrize(
    "flags,method",
    [
        ((), "search"),
        (("--max_minutes", 3), "search"),
        (("--folds", 5, "--shots", 4), "search"),
        (("--image_size", 96, "--per_device_train_batch_size", 4, "--augmentation", "none"), "search"),
        (("--num_train_epochs", 2), "full"),
        (("--max_steps", 9), "full"),
        (("--learning_rate", 1e-4), "full"),
        (("--weight_decay", 0), "full"),
        (("--teacher", "somewhere"), "full"),
        (("--muon", "true"), "full"),
        (("--mixup", 0.2), "full"),
        (("--config_overrides", "pooling=map"), "full"),
        (("--streaming", "true"), "full"),
        (("--method", "linear_probe"), "linear_probe"),
        (("--method", "fitted_head", "--folds", 5), "fitted_head"),
    ],
)
def test_flags_of_a_training_in_steps_ask_for_one(tmp_path, flags, method):
    words = ["--train_dir", "d", "--output_dir", tmp_path / "o", "--model_name_or_path", "c", "--report_to", "none"]
    groups = parse_args([*map(str, words), *map(str, flags)])
    complete_arguments(*groups)
    model_args, data_args, training_args = groups
    assert model_args.method == method
    assert data_args.train_val_split == (None if method in ("search", "fitted_head") else 0.15)
    assert (training_args.learning_rate is None) == (method in ("search", "fitted_head"))


def test_random_weights_are_trained_in_full(tmp_path):
    groups = parse_args(["--train_dir", "d", "--output_dir", str(tmp_path / "o"), "--variant", "nano/4", *QUICK])
    complete_arguments(*groups)
    assert groups[0].method == "full"


def test_the_default_is_a_search(digits, base, tmp_path, capsys):
    flags = ("--train_dir", digits / "train", "--test_dir", digits / "test")
    metrics = tiny_train(tmp_path / "o", *flags, model=base)
    assert metrics["train"]["fitted"]["head"] and metrics["cross_validation"]["n"] == metrics["train"]["n"] == 48
    assert json.loads((tmp_path / "o" / "training_args.json").read_text())["model"]["method"] == "search"
    assert tiny_train(tmp_path / "o", *flags, model=base) == metrics
    assert "nothing is trained" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"--method search there, full now"):
        tiny_train(tmp_path / "o", *flags, "--num_train_epochs", 2, model=base)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multi_label_classification", "regression"])
def test_other_tasks_are_searched_too(digits, base, tmp_path, capsys, monkeypatch, task):
    monkeypatch.setattr(planning, "SETTINGS", planning.SETTINGS[:1])
    monkeypatch.setattr(planning, "MOST_PASSES", 2.0)
    rows = ["image,label"]
    for at, path in enumerate(sorted((digits / "train").rglob("*.png"))):
        digit = int(path.parent.name)
        tags = f"d{digit}|odd" if at % 2 else f"d{digit}"
        rows.append(f"{path.relative_to(digits)},{digit / 2 if task == 'regression' else tags}")
    (digits / f"{task}.csv").write_text("\n".join(rows))
    flags = ("--train_dir", digits / f"{task}.csv", "--problem_type", task, "--max_minutes", 9, "--folds", 2)
    metrics = tiny_train(tmp_path / "o", *flags, model=base)
    assert metrics["problem_type"] == task and metrics["cross_validation"]["n"] == 48
    assert metrics["train"]["fitted"]["head"] == ("ridge" if task == "regression" else "logistic")
    assert len(metrics["train"]["search"]["trials"]) == 1
    printed = capsys.readouterr().out
    assert "in the score on 48 held-out images" in printed and "2 folds: " in printed


@pytest.mark.slow
def test_auto_chooses_it_whatever_the_rarest_class_and_keeps_what_it_chose(digits, base, tmp_path, capsys):
    data = tmp_path / "d"
    shutil.copytree(digits / "train", data)
    for path in sorted((data / "1").iterdir())[1:]:
        path.unlink()
    words = ["auto", "--output_dir", tmp_path / "o", *base, *QUICK, "--train_dir", data]
    for _ in range(2):
        groups = parse_args([*map(str, words)])
        metrics = train(*groups)
        assert groups[0].method == "search" and metrics["train"]["fitted"]["head"]
    assert yaml.safe_load((tmp_path / "o" / "recipe.yaml").read_text())["method"] == "search"
    printed = capsys.readouterr().out
    assert "as chosen before" in printed and "nothing is trained" in printed


def test_a_run_begun_with_full_fine_tuning_continues_with_it(digits, base, tmp_path):
    """A run of an earlier version, whose default was another method, must continue in this way."""
    flags = ("--train_dir", digits / "train")
    tiny_train(tmp_path / "o", *flags, "--method", "full", "--logging_steps", 1, model=base)
    (tmp_path / "o" / "metrics.json").unlink()
    metrics = tiny_train(tmp_path / "o", *flags, model=base)
    assert metrics["train"]["resumed"] and "fitted" not in metrics["train"]
    again = tiny_train(tmp_path / "o", *flags, "--resume_from_checkpoint", "false", model=base)
    assert "fitted" in again["train"]


def test_full_fine_tuning_is_compared_with_the_fitted_head_and_is_not_changed_by_it(
    digits, base, tmp_path, capsys, monkeypatch
):
    flags = ("--train_dir", digits / "train", "--num_train_epochs", 2, "--learning_rate", 1e-3)
    metrics = tiny_train(tmp_path / "o", *flags, model=base)
    printed = capsys.readouterr().out
    beside = metrics["train"]["fitted_head"]
    gain = metrics["validation"]["accuracy"] - beside["metrics"]["accuracy"]
    assert beside["gain"] == pytest.approx(gain) and beside["pooling"]
    assert f"the fitted head alone: accuracy {beside['metrics']['accuracy']:.4f}" in printed
    assert ("--method fitted_head takes seconds" in printed) == (gain <= 0)
    monkeypatch.setattr("modeling_vit_custom.training.runs.train.yardstick_for", lambda *_: None)
    without = tiny_train(tmp_path / "p", *flags, model=base)
    assert "fitted_head" not in without["train"] and without["validation"] == metrics["validation"]
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("o", "p"))
    assert all(torch.equal(one[name], other[name]) for name in one)
