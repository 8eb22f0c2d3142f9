"""From a command line, or a recipe and flags that win over it, to flags that are complete and go together."""

import argparse
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser
from transformers.trainer_utils import SaveStrategy

from ..data.examples import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from ..evaluation.metrics import TOP_K
from .augment import VIEW_SCALE
from .conflicts import WITHOUT_STEPS, check_ranges, conflicts, try_parts
from .flags import DataArguments, ModelArguments, UsageError, ViTTrainingArguments
from .method import choose_method
from .streaming import check_streaming

EXAMPLES = """examples:
  # real MNIST digits, from scratch, minutes on two CPU cores
  python scripts/train.py mnist5k --output_dir out/mnist5k

  # your own folder DIR/<class>/*.jpg and a checkpoint: the best head, fine-tuned where that is better; that head alone
  python scripts/train.py --train_dir photos --model_name_or_path CHECKPOINT --output_dir out/p
  python scripts/train.py --train_dir photos --model_name_or_path CHECKPOINT --method fitted_head --output_dir out/h

  # all of it fine-tuned, as you say how
  python scripts/train.py --train_dir photos --model_name_or_path CHECKPOINT --output_dir out/f --num_train_epochs 10

  # the same from another library's weights, converted first
  python scripts/train.py --train_dir photos --model_name_or_path timm:vit_small_patch16_224 --output_dir out/s
  python scripts/train.py --train_dir photos --model_name_or_path ViT-B_16.npz --output_dir out/b

  # a table of images with several labels each ("cat|outdoor"), larger images than the checkpoint was made for
  python scripts/train.py --train_dir train.csv --validation_dir val.csv --image_column_name file \\
      --label_column_name tags --model_name_or_path CHECKPOINT --image_size 320 320 --output_dir out/tags

  # shards that fit neither memory nor disk
  python scripts/train.py --streaming true --train_dir "shards/train-*.parquet" --validation_dir val \\
      --variant s/16 --output_dir out/s

  # from scratch, strongly regularised: colours, mixed and erased images, binary cross-entropy
  python scripts/train.py --train_dir photos --variant s/16 --auto_augment randaugment --mixup 0.8 --cutmix 1 \\
      --random_erasing 0.25 --loss bce --num_train_epochs 300 --output_dir out/s

  # a small ViT that learns from a convolutional network you have trained with timm
  python scripts/train.py --train_dir photos --variant micro/4 --teacher timm:resnet18 \\
      --teacher_weights resnet18.safetensors --output_dir out/taught

  # two processes
  accelerate launch --multi_gpu --num_processes 2 scripts/train.py --train_dir photos --variant micro/4 \\
      --output_dir out/two

  # let model, method, augmentation and schedule be chosen, with reasons, for half an hour
  python scripts/train.py auto --train_dir photos --max_minutes 30 --output_dir out/photos

A first argument without dashes is a recipe: a YAML file of flags, the name of one that comes with the package
({recipes}), or auto, which chooses one; --recipe NAME is the same. Flags win over it. Running the same command again
continues where it was cut off.
"""
RECIPES = Path(__file__).parents[1] / "recipes"
# What --learning_rate, --num_train_epochs and --weight_decay are when they are not given.
SCRATCH = {"learning_rate": 1e-3, "num_train_epochs": 30.0, "weight_decay": 0.05}
METHOD_DEFAULTS = {
    "full": {"learning_rate": 5e-5, "num_train_epochs": 5.0, "weight_decay": 0.05},
    "linear_probe": {"learning_rate": 1e-3, "num_train_epochs": 20.0, "weight_decay": 0.0},
    "lora": {"learning_rate": 1e-3, "num_train_epochs": 10.0, "weight_decay": 0.0},
    "head_then_full": {"learning_rate": 5e-5, "num_train_epochs": 5.0, "weight_decay": 0.05},
    "fitted_head": {},  # nothing is trained in steps
    "search": {},  # it chooses them
}
VALIDATION = 0.15  # share of the training images, of methods that do not cross-validate
# What validation measures besides the loss, and whether more of it is better; the first says which model is the best.
METRICS = {
    SINGLE_LABEL: {"accuracy": True, f"top{TOP_K}_accuracy": True, "macro_f1": True, "ece": False},
    MULTI_LABEL: {"mean_average_precision": True, "macro_f1": True},
    REGRESSION: {"mae": False, "rmse": False, "r2": True},
}


def complete_arguments(
    model_args: ModelArguments, data_args: DataArguments, training_args: ViTTrainingArguments
) -> None:
    """Checks the flags against each other and fills in the defaults that depend on the method, in place.

    Raises UsageError before anything has been read or written.
    """
    check_ranges(model_args, data_args, training_args)
    if model_args.method is None:
        model_args.method = choose_method(model_args, data_args, training_args)
    check_streaming(model_args.method, data_args, training_args)
    for wrong, message in conflicts(model_args, data_args, training_args):
        if wrong:
            raise UsageError(message)
    complete_distillation(training_args)
    defaults = SCRATCH if model_args.variant is not None else METHOD_DEFAULTS[model_args.method]
    for name, value in defaults.items():
        if getattr(training_args, name) is None:
            setattr(training_args, name, value)
    try_parts(training_args)
    if data_args.train_val_split is None and model_args.method not in WITHOUT_STEPS:
        data_args.train_val_split = VALIDATION
    if data_args.augmentation == "auto" and model_args.method != "search":  # which tries several
        plain = model_args.method == "fitted_head" and model_args.feature_views in (None, 1)
        frozen = plain or model_args.method == "linear_probe"
        data_args.augmentation = "none" if frozen else "standard"
    whole = VIEW_SCALE.get(data_args.augmentation) == 1
    if data_args.view_size is not None and (whole or len(data_args.view_size) > 2):
        raise UsageError(
            f"--view_size {data_args.view_size} with --augmentation {data_args.augmentation}: give one number or two, "
            "for an augmentation that cuts crops (standard)."
        )


