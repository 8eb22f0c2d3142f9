"""The Trainer of a run, and what is left of it in its folder: the model, its figures, pictures and records."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...common.json_files import json_safe
from ...common.model_files import CONFUSION_PICTURE, TRAINING_PICTURE
from ...data.examples import Examples, Splits
from ...evaluation.result import Evaluation, score_examples
from ...reporting.confusion import plot_confusion_matrix
from ...reporting.plots import panels, plot_training_history
from ..trainer.assembly import as_evaluated
from ..trainer.trainer import ViTCustomTrainer
from .records import end_records, what_happened
from .report import write_report


def train_to_the_end(trainer: ViTCustomTrainer, checkpoint: str | None, images: int) -> dict[str, Any]:
    """Trains from a checkpoint on, or from the start; returns metrics.json's "train". images: in the training data."""
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
) -> dict[str, Any]:
    """Saves the best model, measures it on validation and (once) test, draws the pictures; returns metrics.json.

    train: what that says of the training.   known: what has been measured before, by split.
    compare: with another model on the validation images; what metrics.json holds of it, and a sentence.
    """
    trainer.save_model()
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
        "best": {"metric": trainer.args.metric_for_best_model, "step": trainer.state.best_global_step},
        "parameters": trainer.served_parameters(),
        **({"per_label": {"split": last, "rows": json_safe(results[last].per_label)}} if last else {}),
    }
    if trainer.is_world_process_zero():
        output_dir = Path(str(trainer.args.output_dir))
        if panels(trainer.state.log_history):  # a short run may have logged nothing
            plot_training_history(trainer.state.log_history, output_dir / TRAINING_PICTURE)
        if last and (confusion := results[last].confusion) is not None:
            names = [splits.id2label[i] for i in range(len(splits.id2label))]
            plot_confusion_matrix(confusion, names, output_dir / CONFUSION_PICTURE)
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
        dataset = as_evaluated(examples, processor, model.config)
    output = trainer.predict(dataset)
    return score_examples(np.asarray(output.predictions), examples, splits)
