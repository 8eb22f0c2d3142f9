"""From flags to a folder that serves: the whole of a training, told from the top.

Shapes: N examples, C classes.
"""

import time
from pathlib import Path
from typing import Any

from ...audit.gate import told
from ...common.text import printable
from ...data.dataset import check_readable
from ...evaluation.evaluate import data_fingerprint
from ..arguments.completion import choose_best_metric, complete_arguments
from ..arguments.data_arguments import DataArguments
from ..arguments.model_arguments import ModelArguments
from ..arguments.training_arguments import ViTTrainingArguments
from ..checkpointing.continuing import check_output_dir, ended_run, find_start
from ..checkpointing.images import check_images
from ..checkpointing.run_lock import run_lock
from ..initialization.build import build_model
from ..initialization.linear_head import fit_head
from ..initialization.start_checkpoint import open_checkpoint
from ..trainer.assembly import as_evaluated, build_trainer, prepare_feed, start_of, teacher_for
from .compared import yardstick_for
from .data_loading import load_data
from .finishing import finish, train_to_the_end
from .fitting import METHODS_OF_FITTING, Story
from .records import begin_records, describe_run, told_again
from .report import ReportCallback


def train(model_args: ModelArguments, data_args: DataArguments, training_args: ViTTrainingArguments) -> dict[str, Any]:
    """Trains a classifier and leaves a complete, loadable Hub repository in `training_args.output_dir`.

    Beside it lie metrics.json (what is returned), training.png, confusion_matrix.png, training_args.json and, where
    the weights come from another library, conversion.json, which may be published, and report.html, which shows some
    of the images and may not. The best model by validation is kept; the test set is read once, at the end. Run again,
    it continues.
    Raises UsageError or DataError for bad input before any work is done, CheckpointError (disk full) or
    FloatingPointError (diverged) where the training cannot go on, PublishError for a finished model that could not be
    pushed to the Hub.
    """
    began = time.monotonic()
    complete_arguments(model_args, data_args, training_args)
    check_output_dir(training_args.output_dir)
    with run_lock(training_args.output_dir, training_args.processes):
        return _train(model_args, data_args, training_args, began)


def _train(
    model_args: ModelArguments, data_args: DataArguments, training_args: ViTTrainingArguments, began: float
) -> dict[str, Any]:
    processes, start = training_args.processes, start_of(model_args)
    pretrained = open_checkpoint(start)
    splits = load_data(data_args, training_args)
    choose_best_metric(training_args, splits.problem_type, len(splits.id2label))
    check_readable(*filter(None, (splits.train, splits.validation, splits.test)))
    model, processor, splits = build_model(start, pretrained, splits, training_args.seed)
    conversion = None if pretrained is None else pretrained.report
    del pretrained  # its weights are a second copy
    if training_args.process_index == 0:
        print(*map(printable, [*splits.notes, *map(told, splits.findings)]), sep="\n", flush=True)

    teacher = teacher_for(splits, training_args)
    run = describe_run(model_args, data_args, training_args, splits)
    run["data"] |= {} if teacher is None else {"teacher": teacher.record()}
    if splits.test is not None:
        run["test"] = {"examples": len(splits.test), "fingerprint": data_fingerprint(splits.test)}
    if (metrics := ended_run(training_args.output_dir, training_args.resume, run, processes)) is not None:
        check_images(training_args.output_dir, splits, training_args.output_dir, processes, record=False)
        return told_again(training_args, metrics)
    if model_args.method in METHODS_OF_FITTING:
        story = Story(model, processor, splits, model_args, data_args, training_args, run, conversion, began)
        return METHODS_OF_FITTING[model_args.method](story)
    checkpoint = find_start(training_args.output_dir, training_args.resume, run, processes)
    check_images(training_args.output_dir, splits, None if checkpoint is None else Path(checkpoint).parent, processes)
    yardstick = yardstick_for(model, processor, splits, model_args, data_args, training_args)
    feed = prepare_feed(model.config, processor, splits, data_args, training_args, teacher)
    del teacher
    trainer = build_trainer(model, processor, splits, model_args, feed, training_args, began)
    trainer.add_callback(ReportCallback(splits))
    if trainer.is_world_process_zero():
        recipe = model_args.chosen_recipe or (None if checkpoint else "")
        begin_records(training_args.output_dir, run, conversion, recipe)
    if model_args.method == "head_then_full" and checkpoint is None:
        note = fit_head(trainer, as_evaluated(splits.train, processor, model.config), feed.validation)
        if trainer.is_world_process_zero():
            print(note, flush=True)
    train = train_to_the_end(trainer, checkpoint, len(splits.train))
    if trainer.is_world_process_zero():
        print(trainer.throughput.sentence(), flush=True)
    return finish(trainer, splits, train, processor, compare=None if yardstick is None else yardstick.compare)
