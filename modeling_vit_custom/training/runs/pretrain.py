# ruff: noqa: RUF009 - `flag` is dataclasses.field with its help beside it
"""Pre-training without labels: parts of each image are hidden, and the model learns to paint them (SimMIM).

Xie et al. 2022, "SimMIM: a simple framework for masked image modeling", arXiv 2111.09886. What comes of it is a folder
that `train --model_name_or_path` starts from.
"""

import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.trainer_utils import EvalPrediction, set_seed

from ...audit.gate import audit_before_training, told
from ...common.errors import UsageError
from ...common.model_files import RECONSTRUCTION_PICTURE, TRAINING_PICTURE
from ...common.text import printable
from ...data.dataset import check_readable, collate
from ...data.examples import Splits
from ...data.unlabelled import assemble_unlabelled, read_unlabelled
from ...data.views import PixelValues
from ...embeddings_vit_custom import masked_pixels
from ...modeling_vit_custom import ViTCustomForMaskedImageModeling
from ...reporting.history import panels
from ...reporting.plots import plot_reconstructions, plot_training_history
from ..arguments.completion import complete_arguments, set_best, wants_best
from ..arguments.data_arguments import DataArguments
from ..arguments.model_arguments import ModelArguments
from ..arguments.tables import ONLY_IN_TRAIN
from ..arguments.training_arguments import ViTTrainingArguments, flag
from ..checkpointing.continuing import check_output_dir, ended_run, find_start
from ..checkpointing.images import check_images
from ..checkpointing.run_lock import run_lock
from ..initialization.build import checkpoint_explained, fit_to_size, from_variant, load_checkpoint
from ..initialization.start_checkpoint import Pretrained, Start, open_checkpoint
from ..inputs.augmentation import AUGMENTATIONS, BatchAugmentation
from ..objectives.masking import MaskedImages, PatchMasks
from ..objectives.reconstruction import masked_losses, mean_colour_loss, reconstructions
from ..optimization.time_budget import time_budget
from ..trainer.assembly import prepare_views, start_of
from ..trainer.trainer import ViTCustomTrainer
from .data_loading import named_data
from .records import begin_records, describe_run, end_records, told_again, what_happened

# What --learning_rate, --num_train_epochs and --weight_decay are when they are not given.
SCRATCH = {"learning_rate": 1e-3, "num_train_epochs": 100.0, "weight_decay": 0.05}
FROM_CHECKPOINT = {"learning_rate": 1e-4, "num_train_epochs": 20.0, "weight_decay": 0.05}


@dataclass
class PretrainingArguments:
    mask_ratio: float = flag(default=0.6, help="Share of each image that is hidden.")
    mask_patch_size: list[int] | None = flag(
        help="Side of the squares that are hidden, in pixels, whole patches: one number, or height width. Default: "
        "about a seventh of the image's side (32 of 224).",
    )


def pretrain(
    pretraining_args: PretrainingArguments,
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: ViTTrainingArguments,
) -> dict[str, Any]:
    """Trains an encoder without labels and leaves it, a loadable Hub repository, in `training_args.output_dir`.

    Beside it lie metrics.json (what is returned), training.png, training_args.json and reconstruction.png, which shows
    some of the images. The best model by the loss on held-out images is kept. Run again, it continues.
    Raises UsageError or DataError for bad input before any work is done, CheckpointError (disk full) or
    FloatingPointError (diverged) where the training cannot go on.
    """
    began = time.monotonic()
    complete_pretraining_arguments(model_args, data_args, training_args)
    check_output_dir(training_args.output_dir)
    with run_lock(training_args.output_dir, training_args.processes):
        return _pretrain(pretraining_args, model_args, data_args, training_args, began)


