"""From flags to a folder that serves: the whole of a training, told from the top.

Shapes: N examples, C classes.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..audit.gate import told
from ..data.dataset import check_readable
from ..data.raw import printable
from ..evaluation.evaluate import data_fingerprint
from ..evaluation.figures import number
from ..inference.processes import Processes
from ..publishing.card import SPLITS
from .args import choose_best_metric, complete_arguments, parse_args
from .compared import yardstick_for
from .exits import exit_code
from .feeding import as_evaluated, prepare_feed
from .finishing import build_trainer, finish, train_to_the_end
from .fitting import METHODS_OF_FITTING, Story
from .flags import DataArguments, ModelArguments, ViTTrainingArguments
from .heads import fit_head
from .images import check_images
from .lock import run_lock
from .pretrained import open_checkpoint
from .records import begin_records, told_again
from .report import ReportCallback
from .start import build_model, check_output_dir, describe_run, ended_run, find_start, load_data
from .teachers import open_teacher


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
    with run_lock(training_args.output_dir, Processes(training_args.process_index, training_args.world_size)):
        return _train(model_args, data_args, training_args, began)


def _train(
    model_args: ModelArguments, data_args: DataArguments, training_args: ViTTrainingArguments, began: float
) -> dict[str, Any]:
    pretrained = open_checkpoint(model_args)
    splits = load_data(data_args, training_args)
    choose_best_metric(training_args, splits.problem_type, len(splits.id2label))
    check_readable(*filter(None, (splits.train, splits.validation, splits.test)))
    model, processor, splits = build_model(model_args, pretrained, splits, training_args.seed)
    conversion = None if pretrained is None else pretrained.report
    del pretrained  # its weights are a second copy
    if training_args.process_index == 0:
        print(*map(printable, [*splits.notes, *map(told, splits.findings)]), sep="\n", flush=True)

    teacher = open_teacher(training_args, splits)
    run = describe_run(model_args, data_args, training_args, splits)
    run["data"] |= {} if teacher is None else {"teacher": teacher.record()}
    if splits.test is not None:
        run["test"] = {"examples": len(splits.test), "fingerprint": data_fingerprint(splits.test)}
    if (metrics := ended_run(training_args, run)) is not None:
        check_images(training_args, splits, training_args.output_dir, record=False)
        return told_again(training_args, metrics)
    if model_args.method in METHODS_OF_FITTING:
        story = Story(model, processor, splits, model_args, data_args, training_args, run, conversion, began)
        return METHODS_OF_FITTING[model_args.method](story)
    checkpoint = find_start(training_args, run)
    check_images(training_args, splits, None if checkpoint is None else Path(checkpoint).parent)
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


def main(argv: Sequence[str] | None = None) -> int:
    """The command `train`; its exit code: 0 done, 1 trained but not published, 2 unusable input, 3 could not go on."""

    def work() -> None:
        model_args, data_args, training_args = parse_args(argv)
        metrics = train(model_args, data_args, training_args)
        for split in SPLITS:
            if split in metrics and training_args.process_index == 0:
                print(split, *(f"{name} {number(value)}" for name, value in metrics[split].items()), sep="  ")

    return exit_code("train", work)
