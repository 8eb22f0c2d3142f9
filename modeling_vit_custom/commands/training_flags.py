"""The command line of `train` and `pretrain`: dataclasses of flags, recipes, their help."""

import argparse
import sys
from collections.abc import Collection, Sequence
from typing import Any

import yaml

from ..training.arguments.data_arguments import DataArguments
from ..training.arguments.model_arguments import ModelArguments
from ..training.arguments.parsing import TRAIN, FlagParser, parse_flags
from ..training.arguments.recipes import as_flags, recipe_first, recipe_names
from ..training.arguments.tables import GROUPS
from ..training.arguments.training_arguments import ViTTrainingArguments
from ..training.runs.auto import auto_recipe

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


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


def parse_args(
    argv: Sequence[str] | None = None,
) -> tuple[ModelArguments, DataArguments, ViTTrainingArguments]:
    """The three groups of flags from a command line that may start with a recipe; "auto" is one that is chosen here."""
    argv = recipe_first(sys.argv[1:] if argv is None else argv)
    chosen = ""
    if argv[:1] == ["auto"]:
        chosen = auto_recipe(argv[1:], _parse_train_args)
        argv[:1] = as_flags(yaml.safe_load(chosen))
    model_args, data_args, training_args = _parse_train_args(argv)
    model_args.chosen_recipe = chosen
    return model_args, data_args, training_args


def _parse_train_args(argv: Sequence[str]) -> Any:
    return parse_groups(
        argv,
        TRAIN,
        prog="train",
        description="Train or fine-tune a ViT Custom image classifier.",
        epilog=EXAMPLES.format(recipes=", ".join(recipe_names())),
    )


def parse_groups(argv: Sequence[str] | None, groups: Any, hidden: Collection[str] = (), **texts: str) -> Any:
    """One dataclass of flags for each of `groups`, from a command line that may start with a recipe.

    hidden: names of flags that --help leaves out.   texts: of the parser.
    """
    parser = FlagParser(groups, formatter_class=_HelpFormatter, **texts)
    headings: dict[str, argparse._ArgumentGroup] = {}
    for action in parser._actions:
        if action.dest in hidden:
            action.help = argparse.SUPPRESS
        if title := GROUPS.get(action.dest):
            parser._optionals._group_actions.remove(action)
            headings[title] = headings.get(title) or parser.add_argument_group(title)
            headings[title]._group_actions.append(action)
    return parse_flags(sys.argv[1:] if argv is None else argv, groups, parser)
