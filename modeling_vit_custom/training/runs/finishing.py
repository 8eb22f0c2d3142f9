"""Training to the end, and the files that a run leaves in its folder: the model, its figures, pictures and records."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...common.json_files import json_safe
from ...common.model_files import CONFUSION_PICTURE, RECONSTRUCTION_PICTURE, TRAINER_STATE, TRAINING_PICTURE
from ...data.examples import Examples, Splits
from ...data.names import in_order
from ...evaluation.result import Evaluation, score_examples
from ...explanation.mistakes.illustrate import illustrator_of_run
from ...explanation.mistakes.nearest import TrainingImages
from ...reporting.confusion import plot_confusions
from ...reporting.history import panels
from ...reporting.plots import plot_reconstructions, plot_training_history
from ...tasks.encoder_features import COLUMNS, ENCODER_FEATURES
from ...tasks.masked_images import MASKED_IMAGES
from ..objectives.reconstruction import mean_colour_loss, reconstructions
from ..trainer.assembly import as_evaluated
from ..trainer.trainer import ViTCustomTrainer
from .records import end_records, what_happened
from .report import write_report
from .saving_as import save_as
from .thinning import thin_checkpoints
from .unknown import Calibration, calibrate


def train_to_the_end(trainer: ViTCustomTrainer, checkpoint: str | None, images: int) -> dict[str, Any]:
    """Train from a checkpoint, or from the start if it is None; return metrics.json's "train".

    images: number of training images.
    """
    fitted = trainer.train(resume_from_checkpoint=checkpoint).metrics
    fitted.pop("total_flos", None)
    return {**fitted, **what_happened(trainer, images), **trainer.throughput.overall()}


def finish(
    trainer: ViTCustomTrainer,
    splits: Splits,
    train: dict[str, Any],
    processor: Any,
    known: dict[str, Evaluation] | None = None,
    compare: Callable[[Evaluation], tuple[dict[str, Any], str]] | None = None,
    calibration: Calibration | None = None,
    training: TrainingImages | None = None,
) -> dict[str, Any]:
    """Save the model, measure it on validation and (once) test, draw the pictures; return metrics.json's content.

    train: metrics.json's "train".   known: evaluations made before, by split.
    compare: compares the evaluation on the validation images with another model; returns (metrics.json's "fitted_head",
    a sentence).   calibration: makes the model answer "unknown".   training: the images to show beside mistakes, by
    default those of `splits`.
    """
    trainer.save_model()
    unknown: dict[str, Any] = {}
    if calibration is not None:
        unknown["unknown"], sentence = calibrate(calibration, trainer, splits)
        if trainer.is_world_process_zero():
            print(sentence, flush=True)
    measured = {"validation": splits.validation, "test": splits.test}
    results = (known or {}) | {
        split: measure(trainer, examples, splits, processor)
        for split, examples in measured.items()
        if examples is not None
    }
    if compare is not None:
        train["fitted_head"], sentence = compare(results["validation"])
        if trainer.is_world_process_zero():
            print(sentence, flush=True)
    last = next(reversed(results), None)
    metrics = {
        "problem_type": splits.problem_type,
        "train": train,
        **{split: {"n": len(result.names), **result.metrics} for split, result in results.items()},
        **_best(trainer),
        **unknown,
        **({"per_label": {"split": last, "rows": json_safe(results[last].per_label)}} if last else {}),
    }

    def draw(folder: Path) -> None:
        if last and (confused := results[last].details.confused) is not None:
            plot_confusions(confused, in_order(splits.id2label), folder / CONFUSION_PICTURE)

    def report(ended: dict[str, Any]) -> None:
        shown = training or TrainingImages(splits.train, splits.id2label)
        illustrate = illustrator_of_run(_folder(trainer), shown, trainer.args.max_minutes, trainer.args.device)
        write_report(_folder(trainer), trainer.state, splits, ended, results, illustrate=illustrate)

    return _close(trainer, metrics, draw, report)


def finish_masked(trainer: ViTCustomTrainer, train: dict[str, Any], processor: Any) -> dict[str, Any]:
    """Save, measure and draw as `finish` does, for a model that reconstructs the hidden parts of images."""
    trainer.save_model()
    model: Any = trainer.model
    validation: Any = trainer.eval_dataset
    measured: Any = trainer.predict(validation).metrics
    metrics = {
        "objective": MASKED_IMAGES.name,
        "train": train,
        "validation": {
            "n": len(validation),
            "loss": measured["test_loss"],
            "mean_colour_loss": mean_colour_loss(validation, model.config, processor),
        },
        **_best(trainer),
    }

    def draw(folder: Path) -> None:
        plot_reconstructions(reconstructions(model, validation, processor), folder / RECONSTRUCTION_PICTURE)

    return _close(trainer, metrics, draw)


def finish_taught(trainer: ViTCustomTrainer, train: dict[str, Any]) -> dict[str, Any]:
    """Save and measure as `finish` does, for an encoder that has learnt another's features."""
    trainer.save_model()
    validation: Any = trainer.eval_dataset
    measured: Any = trainer.predict(validation).metrics
    metrics = {
        "objective": ENCODER_FEATURES.name,
        "train": train,
        "validation": {"n": len(validation), **{name: measured[f"test_{name}"] for name in COLUMNS}},
        **_best(trainer),
    }
    return _close(trainer, metrics, lambda folder: None)


def _folder(trainer: ViTCustomTrainer) -> Path:
    return Path(str(trainer.args.output_dir))


def _best(trainer: ViTCustomTrainer) -> dict[str, Any]:
    """Entries of metrics.json on the model that was kept."""
    return {
        "best": {"metric": trainer.args.metric_for_best_model, "step": trainer.state.best_global_step},
        "parameters": trainer.served_parameters(),
    }


def _close(
    trainer: ViTCustomTrainer,
    metrics: dict[str, Any],
    draw: Callable[[Path], None],
    report: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Draw the pictures, end the records, write the report, push; return metrics.json's content to all processes."""
    if trainer.is_world_process_zero():
        if panels(trainer.state.log_history):  # a short run may have logged nothing
            plot_training_history(trainer.state.log_history, _folder(trainer) / TRAINING_PICTURE)
        draw(_folder(trainer))
        here = copy.copy(trainer.state)  # the checkpoints may go, so the course of the training is kept apart
        here.best_model_checkpoint = None  # a path of this machine
        here.save_to_json(str(_folder(trainer) / TRAINER_STATE))
        metrics = end_records(_folder(trainer), metrics)
        if report is not None:
            report(metrics)
        keep, best = str(trainer.args.keep_checkpoints), trainer.state.best_global_step
        if (removed := thin_checkpoints(_folder(trainer), keep, best)) is not None:
            print(removed, flush=True)
    metrics = trainer.processes.from_first(lambda: metrics)
    trainer.processes.from_first(lambda: save_as(trainer.args))
    if trainer.args.push_to_hub:
        trainer.push_to_hub()
    return metrics


def measure(trainer: ViTCustomTrainer, examples: Examples, splits: Splits, processor: Any) -> Evaluation:
    """Evaluate the model on one split, spread over all processes."""
    model: Any = trainer.model
    dataset: Any = trainer.eval_dataset  # its views may be cached
    if examples is not splits.validation:
        dataset = as_evaluated(examples, processor, model.config)
    output = trainer.predict(dataset)
    return score_examples(np.asarray(output.predictions), examples, splits)
