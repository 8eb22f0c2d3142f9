"""`vit-custom train`: train or fine-tune an image classifier."""

from collections.abc import Sequence

from ..reporting.facts import SPLITS
from ..reporting.formatting import number
from ..training.runs.exits import exit_code
from ..training.runs.train import train
from .training_flags import parse_args


def main(argv: Sequence[str] | None = None) -> int:
    """The command `train`; its exit code: 0 done, 1 trained but not published, 2 unusable input, 3 could not go on."""

    def work() -> None:
        model_args, data_args, training_args = parse_args(argv)
        metrics = train(model_args, data_args, training_args)
        for split in SPLITS:
            if split in metrics and training_args.process_index == 0:
                print(split, *(f"{name} {number(value)}" for name, value in metrics[split].items()), sep="  ")

    return exit_code("train", work)
