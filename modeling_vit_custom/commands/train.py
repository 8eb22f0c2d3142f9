"""`vit-custom train`: train or fine-tune an image classifier."""

from collections.abc import Sequence
from functools import partial

from .._startup import BEGAN
from ..publishing.facts import SPLITS
from ..reporting.formatting import number
from ..training.arguments.data_arguments import DataArguments
from ..training.arguments.model_arguments import ModelArguments
from ..training.arguments.training_arguments import ViTTrainingArguments
from ..training.runs.exits import exit_code
from ..training.runs.train import train
from .training_flags import parse_args, say_started


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `train`.

    Return its exit code: 0 done, 1 trained but not published, 2 it could not be done as asked, 3 it could not go on,
    130 stopped by Ctrl-C.
    """

    def work(model_args: ModelArguments, data_args: DataArguments, training_args: ViTTrainingArguments) -> None:
        metrics = train(model_args, data_args, training_args, began=BEGAN)
        for split in SPLITS:
            if split in metrics and training_args.process_index == 0:
                print(split, *(f"{name} {number(value)}" for name, value in metrics[split].items()), sep="  ")
        if training_args.process_index == 0:
            say_started("train", argv, model_args)

    return exit_code("train", partial(parse_args, argv), work)
