"""What a training is fed with, as the flags say: the views, where they are kept, what becomes of them, by which loss.

Shapes: h x w the model's size.
"""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..data.cache import CachedViews, open_views
from ..data.dataset import ImageDataset
from ..data.examples import SINGLE_LABEL, Examples, Splits
from ..data.raw import printable
from ..data.stream import StreamedViews, stream_of
from ..data.views import DecodedViews, PixelValues, ViewMaker, eval_views, larger_views
from ..inference.environment import available_cores
from .augment import AUGMENTATIONS, POLICIES, VIEW_SCALE, BatchAugmentation, GrowingSize, Policy
from .distillation import DistillationLoss, distil
from .flags import DataArguments, UsageError, ViTTrainingArguments
from .loss import ClassificationLoss, balanced_weights
from .mixing import Mix, RandomErasing
from .teacher_sources import Teacher

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
        loss, rows, notes = distil(teacher, config, splits, loss, data_args.image_cache, training_args)
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
        ),
        loss=loss,
        balanced=data_args.balanced_sampling,
    )


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
    progress = training_args.local_process_index == 0 and not training_args.disable_tqdm
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
    """Raises UsageError for what only single labels can have."""
    asked = {
        "--mixup": data_args.mixup > 0,
        "--cutmix": data_args.cutmix > 0,
        "--balanced_sampling": data_args.balanced_sampling,
        "--loss": training_args.loss != "ce",
        "--class_weights": training_args.class_weights != "none",
        "--label_smoothing_factor": training_args.label_smoothing_factor > 0,
    }
    if problem_type != SINGLE_LABEL and (given := [name for name, on in asked.items() if on]):
        raise UsageError(f"{given[0]} is for {SINGLE_LABEL}, but the data is {problem_type}: leave it out.")


def train_views(config: Any, processor: Any, data_args: DataArguments) -> ViewMaker:
    """The views that the named augmentation starts from."""
    if (scale := VIEW_SCALE[data_args.augmentation]) == 1:
        return eval_views(processor, config)
    given = data_args.view_size or [round(side * scale) for side in config.image_hw]
    return larger_views(processor, config, (given[0], given[-1]))


def training_loss(splits: Splits, training_args: ViTTrainingArguments) -> ClassificationLoss | None:
    """Of single labels ours, which knows mixed ones; of other tasks None, the model's own."""
    if splits.problem_type != SINGLE_LABEL:
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
