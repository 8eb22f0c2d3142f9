"""Flags: what must be given, what is refused, what the defaults are, and recipes."""

from importlib.util import find_spec

import numpy as np
import pytest

from modeling_vit_custom.commands.training_flags import parse_args
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.data.examples import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from modeling_vit_custom.evaluation.metrics import compute_metrics
from modeling_vit_custom.tasks.registry import task_named
from modeling_vit_custom.training.arguments.completion import choose_best_metric, complete_arguments
from modeling_vit_custom.training.arguments.recipes import RECIPES, recipe_flags, recipe_names
from modeling_vit_custom.training.arguments.values import field_values

BASE = ["--output_dir", "out", "--train_dir", "photos"]
PUSH = [*BASE, "--variant", "nano/4", "--push_to_hub", "true"]


def completed(*flags: str):
    groups = parse_args([*BASE, *flags])
    complete_arguments(*groups)
    return groups


def test_defaults_follow_the_method():
    _, data, scratch = completed("--variant", "nano/4")
    assert scratch.learning_rate == 1e-3 and data.augmentation == "standard"
    _, _, full = completed("--model_name_or_path", "x", "--method", "full")
    assert full.learning_rate == 5e-5 and full.num_train_epochs == 5
    _, data, search = completed("--model_name_or_path", "x")
    assert search.learning_rate is None and search.num_train_epochs is None and data.augmentation == "auto"
    _, data, probe = completed("--model_name_or_path", "x", "--method", "linear_probe")
    assert probe.weight_decay == 0 and data.augmentation == "none"
    _, data, own = completed("--variant", "nano/4", "--learning_rate", "0.5", "--augmentation", "light")
    assert own.learning_rate == 0.5 and data.augmentation == "light"


def test_trainer_defaults():
    _, _, args = completed("--variant", "nano/4")
    assert args.eval_strategy == args.save_strategy == "epoch"
    assert args.load_best_model_at_end and args.save_total_limit == 2
    assert args.report_to == (["tensorboard"] if find_spec("tensorboard") else [])
    assert not args.remove_unused_columns and not args.logging_nan_inf_filter
    assert args.get_warmup_steps(200) == 20


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train_dir", "x", "--variant", "nano/4"], "--output_dir is missing"),
        (BASE, "either --model_name_or_path"),
        ([*BASE, "--variant", "a", "--model_name_or_path", "b"], "either --model_name_or_path"),
        (["--output_dir", "o", "--variant", "nano/4"], "name the training data by one of .* not none"),
        ([*BASE, "--variant", "nano/4", "--dataset", "mnist5k"], "not --dataset and --train_dir"),
        ([*BASE, "--variant", "nano/4", "--method", "linear_probe"], "--variant has none"),
        ([*BASE, "--variant", "nano/4", "--image_size", "1", "2", "3"], "one number or two"),
        ([*BASE, "--variant", "nano/4", "--hub_token", "hf_secret"], "HF_TOKEN"),
        ([*PUSH, "--hub_model_id", "ada/x"], "needs --hub_license"),
        ([*PUSH, "--hub_license", "mit"], "--hub_model_id NAMESPACE/NAME"),
        ([*PUSH, "--hub_license", "mit", "--hub_model_id", "x"], "give NAMESPACE/x"),
        ([*PUSH, "--hub_license", "mit", "--hub_model_id", "ada/x", "--hub_strategy", "checkpoint"], "pickled"),
        ([*BASE, "--variant", "nano/4", "--remove_unused_columns", "true"], "drop the images"),
        (["no_such_recipe"], "one of .*mnist5k"),
    ],
)
def test_refused(flags, message):
    with pytest.raises(UsageError, match=message) as caught:
        complete_arguments(*parse_args(flags))
    assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [(SINGLE_LABEL, np.arange(6)), (MULTI_LABEL, np.eye(6, dtype=int)), (REGRESSION, np.eye(6))],
)
def test_the_best_is_the_best(problem_type, labels):
    """Whatever is measured, better predictions count as better, and the opposite is refused."""
    names = dict(enumerate("abcdef"))
    good = np.eye(6) * (1 if problem_type == REGRESSION else 9)
    good, bad = (compute_metrics(logits, labels, problem_type, names) for logits in (good, 1 - good))
    assert good.keys() == task_named(problem_type).measures(6).keys()
    for metric in good:
        _, _, args = completed("--variant", "nano/4", "--metric_for_best_model", f"eval_{metric}")
        choose_best_metric(args, problem_type, 6)
        assert args.metric_for_best_model == metric
        assert args.greater_is_better == (good[metric] > bad[metric]) and good[metric] != bad[metric]
        wrong = str(not args.greater_is_better)
        asked = ("--variant", "nano/4", "--metric_for_best_model", metric, "--greater_is_better", wrong)
        with pytest.raises(UsageError, match=f"--greater_is_better {wrong} would keep the worst model by {metric}"):
            choose_best_metric(completed(*asked)[2], problem_type, 6)
    _, _, args = completed("--variant", "nano/4")
    choose_best_metric(args, problem_type, 6)
    assert args.metric_for_best_model == next(iter(task_named(problem_type).measures(6)))
    _, _, args = completed("--variant", "nano/4", "--metric_for_best_model", "loss")
    choose_best_metric(args, problem_type, 6)
    assert not args.greater_is_better


def test_recipe_is_flags_and_later_flags_win(tmp_path):
    (tmp_path / "own.yaml").write_text("variant: nano/4\nimage_size: [24, 32]\nlearning_rate: 2e-3\nbf16: false\n")
    model, data, args = parse_args([str(tmp_path / "own.yaml"), *BASE, "--learning_rate", "0.1"])
    assert model.image_size == [24, 32] and args.learning_rate == 0.1 and args.bf16 is False
    assert data.train_dir == "photos"


@pytest.mark.parametrize("name", recipe_names())
def test_packaged_recipes_parse_and_say_where_their_numbers_come_from(name):
    text = (RECIPES / f"{name}.yaml").read_text()
    data = [] if "\ndataset:" in text else ["--train_dir", "photos"]
    complete_arguments(*parse_args([name, *data, "--output_dir", "out"]))
    header = text.split("\n\n")[0]
    for word in ("# Command:", "# Hardware:", "# Result:"):
        assert word in header


def test_recipe_flags_of_lists():
    assert recipe_flags("mnist5k")[:2] == ["--dataset", "mnist5k"]


def test_field_values():
    assert field_values("pooling=map, num_channels=1,image_size=[8, 16],qkv_bias=false", "--x") == {
        "pooling": "map",
        "num_channels": 1,
        "image_size": [8, 16],
        "qkv_bias": False,
    }
    assert field_values(None, "--x") == {}
    with pytest.raises(UsageError, match="--x: 'oops' is not name=value"):
        field_values("oops", "--x")


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit):
        parse_args(["--help"])
    text = capsys.readouterr().out
    assert "--method fitted_head" in text and "accelerate launch" in text and "mnist5k" in text