def complete_distillation(training_args: ViTTrainingArguments) -> None:
    """Sets --distillation where it was not given; raises UsageError for flags of a teacher that is not named."""
    kind, teacher = training_args.distillation, training_args.teacher
    needy = {"--teacher_weights": training_args.teacher_weights, "--teacher_config": training_args.teacher_config}
    needy["--distillation"] = kind if kind != "none" else None
    if teacher is None and (lost := [f"{name} {value}" for name, value in needy.items() if value is not None]):
        raise UsageError(f"{lost[0]} needs a teacher: name one by --teacher.")
    if kind is None:
        training_args.distillation = "none" if teacher is None else "soft"


def choose_best_metric(training_args: ViTTrainingArguments, problem_type: str, num_labels: int) -> None:
    """Sets what "best" means for the task where --metric_for_best_model did not say it, and which way it is better.

    Raises UsageError for a metric that the task does not have, and for --greater_is_better that says otherwise.
    """
    known = METRICS[problem_type] | {"loss": False}
    if num_labels <= TOP_K:
        known.pop(f"top{TOP_K}_accuracy", None)
    if training_args.metric_is_default:
        if wants_best(training_args):
            set_best(training_args, *next(iter(known.items())))
        return
    name = str(training_args.metric_for_best_model).removeprefix("eval_")
    if name not in known:
        raise UsageError(f"--metric_for_best_model {name}: {problem_type} has {', '.join(known)}.")
    set_best(training_args, name, known[name])


def wants_best(training_args: ViTTrainingArguments) -> bool:
    """Whether anything asks which validation was the best."""
    by_best = training_args.save_strategy == SaveStrategy.BEST or training_args.early_stopping_patience
    return bool(training_args.load_best_model_at_end or by_best)


def set_best(training_args: ViTTrainingArguments, metric: str, greater: bool) -> None:
    """Raises UsageError where --greater_is_better would keep the worst model."""
    if training_args.greater_was not in (None, greater):
        raise UsageError(
            f"--greater_is_better {training_args.greater_was} would keep the worst model by {metric}: leave it out."
        )
    training_args.metric_for_best_model, training_args.greater_is_better = metric, greater


def field_values(text: str | None, flag: str) -> dict[str, Any]:
    """{"pooling": "map", "image_size": [32, 48]} from "pooling=map,image_size=[32,48]"; raises UsageError."""
    values = {}
    for part in re.split(r",(?![^\[]*\])", text) if text else []:
        name, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"{flag}: {part!r} is not name=value.")
        values[name.strip()] = yaml.safe_load(value)
    return values


def recipe_flags(recipe: str) -> list[str]:
    """A recipe's YAML as flags; `recipe` is a path or the name of one in the package. Raises UsageError."""
    path = Path(recipe) if recipe.endswith((".yaml", ".yml")) else RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        raise UsageError(f"no recipe {recipe!r}: give a YAML file, or one of {', '.join(recipe_names())}.")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise UsageError(f"recipe {path} must be a mapping of flags to values.")
    return as_flags(values)


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """["--name", "value", …] of a recipe's YAML."""
    flags = []
    for name, value in values.items():
        flags += [f"--{name}", *(str(item) for item in (value if isinstance(value, list) else [value]))]
    return flags


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


def parse_args(
    argv: Sequence[str] | None = None,
) -> tuple[ModelArguments, DataArguments, ViTTrainingArguments]:
    """The three groups of flags from a command line that may start with a recipe; "auto" is one that is chosen here."""
    argv = recipe_first(sys.argv[1:] if argv is None else argv)
    chosen = ""
    if argv[:1] == ["auto"]:
        from .auto import auto_recipe  # which needs this module

        chosen = auto_recipe(argv[1:], _parse_train_args)
        argv[:1] = as_flags(yaml.safe_load(chosen))
    model_args, data_args, training_args = _parse_train_args(argv)
    model_args.chosen_recipe = chosen
    return model_args, data_args, training_args


def recipe_first(argv: Sequence[str]) -> list[str]:
    """The words, with the name after --recipe in the place that a recipe has."""
    words = list(argv)
    if "--recipe" not in words[:-1]:
        return words
    at = words.index("--recipe")
    return [words[at + 1], *words[:at], *words[at + 2 :]]


def _parse_train_args(argv: list[str]) -> Any:
    return parse_groups(
        argv,
        (ModelArguments, DataArguments, ViTTrainingArguments),
        prog="train",
        description="Train or fine-tune a ViT Custom image classifier.",
        epilog=EXAMPLES.format(recipes=", ".join(recipe_names())),
    )


def parse_groups(argv: Sequence[str] | None, groups: Any, hidden: Collection[str] = (), **texts: str) -> Any:
    """One dataclass of flags for each of `groups`, from a command line that may start with a recipe.

    hidden: names of flags that --help leaves out.   texts: of the parser.
    """
    argv = recipe_first(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-"):
        argv[:1] = recipe_flags(argv[0])
    parser = HfArgumentParser(groups, formatter_class=_HelpFormatter, **texts)
    for action in parser._actions:
        if action.dest in hidden:
            action.help = argparse.SUPPRESS
    *parsed, strangers = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    if strangers:
        raise UsageError(f"{strangers[0]} is no flag, or no value of the one before it; --help names all.")
    return tuple(parsed)