def _pretrain(
    pretraining_args: PretrainingArguments,
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: ViTTrainingArguments,
    began: float,
) -> dict[str, Any]:
    processes, start = training_args.processes, start_of(model_args)
    pretrained = open_checkpoint(start, ViTCustomForMaskedImageModeling)
    splits = load_unlabelled(data_args, training_args)
    check_readable(*filter(None, (splits.train, splits.validation)))
    model, processor = build_masked_model(start, pretrained, splits, training_args.seed)
    conversion = None if pretrained is None else pretrained.report
    del pretrained  # its weights are a second copy
    masks = PatchMasks.for_model(model.config, pretraining_args.mask_ratio, pretraining_args.mask_patch_size)
    if training_args.process_index == 0:
        print(*map(printable, [*splits.notes, *map(told, splits.findings)]), sep="\n", flush=True)
        print(f"masks: {masks.hidden} of {masks.count} units hidden, each of {masks.unit[0]}x{masks.unit[1]} patches")

    run = describe_pretraining(describe_run(model_args, data_args, training_args, splits), masks)
    if (metrics := ended_run(training_args.output_dir, training_args.resume, run, processes)) is not None:
        check_images(training_args.output_dir, splits, training_args.output_dir, processes, record=False)
        return told_again(training_args, metrics)
    checkpoint = find_start(training_args.output_dir, training_args.resume, run, processes)
    check_images(training_args.output_dir, splits, None if checkpoint is None else Path(checkpoint).parent, processes)
    trainer = build_pretrainer(model, processor, splits, masks, data_args, training_args, began)
    if trainer.is_world_process_zero():
        begin_records(training_args.output_dir, run, conversion)
    fitted = trainer.train(resume_from_checkpoint=checkpoint)
    return finish(trainer, fitted.metrics, processor)


def complete_pretraining_arguments(
    model_args: ModelArguments, data_args: DataArguments, training_args: ViTTrainingArguments
) -> None:
    """As `complete_arguments`, with the defaults of pre-training; refuses what only classifiers can have."""
    for group in (model_args, data_args, training_args):
        for given in fields(group):
            if given.name in ONLY_IN_TRAIN and getattr(group, given.name) != given.default:
                raise UsageError(f"--{given.name} has no meaning in pre-training, only in `train`: leave it out.")
    if not training_args.metric_is_default:
        raise UsageError("--metric_for_best_model: what is best in pre-training is the lowest eval_loss; leave it out.")
    if wants_best(training_args):
        set_best(training_args, "eval_loss", False)
    for name, value in (SCRATCH if model_args.variant is not None else FROM_CHECKPOINT).items():
        if getattr(training_args, name) is None:
            setattr(training_args, name, value)
    model_args.method = "full"
    complete_arguments(model_args, data_args, training_args)


def load_unlabelled(data_args: DataArguments, training_args: ViTTrainingArguments) -> Splits:
    """Loads the images the flags name, audited; a built-in dataset is written first. Raises DataError.

    A copy of a training image in validation makes the loss there a little too low, and is no reason to stop.
    """
    raw = read_unlabelled(*named_data(data_args, training_args))
    limits = (data_args.max_train_samples, data_args.max_eval_samples)
    assert data_args.train_val_split is not None  # complete_arguments has set it
    splits = assemble_unlabelled(raw, data_args.train_val_split, *limits, training_args.seed)
    splits.findings.extend(audit_before_training(raw, data_args.audit, tolerated=("leak",)))
    return splits


def build_masked_model(
    start: Start, pretrained: Pretrained | None, splits: Splits, seed: int
) -> tuple[ViTCustomForMaskedImageModeling, Any]:
    """(model, image processor), from a variant or from a checkpoint: of this kind, a classifier or an encoder."""
    set_seed(seed)
    if pretrained is None:
        return from_variant(start, splits, ViTCustomForMaskedImageModeling)
    with checkpoint_explained(start):
        model = load_checkpoint(pretrained, start, splits)
        fit_to_size(model, pretrained.processor, start.image_size, splits)
    return model, pretrained.processor


