"""`vit-custom pretrain`: learn from images without labels."""

from collections.abc import Sequence

from ..reporting.formatting import number
from ..training.arguments.data_arguments import DataArguments
from ..training.arguments.model_arguments import ModelArguments
from ..training.arguments.tables import ONLY_IN_TRAIN
from ..training.arguments.training_arguments import ViTTrainingArguments
from ..training.runs.exits import exit_code
from ..training.runs.pretrain import PretrainingArguments, pretrain
from .training_flags import parse_groups

EXAMPLES = """examples:
  # your own images, in folders or not; then a classifier that starts from what was learnt
  python scripts/pretrain.py --train_dir photos --variant micro/4 --image_size 32 --output_dir out/pre
  python scripts/train.py --train_dir labelled --model_name_or_path out/pre --output_dir out/fine

  # the same of digits, which must not be mirrored
  python scripts/pretrain.py --dataset mnist5k --variant nano/8 --augmentation light --output_dir out/digits

  # from a checkpoint, ours or another library's, to adapt it to images of another kind
  python scripts/pretrain.py --train_dir scans --model_name_or_path timm:vit_small_patch16_224 --output_dir out/scans

Running the same command again continues where it was cut off.
"""


def parse_pretraining_args(
    argv: Sequence[str] | None = None,
) -> tuple[PretrainingArguments, ModelArguments, DataArguments, ViTTrainingArguments]:
    """The four groups of flags from a command line."""
    return parse_groups(
        argv,
        (PretrainingArguments, ModelArguments, DataArguments, ViTTrainingArguments),
        hidden=ONLY_IN_TRAIN,
        prog="pretrain",
        description="Train a ViT Custom encoder on images without labels, by filling in what is hidden of them.",
        epilog=EXAMPLES,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command `pretrain`; its exit code: 0 done, 2 unusable input, 3 could not go on."""

    def work() -> None:
        groups = parse_pretraining_args(argv)
        metrics = pretrain(*groups)
        if groups[-1].process_index == 0:
            print("validation", *(f"{name} {number(value)}" for name, value in metrics["validation"].items()), sep="  ")

    return exit_code("pretrain", work)
