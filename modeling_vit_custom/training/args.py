# ruff: noqa: RUF009 - `flag` is dataclasses.field with its help beside it
"""The flags of training: three dataclasses, their defaults for each method, and the parser with recipes.

Names are those of transformers' image-classification example and of TrainingArguments wherever they exist.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from ..audit.gate import MODES as AUDIT_MODES
from ..data.examples import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from ..publishing.upload import PublishError, check_target
from .augment import AUGMENTATIONS, POLICIES, VIEW_SCALE
from .loss import LOSSES

EXAMPLES = """examples:
  # real MNIST digits, from scratch, minutes on two CPU cores
  python scripts/train.py mnist5k --output_dir out/mnist5k

  # your own folder DIR/<class>/*.jpg: a linear probe of a checkpoint, then all of it
  python scripts/train.py --train_dir photos --model_name_or_path CHECKPOINT --method linear_probe --output_dir out/p
  python scripts/train.py --train_dir photos --model_name_or_path CHECKPOINT --output_dir out/f --num_train_epochs 10

  # the same from another library's weights, converted first
  python scripts/train.py --train_dir photos --model_name_or_path timm:vit_small_patch16_224 --output_dir out/s
  python scripts/train.py --train_dir photos --model_name_or_path ViT-B_16.npz --output_dir out/b

  # a table of images with several labels each ("cat|outdoor"), larger images than the checkpoint was made for
  python scripts/train.py --train_dir train.csv --validation_dir val.csv --image_column_name file \\
      --label_column_name tags --model_name_or_path CHECKPOINT --image_size 320 320 --output_dir out/tags

  # from scratch, strongly regularised: colours, mixed and erased images, binary cross-entropy
  python scripts/train.py --train_dir photos --variant s/16 --auto_augment randaugment --mixup 0.8 --cutmix 1 \\
      --random_erasing 0.25 --loss bce --num_train_epochs 300 --output_dir out/s

  # two processes
  accelerate launch --num_processes 2 scripts/train.py --train_dir photos --variant micro/4 --output_dir out/two

