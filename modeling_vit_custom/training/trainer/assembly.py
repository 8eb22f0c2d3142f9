"""What a training is fed with, as the flags say: the views, where they are kept, what becomes of them, by which loss.

Shapes: h x w the model's size.
"""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...common.environment import available_cores
from ...common.errors import UsageError
from ...common.text import printable
from ...data.cache import CachedViews, open_views
from ...data.dataset import ImageDataset, collate
from ...data.examples import Examples, Splits
from ...data.stream import StreamedViews, stream_of
from ...data.views import DecodedViews, PixelValues, ViewMaker, eval_views, larger_views
from ...evaluation.metrics import trainer_metrics
from ...tasks.registry import one_label, task_named
from ...tasks.task import ONE_LABEL
from ..arguments.data_arguments import DataArguments
from ..arguments.model_arguments import ModelArguments
from ..arguments.tables import not_for
from ..arguments.training_arguments import ViTTrainingArguments
from ..arguments.values import field_values
from ..initialization.lora import add_adapters
from ..initialization.start_checkpoint import Start
from ..inputs.augmentation import (
    AUGMENTATIONS,
    POLICIES,
    VIEW_SCALE,
    BatchAugmentation,
    GrowingSize,
    Policy,
    RandomGrayscale,
)
from ..inputs.mixing import Mix, RandomErasing
from ..objectives.distillation import Distillation, DistillationLoss, distil
from ..objectives.loss import ClassificationLoss, balanced_weights
from ..objectives.teacher_classes import open_teacher
from ..objectives.teacher_loading import Teacher
from ..optimization.time_budget import time_budget
from .trainer import ViTCustomTrainer

MAX_WORKERS = 16
FEW_WORKERS = 2  # read from a cache for an accelerator


@dataclass(frozen=True)
class Feed:
    """loss: None for the model's own.   balanced: whether each class is drawn equally often."""

    train: ImageDataset
    validation: ImageDataset | None
    augmentation: BatchAugmentation
    loss: ClassificationLoss | DistillationLoss | None
    balanced: bool


def prepare_feed(
    config: Any,
    processor: Any,
    splits: Splits,
    data_args: DataArguments,
    training_args: ViTTrainingArguments,
    teacher: Teacher | None = None,
) -> Feed:
    """As `prepare_views`, with a teacher's logits; raises UsageError for flags that do not fit the task."""
    check_task(splits.problem_type, data_args, training_args)
    views, policy = prepare_views(config, processor, splits, data_args, training_args)
    loss: Any = training_loss(splits, training_args)
    rows = None
    if teacher is not None:
        loss, rows, notes = distil(
            teacher, config, splits, loss, data_args.image_cache, distillation_of(training_args), training_args.device,
            shows_progress(training_args),
        )  # fmt: skip
        if training_args.process_index == 0:
            print(*map(printable, notes), sep="\n", flush=True)
    return Feed(
        train=ImageDataset(splits.train, views["train"], training_args.seed, policy, rows),
        validation=None if splits.validation is None else ImageDataset(splits.validation, views["validation"]),
        augmentation=BatchAugmentation(
            AUGMENTATIONS[data_args.augmentation],
            config.image_hw,
            PixelValues(processor),
            RandomErasing(data_args.random_erasing),
            Mix(data_args.mixup, data_args.cutmix, data_args.mix_probability, config.num_labels),
            GrowingSize(config.image_hw, config.patch_hw, data_args.progressive_resizing),
            RandomGrayscale(data_args.random_grayscale),
        ),
        loss=loss,
        balanced=data_args.balanced_sampling,
    )


def start_of(model_args: ModelArguments) -> Start:
    """Return where the weights come from. Raises UsageError for what is no name=value in --config_overrides."""
    fields = field_values(model_args.config_overrides, "--config_overrides")
    rates = {name: getattr(model_args, name) for name in ("drop_path_rate", "patch_drop_rate")}
    size, source = model_args.image_size, model_args.source_config
    return Start(
        checkpoint=model_args.model_name_or_path,
        variant=model_args.variant,
        fields=fields | {name: rate for name, rate in rates.items() if rate is not None},
        image_size=None if size is None else size[0] if len(size) == 1 else (size[0], size[1]),
        source_fields=None if source is None else field_values(source, "--source_config"),
        options={"revision": model_args.model_revision, "cache_dir": model_args.cache_dir},
        ignore_mismatched_sizes=model_args.ignore_mismatched_sizes,
        head_alone=model_args.method == "linear_probe",
    )


def teacher_for(splits: Splits, training_args: ViTTrainingArguments) -> Teacher | None:
    """Return what --teacher names; None without one, or without distillation. Raises UsageError as `open_teacher`."""
    name = training_args.teacher
    if name is None or training_args.distillation == "none":
        return None
    settings = field_values(training_args.teacher_config, "--teacher_config")
    return open_teacher(name, training_args.teacher_weights, settings, splits)


def distillation_of(training_args: ViTTrainingArguments) -> Distillation:
    args = training_args
    return Distillation(str(args.distillation), args.distillation_alpha, args.distillation_temperature)


