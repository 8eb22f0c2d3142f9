"""Pre-training without labels: parts of each image are hidden, and the model learns to reconstruct them (SimMIM).

Xie et al. 2022, "SimMIM: a simple framework for masked image modeling", arXiv 2111.09886. With `--teacher` nothing is
hidden, and the model learns an encoder's features, see `objectives.feature_distillation`. The result is a folder that
`train --model_name_or_path` starts from. The run itself is that of `train`.
"""

import time
from dataclasses import fields
from typing import Any

from ...common.errors import UsageError
from ..arguments.completion import complete_pretraining_arguments
from ..arguments.data_arguments import DataArguments
from ..arguments.model_arguments import ModelArguments
from ..arguments.pretraining_arguments import PretrainingArguments
from ..arguments.training_arguments import ViTTrainingArguments
from .train import run_training


def pretrain(
    pretraining_args: PretrainingArguments,
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: ViTTrainingArguments,
    began: float | None = None,
) -> dict[str, Any]:
    """Train an encoder without labels and leave it as a loadable Hub repository in `training_args.output_dir`.

    The folder also holds metrics.json (its content is returned), training.png, training_args.json and
    (without --teacher) reconstruction.png, which shows some of the images. The model with the lowest loss on held-out
    images is kept. Run again, it continues.
    began: see `train`.
    Raises UsageError or DataError for bad input before any work is done, CheckpointError (disk full) or
    FloatingPointError (diverged) if the training cannot go on.
    """
    began = time.monotonic() if began is None else began
    if training_args.teacher is not None:
        for flag in fields(PretrainingArguments):
            if (value := getattr(pretraining_args, flag.name)) != flag.default:
                raise UsageError(
                    f"--{flag.name} {value} hides parts of images, and --teacher {training_args.teacher} shows all of "
                    "them: leave one of them out."
                )
    complete_pretraining_arguments(model_args, data_args, training_args)
    return run_training(model_args, data_args, training_args, began, pretraining_args)
