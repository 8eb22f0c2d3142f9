"""Command line of `train` and `pretrain`: dataclasses of flags, recipes, and their help."""

import argparse
import sys
from collections.abc import Collection, Sequence
from copy import copy
from typing import Any

from ..common.model_names import say_commit
from ..training.arguments.data_arguments import DataArguments
from ..training.arguments.model_arguments import ModelArguments
from ..training.arguments.parsing import TRAIN, FlagParser
from ..training.arguments.recipes import recipe_names
from ..training.arguments.tables import GROUPS, RARE, REFUSED
from ..training.arguments.training_arguments import ViTTrainingArguments
from ..training.runs.groups import training_groups

EXAMPLES = """examples:
  # real MNIST digits, from scratch, minutes on two CPU cores
  vit-custom train mnist5k --output_dir out/mnist5k

  # your own folder DIR/<class>/*.jpg and a checkpoint: the best head, fine-tuned where that is better; that head alone
  vit-custom train --train_dir photos --model_name_or_path CHECKPOINT --output_dir out/p
  vit-custom train --train_dir photos --model_name_or_path CHECKPOINT --method fitted_head --output_dir out/h

  # all of it fine-tuned, as you say how
  vit-custom train --train_dir photos --model_name_or_path CHECKPOINT --output_dir out/f --num_train_epochs 10

  # the same from another library's weights, converted first
  vit-custom train --train_dir photos --model_name_or_path timm:vit_small_patch16_224 --output_dir out/s
  vit-custom train --train_dir photos --model_name_or_path ViT-B_16.npz --output_dir out/b

  # a table of images with several labels each ("cat|outdoor"), larger images than the checkpoint was made for
  vit-custom train --train_dir train.csv --validation_dir val.csv --image_column_name file \\
      --label_column_name tags --model_name_or_path CHECKPOINT --image_size 320 320 --output_dir out/tags

  # shards that fit neither memory nor disk
  vit-custom train --streaming true --train_dir "shards/train-*.parquet" --validation_dir val \\
      --variant s/16 --output_dir out/s

  # from scratch, strongly regularised: colours, mixed and erased images, binary cross-entropy
  vit-custom train --train_dir photos --variant s/16 --auto_augment randaugment --mixup 0.8 --cutmix 1 \\
      --random_erasing 0.25 --loss bce --num_train_epochs 300 --output_dir out/s

  # a small ViT that learns from a convolutional network you have trained with timm
  vit-custom train --train_dir photos --variant micro/4 --teacher timm:resnet18 \\
      --teacher_weights resnet18.safetensors --output_dir out/taught

  # the finished model once more, in out/p/hf, as transformers' own class, for servers that refuse remote code
  vit-custom train --train_dir photos --model_name_or_path timm:vit_small_patch16_224 --output_dir out/p --save_as hf

  # two processes
  accelerate launch --multi_gpu --num_processes 2 -m vit_custom train \\
      --train_dir photos --variant micro/4 --output_dir out/two

  # let model, method, augmentation and schedule be chosen, with reasons, for half an hour
  vit-custom train auto --train_dir photos --max_minutes 30 --output_dir out/photos

A first argument without dashes is a recipe: a YAML file of flags, the name of one that comes with the package
({recipes}), or auto, which chooses one; --recipe NAME is the same. Flags win over it. Running the same command again
continues where it was cut off. --help_all shows the flags for rare needs too, Trainer's own among them.

exit codes: 0 done, 1 trained but not published, or not written as --save_as says, 2 it could not be done as asked, 3 it
could not go on, 130 stopped by Ctrl-C
"""


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _format_action_invocation(self, action: argparse.Action) -> str:
        """The flag by its name with underscores; the spelling with hyphens is accepted too, but not shown."""
        shown = copy(action)
        shown.option_strings = [name for name in action.option_strings if "-" not in name[2:]]
        return super()._format_action_invocation(shown)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, "") else super()._get_help_string(action)


def parse_args(
    argv: Sequence[str] | None = None,
) -> tuple[ModelArguments, DataArguments, ViTTrainingArguments]:
    """Parse a command line to the three groups of flags.

    It may start with the name of a recipe; for "auto", the recipe is chosen here.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = flag_parser(
        TRAIN,
        words,
        prog="vit-custom train",
        description="Train or fine-tune a ViT Custom image classifier.",
        epilog=EXAMPLES.format(recipes=", ".join(recipe_names())),
    )
    return training_groups(*parser.given(words), parser)


def flag_parser(groups: Any, words: Sequence[str], hidden: Collection[str] = (), **texts: str) -> FlagParser:
    """Build the parser of some dataclasses of flags; its help groups the flags by headings.

    words: the arguments to parse later; if they contain --help_all, the help shows rare flags too.   hidden: flags
    that the help never shows.   texts: texts of the parser, such as its description.
    """
    usage = "%(prog)s [RECIPE] --output_dir OUTPUT_DIR [FLAGS]"
    parser = FlagParser(groups, formatter_class=_HelpFormatter, usage=usage, allow_abbrev=False, **texts)
    parser.add_argument("--help_all", action="help", help="show the flags for rare needs too")
    hidden = (*hidden, *REFUSED, *(() if "--help_all" in words else RARE))
    headings: dict[str, argparse._ArgumentGroup] = {}
    for action in parser._actions:
        if action.dest in hidden or action.option_strings[0].startswith("--no_"):
            action.help = argparse.SUPPRESS
        if title := GROUPS.get(action.dest):
            parser._optionals._group_actions.remove(action)
            headings[title] = headings.get(title) or parser.add_argument_group(title)
            headings[title]._group_actions.append(action)
    return parser


def say_started(command: str, argv: Sequence[str] | None, model_args: ModelArguments) -> None:
    """Print on a terminal, as `say_commit` does, which commit of a Hub model a training has started from."""
    if (source := model_args.model_name_or_path) is not None:
        words = sys.argv[1:] if argv is None else argv
        say_commit(command, words, source, model_args.model_revision, model_args.cache_dir)
