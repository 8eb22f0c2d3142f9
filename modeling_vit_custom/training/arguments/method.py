"""The method of a training that names none: from a checkpoint `search`, unless the flags say how to train.

A run keeps the method it was begun with: the same command goes on with it, even if the default has changed since.
"""

from pathlib import Path

from ...common.claims import read_record
from ...common.model_files import RUN_FILE
from .data_arguments import DataArguments
from .model_arguments import METHODS, ModelArguments
from .tables import SAY_HOW, given
from .training_arguments import ViTTrainingArguments


def shared(training_args: ViTTrainingArguments) -> bool:
    """Return whether processes shard the weights of one model, so that no second one can be trained or measured."""
    return bool(training_args.fsdp or training_args.deepspeed)


def choose_method(model_args: ModelArguments, data_args: DataArguments, training_args: ViTTrainingArguments) -> str:
    """Return the method for a command that names none."""
    if model_args.variant is not None or shared(training_args) or given(SAY_HOW, model_args, data_args, training_args):
        return "full"
    begun = None
    if training_args.resume != "false":
        asked = read_record(Path(training_args.output_dir) / RUN_FILE).get("model")
        begun = asked.get("method") if isinstance(asked, dict) else None
    return begun if begun in METHODS else "search"
