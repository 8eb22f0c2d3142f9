"""`vit-custom pretrain`: train an encoder on images without labels."""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from .._startup import BEGAN
from ..reporting.formatting import number
from ..training.arguments.data_arguments import DataArguments
from ..training.arguments.model_arguments import ModelArguments
from ..training.arguments.pretraining_arguments import PretrainingArguments
from ..training.arguments.tables import ONLY_IN_TRAIN
from ..training.arguments.training_arguments import ViTTrainingArguments
from ..training.runs.exits import exit_code
from ..training.runs.groups import PRETRAIN, pretraining_groups
from ..training.runs.pretrain import pretrain
from .training_flags import flag_parser, say_started

EXAMPLES = """examples:
  # your own images, in folders or not; then a classifier that starts from what was learnt
  vit-custom pretrain --train_dir photos --variant micro/4 --image_size 32 --output_dir out/pre
  vit-custom train --train_dir labelled --model_name_or_path out/pre --output_dir out/fine

  # the same of digits, which must not be mirrored
  vit-custom pretrain --dataset mnist5k --variant nano/8 --augmentation light --output_dir out/digits

  # from a checkpoint, ours or another library's, to adapt it to images of another kind
  vit-custom pretrain --train_dir scans --model_name_or_path timm:vit_small_patch16_224 --output_dir out/scans

  # without masks: what a large encoder makes of your images, learnt by a small one
  vit-custom pretrain --train_dir photos --variant nano/4 --teacher DINOV2 --teacher_config image_size=98 \\
      --output_dir out/taught

Running the same command again continues where it was cut off.

exit codes: 0 done, 2 it could not be done as asked, 3 it could not go on, 130 stopped by Ctrl-C
"""


def parse_pretraining_args(
    argv: Sequence[str] | None = None,
) -> tuple[PretrainingArguments, ModelArguments, DataArguments, ViTTrainingArguments]:
    """Parse a command line to the four groups of flags."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = flag_parser(
        PRETRAIN,
        words,
        hidden=ONLY_IN_TRAIN,
        prog="vit-custom pretrain",
        description="Train a ViT Custom encoder without labels, by hidden parts of images or by a teacher's features.",
        epilog=EXAMPLES,
    )
    return pretraining_groups(*parser.given(words), parser)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `pretrain`.

    Return its exit code: 0 done, 2 it could not be done as asked, 3 it could not go on, 130 stopped by Ctrl-C.
    """

    def work(*groups: Any) -> None:
        metrics = pretrain(*groups, began=BEGAN)
        _, model_args, *_ = groups
        if groups[-1].process_index == 0:
            print("validation", *(f"{name} {number(value)}" for name, value in metrics["validation"].items()), sep="  ")
            say_started("pretrain", argv, model_args)

    return exit_code("pretrain", partial(parse_pretraining_args, argv), work)