A first argument without dashes is a recipe: a YAML file of flags, or the name of one that comes with the package
({recipes}). Flags after it win. Running the same command again continues where it was cut off.
"""
RECIPES = Path(__file__).parents[1] / "recipes"
METHODS = ("full", "linear_probe")
CLASS_WEIGHTS = ("none", "balanced")
HUB_STRATEGIES = ("end", "every_save")
# What --learning_rate, --num_train_epochs and --weight_decay are when they are not given.
SCRATCH = {"learning_rate": 1e-3, "num_train_epochs": 30.0, "weight_decay": 0.05}
METHOD_DEFAULTS = {
    "full": {"learning_rate": 5e-5, "num_train_epochs": 5.0, "weight_decay": 0.05},
    "linear_probe": {"learning_rate": 1e-3, "num_train_epochs": 20.0, "weight_decay": 0.0},
}
BEST_METRIC = {
    SINGLE_LABEL: ("accuracy", True),
    MULTI_LABEL: ("mean_average_precision", True),
    REGRESSION: ("mae", False),
}


class UsageError(ValueError):
    """Flags that do not go together; the message names them and the way out."""


def flag(default: Any = None, help: str = "", **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help, **metadata})


@dataclass
class ModelArguments:
    model_name_or_path: str | None = flag(
        help="Checkpoint to start from: a folder or a Hub name; or what `convert` reads of other libraries: timm:NAME, "
        "torchvision:NAME, a folder saved by transformers, a .npz, .safetensors or .pth file."
    )
    source_config: str | None = flag(
        help='What such a source does not say of itself: "image_size=224,num_attention_heads=6", "family=…".'
    )
    variant: str | None = flag(help='Start from random weights: a named size, such as "micro/4".')
    method: str = flag(default="full", help="Train everything, or the head alone.", choices=METHODS)
    image_size: list[int] | None = flag(
        help="Input size in pixels, to which a checkpoint is resampled: one number, or height width."
    )
    drop_path_rate: float | None = flag(help="Stochastic depth of the last block.")
    config_overrides: str | None = flag(help='More configuration fields, "pooling=map,num_channels=1".')
    model_revision: str = flag(default="main", help="Branch, tag or commit of a Hub checkpoint.")
    cache_dir: str | None = flag(help="Where downloads from the Hub are kept.")
    ignore_mismatched_sizes: bool = flag(
        default=False, help="Initialise anew what does not fit, beyond the head (a new head needs no flag)."
    )


@dataclass
class DataArguments:
    dataset: str | None = flag(help="A built-in dataset, written as files.", choices=("mnist5k",))
    data_root: str = flag(default="data", help="Where --dataset writes its folder of images.")
    train_dir: str | None = flag(
        aliases="--train_file",
        help="Folder DIR/<class>/… or DIR/{train,validation,test}/<class>/…, or a CSV, TSV or Parquet file.",
    )
    validation_dir: str | None = flag(aliases="--validation_file", help="The same for validation.")
    test_dir: str | None = flag(
        default=None, aliases="--test_file", help="The same for the test set, which is read once, at the end."
    )
    dataset_name: str | None = flag(help="Hub dataset, or folder of save_to_disk or data files.")
    dataset_config_name: str | None = flag(help="Its configuration.")
    dataset_revision: str | None = flag(help="Its branch, tag or commit.")
    image_column_name: str = flag(default="image", help="Column of images (bytes) or image paths.")
    label_column_name: str = flag(
        default="label", help='Column of labels; several, "a,b,c", for 0/1 labels or several targets.'
    )
    label_separator: str = flag(default="|", help="What separates several labels in one cell.")
    problem_type: str | None = flag(help="Read off the label column if not given.", choices=tuple(BEST_METRIC))
    train_val_split: float = flag(default=0.15, help="Share of train held out if there is no validation set.")
    max_train_samples: int | None = flag(help="Train on so many examples, stratified.")
    max_eval_samples: int | None = flag(help="Validate and test on so many examples each.")
    augmentation: str = flag(
        default="auto",
        help="none, light (small affine; no mirroring: digits, text) or standard (random crops, mirrored). "
        "auto: standard, and none for a linear probe.",
        choices=("auto", *AUGMENTATIONS),
    )
    view_size: list[int] | None = flag(
        help="Size of the stored pictures that standard cuts its crops from, one number, or height width. Default: "
        "1.15 times the model's.",
    )
    auto_augment: str | None = flag(help="Colours and shapes changed at random as well.", choices=tuple(POLICIES))
    random_erasing: float = flag(default=0.0, help="How often a box of the image is erased: 0 to 1.")
    mixup: float = flag(default=0.0, help="Alpha of mixup, such as 0.8: pairs of images are blended. 0: none.")
    cutmix: float = flag(default=0.0, help="Alpha of CutMix, such as 1: a box comes from another image. 0: none.")
    mix_probability: float = flag(default=1.0, help="How often a pair is mixed, by one of the two.")
    balanced_sampling: bool = flag(default=False, help="Draw each class equally often, however many images it has.")
    image_cache: str = flag(
        default="auto",
        help="Decode each image once and keep it, small: auto (in $VIT_CUSTOM_CACHE or ~/.cache/vit_custom/images, if "
        "that takes a quarter of the free disk at most), off, or the folder to keep it in. Its parts may be removed "
        "at any time.",
    )
    follow_links: bool = flag(default=False, help="Follow links, and paths in tables, that lead outside.")
    audit: str = flag(
        default="refuse",
        help="What the same image under two labels or in two splits, images that would be left out and the like do: "
        "stop the run (refuse), be printed (warn), or not be looked for (off).",
        choices=AUDIT_MODES,
    )


@dataclass
class ViTTrainingArguments(TrainingArguments):
    """TrainingArguments with defaults for images; None means: by method, see METHOD_DEFAULTS."""

    output_dir: str = flag(default="", help="Folder of the run; becomes a complete Hub repository.")
    learning_rate: float | None = flag(help="Peak learning rate. Default: by method.")  # type: ignore[assignment]
    num_train_epochs: float | None = flag(help="Passes over the data. Default: by method.")  # type: ignore[assignment]
    weight_decay: float | None = flag(help="Decay of weight matrices. Default: by method.")  # type: ignore[assignment]
    lr_scheduler_type: str = flag(default="cosine", help="Learning rate schedule.")
    warmup_steps: float = flag(default=0.1, help="Warm-up: steps, or below 1 a share of all steps.")
    per_device_train_batch_size: int = flag(default=32, help="Training batch of each process.")
    per_device_eval_batch_size: int = flag(default=64, help="Evaluation batch of each process.")
    eval_strategy: str = flag(default="epoch", help="When to validate: epoch, steps.")
    save_strategy: str = flag(default="epoch", help="When to save: the same as eval_strategy.")
    logging_steps: float = flag(default=20, help="Log every so many steps, or below 1 a share of all steps.")
    logging_nan_inf_filter: bool = flag(default=False, help="Hide losses that are no numbers.")
    load_best_model_at_end: bool = flag(default=True, help="Keep the best model by validation.")
    save_total_limit: int | None = flag(default=2, help="Checkpoints kept: the best and the last.")
    remove_unused_columns: bool = flag(default=False, help="Must be false: images are no column.")
    ddp_find_unused_parameters: bool | None = flag(default=False, help="Not needed here.")
    loss: str = flag(
        default="ce", help="Of single labels: cross-entropy (ce), or binary cross-entropy (bce).", choices=LOSSES
    )
    class_weights: str = flag(
        default="none", help="balanced: rare classes count as much as frequent ones.", choices=CLASS_WEIGHTS
    )
    dataloader_num_workers: int = flag(
        default=-1, help="Loading processes; -1: as many as decoding needs, few or none with a cache."
    )
    report_to: list[str] | None = flag(
        help="Where curves go besides report.html: tensorboard (OUTPUT_DIR/runs), wandb, … or none. "
        "Default: tensorboard where it is installed."
    )
    push_to_hub: bool = flag(default=False, help="Publish as --hub_model_id, as `publish` does; see --hub_strategy.")
    hub_strategy: str = flag(
        default="end", help="When: end, or every_save (checkpoints too, each one complete and checked)."
    )
    hub_license: str | None = flag(help="Of the published weights, as the Hub names it: apache-2.0, mit, …")

    def __post_init__(self):
        if not self.output_dir:
            raise UsageError("--output_dir is missing: name the folder this run shall fill.")
        if self.hub_token is not None:
            raise UsageError("--hub_token would be stored with the run: set HF_TOKEN or run `hf auth login` instead.")
        if self.push_to_hub:
            self.check_hub_flags()
        if self.remove_unused_columns:
            raise UsageError("--remove_unused_columns must stay false: it would drop the images.")
        if self.save_total_limit == 1 and (self.load_best_model_at_end or self.metric_for_best_model):
            self.save_total_limit = 2  # Trainer would end by removing the last, from which a run goes on
        self.metric_is_default = self.metric_for_best_model is None
        self.on_accelerator = torch.accelerator.is_available() and not self.use_cpu
        self.dataloader_pin_memory = self.dataloader_pin_memory and self.on_accelerator
        reporters = get_available_reporting_integrations()
        if self.report_to is None:
            self.report_to = ["tensorboard"] if "tensorboard" in reporters else ["none"]
        super().__post_init__()
        if missing := [name for name in self.report_to if name not in reporters]:
            raise UsageError(f"--report_to {missing[0]} is not installed: {', '.join(reporters) or 'none'} would work.")

    def check_hub_flags(self) -> None:
        """Raises UsageError for what would only fail, or publish too much, at the end of the training."""
        if not self.hub_license:
            raise UsageError("--push_to_hub needs --hub_license: what others may do, for example apache-2.0.")
        if self.hub_strategy not in HUB_STRATEGIES:
            raise UsageError(
                f"--hub_strategy {self.hub_strategy} would publish the optimizer's state, which is pickled: give "
                f"{' or '.join(HUB_STRATEGIES)}."
            )
        try:
            check_target(self.hub_model_id or "", self.hub_revision)
        except PublishError as error:
            raise UsageError(f"--push_to_hub needs --hub_model_id NAMESPACE/NAME. {error}") from error


def complete_arguments(
    model_args: ModelArguments, data_args: DataArguments, training_args: ViTTrainingArguments
) -> None:
    """Checks the flags against each other and fills in the defaults that depend on the method, in place.

    Raises UsageError before anything has been read or written.
    """
    if (model_args.model_name_or_path is None) == (model_args.variant is None):
        raise UsageError("give either --model_name_or_path (a checkpoint) or --variant (random weights).")
    sources = {
        "--dataset": data_args.dataset,
        "--train_dir": data_args.train_dir,
        "--dataset_name": data_args.dataset_name,
    }
    named = [flag for flag, value in sources.items() if value is not None]
    if len(named) != 1:
        raise UsageError(f"name the training data by one of {', '.join(sources)}, not {' and '.join(named) or 'none'}.")
    if model_args.method == "linear_probe" and model_args.variant is not None:
        raise UsageError("--method linear_probe trains the head on a checkpoint's features: --variant has none.")
    if model_args.source_config is not None and model_args.variant is not None:
        raise UsageError("--source_config is for another library's checkpoint: --variant has none.")
    if model_args.image_size is not None and not 1 <= len(model_args.image_size) <= 2:
        raise UsageError(f"--image_size takes one number or two, not {model_args.image_size}.")
    for name, low, high in (("random_erasing", 0, 1), ("mix_probability", 0, 1), ("mixup", 0, 100), ("cutmix", 0, 100)):
        if not low <= (value := getattr(data_args, name)) <= high:
            raise UsageError(f"--{name} {value}: give a number from {low} to {high}.")
    if model_args.method not in METHODS:
        raise UsageError(f"--method {model_args.method}: give one of {', '.join(METHODS)}.")
    defaults = SCRATCH if model_args.variant is not None else METHOD_DEFAULTS[model_args.method]
    for name, value in defaults.items():
        if getattr(training_args, name) is None:
            setattr(training_args, name, value)
    if data_args.augmentation == "auto":
        data_args.augmentation = "none" if model_args.method == "linear_probe" else "standard"
    if data_args.view_size is not None and (VIEW_SCALE[data_args.augmentation] == 1 or len(data_args.view_size) > 2):
        raise UsageError(
            f"--view_size {data_args.view_size} with --augmentation {data_args.augmentation}: give one number or two, "
            "for an augmentation that cuts crops (standard)."
        )


def choose_best_metric(training_args: ViTTrainingArguments, problem_type: str) -> None:
    """Sets what "best" means for the task, unless --metric_for_best_model said it."""
    if training_args.metric_is_default and training_args.load_best_model_at_end:
        training_args.metric_for_best_model, training_args.greater_is_better = BEST_METRIC[problem_type]


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
    """The three groups of flags from a command line that may start with a recipe."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-"):
        argv[:1] = recipe_flags(argv[0])
    groups: Any = (ModelArguments, DataArguments, ViTTrainingArguments)
    parser = HfArgumentParser(
        groups,
        prog="train",
        description="Train or fine-tune a ViT Custom image classifier.",
        epilog=EXAMPLES.format(recipes=", ".join(recipe_names())),
        formatter_class=_HelpFormatter,
    )
    parsed: Any = parser.parse_args_into_dataclasses(argv)
    return parsed
