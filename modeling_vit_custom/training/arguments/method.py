"""Which method trains where none is named: from a checkpoint `search`, unless the flags say how to train.

What a run was begun with stays: the same command goes on with it, whatever is chosen today.
"""

from pathlib import Path

from ...common.claims import read_record
from ...common.model_files import RUN_FILE
from .data_arguments import DataArguments
from .model_arguments import METHODS, ModelArguments
from .tables import SAY_HOW, given
from .training_arguments import ViTTrainingArguments


def shared(training_args: ViTTrainingArguments) -> bool:
    """Whether processes share the weights of one model, so that no other can be trained or measured beside it."""
    return bool(training_args.fsdp or training_args.deepspeed)


def choose_method(model_args: ModelArguments, data_args: DataArguments, training_args: ViTTrainingArguments) -> str:
    """Return the method of a command that names none."""
    if model_args.variant is not None or shared(training_args) or given(SAY_HOW, model_args, data_args, training_args):
        return "full"
    begun = None
    if training_args.resume != "false":
        begun = read_record(Path(training_args.output_dir) / RUN_FILE).get("model", {}).get("method")
    return begun if begun in METHODS else "search"
