"""The Trainer of a run, and what is left of it in its folder: the model, its figures, pictures and records."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import collate
from ..data.examples import Examples, Splits
from ..evaluation.evaluate import Evaluation, score_examples
from ..evaluation.metrics import trainer_metrics
from ..evaluation.plots import panels, plot_confusion_matrix, plot_training_history
from ..inference.json_files import json_safe
from .adapters import add_adapters
from .budget import time_budget
from .feeding import Feed, as_evaluated
from .flags import ModelArguments, ViTTrainingArguments
from .records import end_records, what_happened
from .report import write_report
from .trainer import ViTCustomTrainer


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
        dataset = as_evaluated(examples, processor, model.config)
    output = trainer.predict(dataset)
    return score_examples(np.asarray(output.predictions), examples, splits)
