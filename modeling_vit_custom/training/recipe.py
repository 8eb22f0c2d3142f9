"""From flags to a folder that serves: the whole of a training, told from the top.

Shapes: N examples, C classes.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers.trainer_utils import IntervalStrategy

from ..audit.gate import told
from ..data.dataset import ImageDataset, check_readable, collate
from ..data.examples import Examples, Splits
from ..data.raw import printable
from ..data.views import DecodedViews, eval_views
from ..evaluation.evaluate import Evaluation, data_fingerprint, score_outputs
from ..evaluation.figures import number
from ..evaluation.metrics import trainer_metrics
from ..evaluation.plots import panels, plot_confusion_matrix, plot_training_history
from ..inference.json_files import json_safe
from ..inference.processes import Processes
from ..publishing.card import SPLITS
from .adapters import add_adapters
from .args import choose_best_metric, complete_arguments, parse_args
from .budget import time_budget
from .exits import exit_code
from .feeding import Feed, choose_workers, plain_feed, prepare_feed
from .flags import DataArguments, ModelArguments, ViTTrainingArguments
from .floor import CROSS_VALIDATION, build_floor
from .heads import fit_head
from .images import check_images
from .lock import run_lock
from .pretrained import open_checkpoint
from .records import begin_records, end_records, told_again, what_happened
from .report import ReportCallback, write_report
from .start import build_model, check_output_dir, describe_run, ended_run, find_start, load_data
from .teachers import open_teacher
from .trainer import ViTCustomTrainer


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
    if model_args.method == "fitted_head":
        return fit(model, processor, splits, model_args, data_args, training_args, run, conversion)
    checkpoint = find_start(training_args, run)
    check_images(training_args, splits, None if checkpoint is None else Path(checkpoint).parent)
    feed = prepare_feed(model.config, processor, splits, data_args, training_args, teacher)
    del teacher
    trainer = build_trainer(model, processor, splits, model_args, feed, training_args, began)
    trainer.add_callback(ReportCallback(splits))
    if trainer.is_world_process_zero():
        recipe = model_args.chosen_recipe or (None if checkpoint else "")
        begin_records(training_args.output_dir, run, conversion, recipe)
    if model_args.method == "head_then_full" and checkpoint is None:
        views = DecodedViews(splits.train, eval_views(processor, model.config))
        note = fit_head(trainer, ImageDataset(splits.train, views), feed.validation)
        if trainer.is_world_process_zero():
            print(note, flush=True)
    fitted = trainer.train(resume_from_checkpoint=checkpoint).metrics
    fitted.pop("total_flos", None)
    happened = what_happened(trainer, len(splits.train))
    if trainer.is_world_process_zero():
        print(trainer.throughput.sentence(), flush=True)
    return finish(trainer, splits, {**fitted, **happened, **trainer.throughput.overall()}, processor)


def fit(
    model: Any,
    processor: Any,
    splits: Splits,
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: ViTTrainingArguments,
    run: dict[str, Any],
    conversion: dict[str, Any] | None,
) -> dict[str, Any]:
    """The whole of `--method fitted_head`, from an encoder to metrics.json: nothing is trained in steps."""
    began = time.perf_counter()
    check_images(training_args, splits, None)
    floor = build_floor(model, processor, splits, model_args, data_args, training_args)
    training_args.eval_strategy = training_args.save_strategy = IntervalStrategy.NO
    training_args.load_best_model_at_end = False
    choose_workers(training_args, cached=False)
    feed = plain_feed(floor.model.config, processor, splits)
    trainer = build_trainer(floor.model, processor, splits, model_args, feed, training_args)
    if trainer.is_world_process_zero():
        print(*map(printable, floor.notes), sep="\n", flush=True)
        begin_records(training_args.output_dir, run, conversion)
    fitted = {
        "n": len(splits.train),
        "seconds": round(time.perf_counter() - began, 3),
        "images": floor.record["views"] * len(splits.train),
        "fitted": floor.record,
        "sittings": [],
    }
    measured = {} if floor.held_out is None or splits.validation is not None else {CROSS_VALIDATION: floor.held_out}
    return finish(trainer, replace(splits, train=floor.examples or splits.train), fitted, processor, measured)


def build_trainer(
    model,
    processor,
    splits: Splits,
    model_args: ModelArguments,
    feed: Feed,
    training_args: ViTTrainingArguments,
    began: float | None = None,
) -> ViTCustomTrainer:
    """The Trainer for a model and its data; what the method does not train is frozen. began: for --max_minutes."""
    frozen = None
    if model_args.method == "linear_probe":
        frozen = model.vit.requires_grad_(False)
    elif model_args.method == "lora":
        lora = model_args
        add_adapters(model, lora.lora_rank, lora.lora_alpha, lora.lora_dropout, lora.lora_targets)
    sizes = [0 if examples is None else len(examples) for examples in (splits.validation, splits.test)]
    return ViTCustomTrainer(
        model=model,
        args=training_args,
        train_dataset=feed.train,
        eval_dataset=feed.validation,
        augmentation=feed.augmentation,
        to_pixel_values=feed.augmentation.to_pixel_values,
        balanced=feed.balanced,
        compute_loss_func=feed.loss,
        data_collator=collate,
        processing_class=processor,
        compute_metrics=trainer_metrics(splits.problem_type, splits.id2label),
        frozen=frozen,
        budget=time_budget(training_args, sizes[0], sizes[1], began),
    )


def finish(
    trainer: ViTCustomTrainer,
    splits: Splits,
    train: dict[str, Any],
    processor: Any,
    known: dict[str, Evaluation] | None = None,
) -> dict[str, Any]:
    """Saves the best model, measures it on validation and (once) test, draws the pictures; returns metrics.json.

    train: what that says of the training.   known: what has been measured before, by split.
    """
    trainer.save_model()
    measured = {"validation": splits.validation, "test": splits.test}
    results = (known or {}) | {
        split: measure(trainer, examples, splits, processor)
        for split, examples in measured.items()
        if examples is not None
    }
    last = next(reversed(results), None)
    metrics = {
        "problem_type": splits.problem_type,
        "train": train,
        **{split: {"n": len(result.names), **result.metrics} for split, result in results.items()},
        "best": {"metric": trainer.args.metric_for_best_model, "step": trainer.state.best_global_step},
        "parameters": trainer.served_parameters(),
        **({"per_label": {"split": last, "rows": json_safe(results[last].per_label)}} if last else {}),
    }
    if trainer.is_world_process_zero():
        output_dir = Path(str(trainer.args.output_dir))
        if panels(trainer.state.log_history):  # a short run may have logged nothing
            plot_training_history(trainer.state.log_history, output_dir / "training.png")
        if last and (confusion := results[last].confusion) is not None:
            names = [splits.id2label[i] for i in range(len(splits.id2label))]
            plot_confusion_matrix(confusion, names, output_dir / "confusion_matrix.png")
        metrics = end_records(output_dir, metrics)
        write_report(output_dir, trainer.state, splits, metrics, results)
    metrics = trainer.processes.from_first(lambda: metrics)
    if trainer.args.push_to_hub:
        trainer.push_to_hub()
    return metrics


def measure(trainer: ViTCustomTrainer, examples: Examples, splits: Splits, processor: Any) -> Evaluation:
    """The model on one split, spread over all processes."""
    model: Any = trainer.model
    dataset: Any = trainer.eval_dataset  # of which the views may be cached
    if examples is not splits.validation:
        dataset = ImageDataset(examples, DecodedViews(examples, eval_views(processor, model.config)))
    output = trainer.predict(dataset)
    logits, labels = np.asarray(output.predictions), np.asarray(examples.labels)
    return score_outputs(logits, labels, list(examples.names), splits.problem_type, splits.id2label)


def main(argv: Sequence[str] | None = None) -> int:
    """The command `train`; its exit code: 0 done, 1 trained but not published, 2 unusable input, 3 could not go on."""

    def work() -> None:
        model_args, data_args, training_args = parse_args(argv)
        metrics = train(model_args, data_args, training_args)
        for split in SPLITS:
            if split in metrics and training_args.process_index == 0:
                print(split, *(f"{name} {number(value)}" for name, value in metrics[split].items()), sep="  ")

    return exit_code("train", work)