def describe_pretraining(run: dict[str, Any], masks: PatchMasks) -> dict[str, Any]:
    """What `describe_run` says, without what only classifiers have, and with the masks."""
    model, training = ({k: v for k, v in run[name].items() if k not in ONLY_IN_TRAIN} for name in ("model", "training"))
    hidden = {"units": list(masks.units), "hidden": masks.hidden}
    return run | {"model": model, "training": training, "data": run["data"] | {"masks": hidden}}


class Pretrainer(ViTCustomTrainer):
    """Measures image by image. (The eval_loss of Trainer repeats each batch's, and drops what is then too long: of an
    incomplete last batch, which several processes share, it is the loss of the first process's part.)
    """

    def prediction_step(self, model, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys=None):
        """(None, the loss of each image [B], its index [B])"""
        index = inputs["index"]
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            painted = model(**inputs).reconstruction
        config: Any = self.model.config  # type: ignore[union-attr]
        hidden = masked_pixels(inputs["bool_masked_pos"], config.grid_hw, config.patch_hw)
        pixels = inputs["pixel_values"][..., : hidden.shape[2], : hidden.shape[3]]
        return None, masked_losses(pixels, painted, hidden), index.to(painted.device)


def mean_loss(measured: EvalPrediction) -> dict[str, float]:
    """Trainer's `compute_metrics` for what `Pretrainer` measures."""
    return {"loss": float(np.mean(measured.predictions, dtype=np.float64))}


def build_pretrainer(
    model: ViTCustomForMaskedImageModeling,
    processor: Any,
    splits: Splits,
    masks: PatchMasks,
    data_args: DataArguments,
    training_args: ViTTrainingArguments,
    began: float | None = None,
) -> Pretrainer:
    """The Trainer for a model, its images and their masks."""
    config: Any = model.config
    views, policy = prepare_views(config, processor, splits, data_args, training_args)
    to_pixel_values = PixelValues(processor)
    return Pretrainer(
        model=model,
        args=training_args,
        train_dataset=MaskedImages(masks, splits.train, views["train"], training_args.seed, policy),
        eval_dataset=MaskedImages(masks, splits.validation, views["validation"]),
        augmentation=BatchAugmentation(AUGMENTATIONS[data_args.augmentation], config.image_hw, to_pixel_values),
        to_pixel_values=to_pixel_values,
        data_collator=collate,
        processing_class=processor,
        compute_metrics=mean_loss,
        budget=time_budget(training_args.max_minutes, training_args.processes, len(splits.validation or ()), 0, began),
    )


def finish(trainer: Pretrainer, fitted: dict[str, Any], processor: Any) -> dict[str, Any]:
    """Saves the best model, measures it on the held-out images, draws the pictures; returns metrics.json."""
    output_dir = Path(str(trainer.args.output_dir))
    train: Any = trainer.train_dataset
    happened = what_happened(trainer, len(train))
    trainer.save_model()
    model: Any = trainer.model
    validation: Any = trainer.eval_dataset
    measured: Any = trainer.predict(validation).metrics
    fitted.pop("total_flos", None)
    metrics = {
        "objective": "masked_image_modeling",
        "train": {**fitted, **happened, **trainer.throughput.overall()},
        "validation": {
            "n": len(validation),
            "loss": measured["test_loss"],
            "mean_colour_loss": mean_colour_loss(validation, model.config, processor),
        },
        "best": {"metric": trainer.args.metric_for_best_model, "step": trainer.state.best_global_step},
        "parameters": trainer.served_parameters(),
    }
    if trainer.is_world_process_zero():
        print(trainer.throughput.sentence(), flush=True)
        if panels(trainer.state.log_history):  # a short run may have logged nothing
            plot_training_history(trainer.state.log_history, output_dir / TRAINING_PICTURE)
        plot_reconstructions(reconstructions(model, validation, processor), output_dir / RECONSTRUCTION_PICTURE)
        metrics = end_records(output_dir, metrics)
    return trainer.processes.from_first(lambda: metrics)
