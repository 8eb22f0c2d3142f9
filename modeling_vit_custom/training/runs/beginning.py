"""The beginning of a run and its first messages; a resumed run reports its checkpoint, not how it once began."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from ...common.claims import read_record
from ...common.model_files import TRAINER_STATE
from ...common.text import printable
from ..arguments.training_arguments import ViTTrainingArguments
from ..checkpointing.continuing import find_resume_checkpoint
from ..initialization.build import FROM_ZERO

logger = logging.getLogger(__name__)


@contextmanager
def warnings_held_back(held: bool) -> Iterator[None]:
    """Suppress log messages below errors, and progress bars, inside the `with` block if `held`.

    Otherwise, loading a model that a checkpoint will fill would warn that parts of it are new.
    """
    before, bars = logging.root.manager.disable, is_progress_bar_enabled()
    if held:
        logging.disable(max(before, logging.WARNING))
        disable_progress_bar()
    try:
        yield
    finally:
        logging.disable(before)
        if held and bars:
            enable_progress_bar()


def begin_at(
    training_args: ViTTrainingArguments, run: Mapping[str, Any], examples: int, held: Sequence[str] = ()
) -> str | None:
    """Return the checkpoint to continue from, or None; print it first, then warnings and notes.

    examples: number of training images.   held: notes on data and model that were not printed yet; those on new weights
    are dropped if a checkpoint fills them.
    """
    checkpoint, warnings = find_resume_checkpoint(
        training_args.output_dir, training_args.resume, run, training_args.processes
    )
    notes = list(held)
    if checkpoint is not None:
        say(training_args, [_continues(Path(checkpoint), training_args, examples)])
        notes = [note for note in held if FROM_ZERO not in note]
    for warning in warnings if training_args.processes.is_first else []:
        logger.warning(warning)
    say(training_args, notes)
    return checkpoint


def say(training_args: ViTTrainingArguments, notes: Sequence[str]) -> None:
    """Print notes, one per line, in the first process."""
    if notes and training_args.process_index == 0:
        print(*map(printable, notes), sep="\n", flush=True)


def _continues(checkpoint: Path, training_args: ViTTrainingArguments, examples: int) -> str:
    state = read_record(checkpoint / TRAINER_STATE)
    steps = training_args.steps_for(examples)
    if steps is None and training_args.max_minutes is None:  # a search chose them
        steps = state.get("max_steps")
    return f"continues at step {state['global_step']}{f' of {steps}' if steps else ''} from {checkpoint.name}"