def shows_progress(training_args: ViTTrainingArguments) -> bool:
    """Whether this process draws bars: the first of its machine, unless they were turned off."""
    return training_args.local_process_index == 0 and not training_args.disable_tqdm


def as_evaluated(examples: Examples, processor: Any, config: Any) -> ImageDataset:
    """Images as evaluation sees them, each decoded when it is asked for."""
    return ImageDataset(examples, DecodedViews(examples, eval_views(processor, config)))


def plain_feed(config: Any, processor: Any, splits: Splits) -> Feed:
    """Images as evaluation sees them, of a model that is not trained; nothing is decoded before it is asked for."""
    views = {
        split: as_evaluated(examples, processor, config)
        for split, examples in (("train", splits.train), ("validation", splits.validation))
        if examples is not None
    }
    nothing = BatchAugmentation(None, config.image_hw, PixelValues(processor))
    return Feed(views["train"], views.get("validation"), nothing, None, False)


def prepare_views(
    config: Any, processor: Any, splits: Splits, data_args: DataArguments, training_args: ViTTrainingArguments
) -> tuple[dict[str, Any], Policy | None]:
    """(the views of each split, what else is done to those of training).

    Builds or finds the image cache, says so, and sets the number of loading processes in `training_args`.
    Raises DataError for images that cannot be read.
    """
    progress = shows_progress(training_args)
    makers = {"train": train_views(config, processor, data_args), "validation": eval_views(processor, config)}
    views: dict[str, Any] = {}
    notes = []
    for split, maker in makers.items():
        if (examples := getattr(splits, split)) is not None:
            if stream_of(examples) is not None:
                views[split] = StreamedViews(examples, maker, data_args.shuffle_buffer)
                note = f"{split}: images are read from the shards, and decoded, anew in each epoch"
                if training_args.world_size > 1:
                    note += f"; each of the {training_args.world_size} processes reads all and decodes its share"
            else:
                views[split], note = open_views(split, examples, maker, data_args.image_cache, progress)
            notes.append(note)
    if training_args.process_index == 0:
        print(*map(printable, notes), sep="\n", flush=True)
    policy = POLICIES[data_args.auto_augment]() if data_args.auto_augment else None
    choose_workers(training_args, policy is None and all(isinstance(view, CachedViews) for view in views.values()))
    return views, policy


def check_task(problem_type: str, data_args: DataArguments, training_args: ViTTrainingArguments) -> None:
    """Raises UsageError for a flag that was given and is not for this task."""
    for name in not_for(task_named(problem_type), data_args, training_args):
        raise UsageError(f"--{name} is for {one_label()}, but the data is {problem_type}: leave it out.")


def train_views(config: Any, processor: Any, data_args: DataArguments) -> ViewMaker:
    """The views that the named augmentation starts from."""
    if (scale := VIEW_SCALE[data_args.augmentation]) == 1:
        return eval_views(processor, config)
    given = data_args.view_size or [round(side * scale) for side in config.image_hw]
    return larger_views(processor, config, (given[0], given[-1]))


def training_loss(splits: Splits, training_args: ViTTrainingArguments) -> ClassificationLoss | None:
    """Of single labels ours, which knows mixed ones; of other tasks None, the model's own."""
    if ONE_LABEL not in task_named(splits.problem_type).supports:
        return None
    weights = None
    if training_args.class_weights == "balanced":
        weights = balanced_weights(np.asarray(splits.train.labels), len(splits.id2label))
    return ClassificationLoss(training_args.loss, training_args.label_smoothing_factor, weights)


def choose_workers(training_args: ViTTrainingArguments, cached: bool) -> None:
    """Sets --dataloader_num_workers where it was not given; without an accelerator leaves each of them a core.

    Views from a cache cost next to nothing: on a CPU no process is worth starting for them. Decoding takes what
    cores an accelerator leaves idle, of a CPU that trains as well a quarter.
    """
    if training_args.dataloader_num_workers == -1:
        count = available_cores()
        cores = max(1, count // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        if training_args.on_accelerator:
            training_args.dataloader_num_workers = min(cores, FEW_WORKERS if cached else MAX_WORKERS)
        else:
            training_args.dataloader_num_workers = 0 if cached else min(cores // 4, MAX_WORKERS)
    if training_args.dataloader_num_workers == 0:  # there are none to tell anything
        training_args.dataloader_persistent_workers, training_args.dataloader_prefetch_factor = False, None
        training_args.dataloader_multiprocessing_context = None
    share_cores(training_args)


def share_cores(training_args: ViTTrainingArguments) -> None:
    """Without an accelerator, leaves a core to each loading process, unless OMP_NUM_THREADS has been set.

    Threads of one tensor operation wait for each other: one that has lost its core slows all (measured on two
    cores beside one busy process: 93 ms a step with two threads, 26 ms with one thread and one loading process).
    """
    workers = training_args.dataloader_num_workers
    if training_args.device.type == "cpu" and workers and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() - workers))


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
        budget=time_budget(training_args.max_minutes, training_args.processes, sizes[0], sizes[1], began),
    )
