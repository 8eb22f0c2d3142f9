"""The whole of a training run, from flags to a folder with a model that can be served.

Shapes: N examples, C classes.
"""

import sys
import time
from pathlib import Path
from typing import Any

from ...audit.gate import format_finding
from ...common.image_pixels import pixels_allowed
from ...common.progress_bars import bars_of_others
from ...data.dataset import check_readable
from ...evaluation.evaluate import data_fingerprint
from ...tasks.hub import CLASSIFICATION, FEATURES, MASKED_IMAGES
from ..arguments.completion import choose_best_metric, complete_arguments
from ..arguments.data_arguments import DataArguments
from ..arguments.model_arguments import ModelArguments
from ..arguments.pretraining_arguments import PretrainingArguments
from ..arguments.training_arguments import ViTTrainingArguments
from ..checkpointing.continuing import check_output_dir, ended_run, may_go_on
from ..checkpointing.images import check_images
from ..checkpointing.run_lock import run_lock
from ..initialization.build import build_model
from ..initialization.linear_head import fit_head
from ..initialization.start_checkpoint import check_whole_patches, open_checkpoint, refuse_dense
from ..objectives.masking import PatchMasks
from ..trainer.assembly import as_evaluated, build_trainer, prepare_feed, start_of, teacher_for
from ..trainer.feature_teacher import feature_teacher_for
from .beginning import begin_at, say, warnings_held_back
from .compared import yardstick_for
from .data_loading import load_data
from .finishing import finish, finish_masked, finish_taught, train_to_the_end
from .fitting import METHODS_OF_FITTING, Story
from .log import keep_log
from .records import begin_records, describe_run, report_again
from .report import ReportCallback
from .saving_as import check_saving_as
from .unknown import keep_for_calibration


def train(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: ViTTrainingArguments,
    began: float | None = None,
) -> dict[str, Any]:
    """Train a classifier and leave a complete, loadable Hub repository in `training_args.output_dir`.

    The folder also holds metrics.json (its content is returned), training.png, confusion_matrix.png, training_args.json
    and, if the weights come from another library, conversion.json; all of these may be published. It also holds
    report.html, which shows some of the images and may not be published. The best model by validation is kept; the test
    set is read once, at the end. Run again, it continues.
    began: start of --max_minutes, by `time.monotonic()`; None: now.
    Raises UsageError or DataError for bad input before any work is done, CheckpointError (disk full) or
    FloatingPointError (diverged) if the training cannot go on, PublishError for a finished model that could not be
    pushed to the Hub.
    """
    began = time.monotonic() if began is None else began
    complete_arguments(model_args, data_args, training_args)
    return run_training(model_args, data_args, training_args, began)


def run_training(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: ViTTrainingArguments,
    began: float,
    hiding: PretrainingArguments | None = None,
) -> dict[str, Any]:
    """Train on labelled images or, with `hiding`, pre-train on images whose hidden parts must be reconstructed.

    With `hiding` and a teacher nothing is hidden, and its features are learnt.
    The arguments must be complete, see `complete_arguments`.
    began: start of --max_minutes, by `time.monotonic()`. Returns and raises as `train`.
    """
    check_output_dir(training_args.output_dir)
    lock = run_lock(training_args.output_dir, training_args.processes)
    bars = bars_of_others(not training_args.disable_tqdm and sys.stderr.isatty())  # in a notebook, one for each save
    with pixels_allowed(data_args.max_pixels), bars, lock:
        return _run_training(model_args, data_args, training_args, began, hiding)


def _run_training(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: ViTTrainingArguments,
    began: float,
    hiding: PretrainingArguments | None,
) -> dict[str, Any]:
    processes, start = training_args.processes, start_of(model_args)
    taught = hiding is not None and training_args.teacher is not None
    listing = CLASSIFICATION if hiding is None else FEATURES if taught else MASKED_IMAGES
    pretrained = open_checkpoint(start, listing.model)
    refuse_dense(start, pretrained)
    check_whole_patches(start, pretrained)
    splits = load_data(data_args, training_args, labelled=hiding is None)
    if hiding is None:
        choose_best_metric(training_args, splits.problem_type, len(splits.id2label))
    if model_args.method not in METHODS_OF_FITTING:
        training_args.check_warmup(len(splits.train))
    check_readable(*filter(None, (splits.train, splits.validation, splits.test)))
    goes_on = may_go_on(training_args.output_dir, training_args.resume, processes)
    with warnings_held_back(goes_on):
        model, processor, splits = build_model(start, pretrained, splits, training_args.seed, listing.model)
    conversion = None if pretrained is None else pretrained.report
    del pretrained  # its weights are a second copy
    splits, calibration = keep_for_calibration(splits, model_args, data_args, training_args)
    check_saving_as(model, processor, training_args, model_args.method)
    masks = None
    if hiding is not None and not taught:
        masks = PatchMasks.for_model(model.config, hiding.mask_ratio, hiding.mask_patch_size)
    notes = [*splits.notes, *map(format_finding, splits.findings), *([masks.sentence()] if masks else [])]
    if not goes_on:
        say(training_args, notes)
        notes = []

    teacher: Any = teacher_for(splits, training_args)
    if taught:
        teacher = feature_teacher_for(model.config, data_args, training_args)
    run = describe_run(model_args, data_args, training_args, splits, masks, labelled=hiding is None)
    run["data"] |= {} if teacher is None else {"teacher": teacher.record()}
    if splits.test is not None:
        run["test"] = {"examples": len(splits.test), "fingerprint": data_fingerprint(splits.test)}
    if (metrics := ended_run(training_args.output_dir, training_args.resume, run, processes)) is not None:
        check_images(training_args.output_dir, splits, training_args.output_dir, processes, record=False)
        return report_again(training_args, metrics)
    if training_args.process_index == 0:
        keep_log(training_args.output_dir, goes_on)
    if model_args.method in METHODS_OF_FITTING:
        data = splits, calibration
        story = Story(model, processor, *data, model_args, data_args, training_args, run, conversion, began, notes)
        return METHODS_OF_FITTING[model_args.method](story)
    checkpoint = begin_at(training_args, run, len(splits.train), notes)
    check_images(training_args.output_dir, splits, None if checkpoint is None else Path(checkpoint).parent, processes)
    yardstick = None
    if hiding is None:
        yardstick = yardstick_for(model, processor, splits, model_args, data_args, training_args)
    feed = prepare_feed(model.config, processor, splits, data_args, training_args, teacher, masks)
    del teacher
    trainer = build_trainer(model, processor, splits, model_args, feed, training_args, began)
    if hiding is None:
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
    if masks is not None:
        return finish_masked(trainer, train, processor)
    if taught:
        return finish_taught(trainer, train)
    compare = None if yardstick is None else yardstick.compare
    return finish(trainer, splits, train, processor, compare=compare, calibration=calibration)
