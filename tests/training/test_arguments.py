"""Flags: required ones, refusals, defaults, and recipes."""

from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom.commands.training_flags import parse_args
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.tasks.measuring import compute_metrics
from modeling_vit_custom.tasks.multi_label import MULTI_LABEL
from modeling_vit_custom.tasks.regression import REGRESSION
from modeling_vit_custom.tasks.single_label import SINGLE_LABEL
from modeling_vit_custom.training.arguments.completion import choose_best_metric, complete_arguments
from modeling_vit_custom.training.arguments.parsing import TRAIN, FlagParser, build_groups
from modeling_vit_custom.training.arguments.recipes import RECIPES, recipe_names, recipe_values
from modeling_vit_custom.training.arguments.tables import FLAGS
from modeling_vit_custom.training.arguments.values import field_values
from modeling_vit_custom.training.initialization.start_checkpoint import Pretrained, check_whole_patches
from modeling_vit_custom.training.runs.exits import exit_code
from modeling_vit_custom.training.trainer.assembly import start_of

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
        ([*BASE, "--variant", "nano/4", "--label_smoothing_factor", "2"], "--label_smoothing_factor 2.0: .* 0 to 1"),
        ([*BASE, "--variant", "nano/4", "--logging_steps", "0"], "--logging_steps 0.0: give a number from 1e-06"),
        ([*BASE, "--variant", "nano/4", "--image_size", "8", "0"], "--image_size 0: give a number from 1 to 32768"),
        ([*BASE, "--variant", "nano/4", "--max_steps", "5", "--warmup_steps", "6"], "6 is longer than the run of 5"),
    ],
)
def test_refused(flags, message):
    with pytest.raises(UsageError, match=message) as caught:
        complete_arguments(*parse_args(flags))
    assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "labels"),
    [(SINGLE_LABEL, np.arange(6)), (MULTI_LABEL, np.eye(6, dtype=int)), (REGRESSION, np.eye(6))],
)
def test_the_best_is_the_best(task, labels):
    """For every metric, better predictions count as better, and the opposite setting is refused."""
    good = np.eye(6) * (1 if task is REGRESSION else 9)
    good, bad = (compute_metrics(task, 6, logits, labels) for logits in (good, 1 - good))
    assert good.keys() == task.measures(6).keys()
    for metric in good:
        _, _, args = completed("--variant", "nano/4", "--metric_for_best_model", f"eval_{metric}")
        choose_best_metric(args, task.name, 6)
        assert args.metric_for_best_model == metric
        assert args.greater_is_better == (good[metric] > bad[metric]) and good[metric] != bad[metric]
        wrong = str(not args.greater_is_better)
        asked = ("--variant", "nano/4", "--metric_for_best_model", metric, "--greater_is_better", wrong)
        with pytest.raises(UsageError, match=f"--greater_is_better {wrong} would keep the worst model by {metric}"):
            choose_best_metric(completed(*asked)[2], task.name, 6)
    _, _, args = completed("--variant", "nano/4")
    choose_best_metric(args, task.name, 6)
    assert args.metric_for_best_model == next(iter(task.measures(6)))
    _, _, args = completed("--variant", "nano/4", "--metric_for_best_model", "loss")
    choose_best_metric(args, task.name, 6)
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


def test_values_of_a_recipe_are_those_of_its_yaml(tmp_path):
    assert recipe_values("mnist5k")["dataset"] == "mnist5k"
    (tmp_path / "own.yaml").write_text("image_size: [24, 32]\nmuon: true\n")
    assert recipe_values(tmp_path / "own.yaml") == {"image_size": [24, 32], "muon": True}


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


NO_RANGE = {"local_rank"}  # unused: the launcher's LOCAL_RANK counts


def test_every_number_has_a_range_and_what_is_outside_is_refused_by_name(capsys):
    parser = FlagParser(TRAIN)
    numbers = {flag.dest: flag.type for flag in parser._actions if flag.type in (int, float)}
    assert {"learning_rate", "seed", "image_size", "lora_alpha", "torch_empty_cache_steps"} <= numbers.keys()
    for name in numbers.keys() - NO_RANGE:
        kind, (low, high) = numbers[name], FLAGS[name].range
        for value in ("nan", "inf", "-inf", str(kind(2 * high + 1)), str(kind(low - 3))):
            words = [*BASE, "--variant", "nano/4", "--use_cpu", "true", f"--{name}={value}"]
            try:
                code = exit_code("train", partial(read, parser, words), complete_arguments)
            except SystemExit as ended:  # raised by argparse
                code = ended.code
            said = capsys.readouterr().err
            assert code == 2 and said.count("\n") == 1, said
            assert f"--{name}" in said and value in said and ("give a number" in said or "--help" in said), said


def read(parser: FlagParser, words: list[str]) -> Any:
    return build_groups(*parser.given(words), parser)


@pytest.mark.parametrize(
    ("size", "fitting"),
    [(["100"], "98 or 112"), (["13"], "14"), (["98", "100"], "98 98 or 98 112"), (["98"], None), (["28", "14"], None)],
)
def test_image_sizes_are_whole_patches(size, fitting):
    """A stored size may have a remainder: its weights have never seen the pixels that are cropped."""
    stored = Pretrained(ViTCustomConfig(image_size=100, patch_size=14), None, None)
    for flags, pretrained in ((("--variant", "s/14"), None), (("--model_name_or_path", "x"), stored)):
        model, *_ = completed(*flags, "--image_size", *size)
        if fitting is None:
            check_whole_patches(start_of(model), pretrained)
            continue
        with pytest.raises(UsageError, match=rf"--image_size {' '.join(size)} .* 14.* pixels.*: give {fitting}\.$"):
            check_whole_patches(start_of(model), pretrained)
    check_whole_patches(start_of(completed("--model_name_or_path", "x")[0]), stored)
    for odd in ("image_size=abc", "image_size=9.5", "image_size=[8]", "image_size=8,patch_size=0"):
        check_whole_patches(start_of(completed("--model_name_or_path", "x", "--config_overrides", odd)[0]), stored)


@pytest.mark.parametrize(
    ("flags", "examples", "steps"),
    [
        ((), 24, 9),
        (("--gradient_accumulation_steps", "2"), 24, 6),
        (("--dataloader_drop_last", "true"), 23, 6),
        (("--num_train_epochs", "0.5"), 24, 2),
        (("--max_steps", "7"), 24, 7),
    ],
)
def test_a_warm_up_is_no_longer_than_the_run(flags, examples, steps):
    flags = ("--variant", "nano/4", "--per_device_train_batch_size", "8", "--num_train_epochs", "3", *flags)
    _, _, args = completed(*flags, "--warmup_steps", str(steps))
    assert args.steps_for(examples) == steps
    args.check_warmup(examples)
    args.warmup_steps += 1
    with pytest.raises(UsageError, match=f"--warmup_steps {steps + 1} is longer than the run of {steps} steps: give"):
        args.check_warmup(examples)


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit):
        parse_args(["--help"])
    text = capsys.readouterr().out
    assert "--method fitted_head" in text and "accelerate launch" in text and "mnist5k" in text
