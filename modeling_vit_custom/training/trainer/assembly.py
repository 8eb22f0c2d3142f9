"""Assembly of a training from its flags: the views and their cache, the augmentation, the loss, the Trainer.

Shapes: h x w the model's size.
"""

import os
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ...common.environment import available_cores
from ...common.errors import UsageError
from ...common.text import printable
from ...data.cache import CachedViews, open_views
from ...data.dataset import ImageDataset, collate
from ...data.examples import Examples, Splits
from ...data.stream import StreamedViews, stream_of
from ...data.views import DecodedViews, ImageResizer, PixelValues, eval_resizer, larger_resizer
from ...tasks.encoder_features import ENCODER_FEATURES
from ...tasks.masked_images import MASKED_IMAGES
from ...tasks.measuring import TrainerMetrics
from ...tasks.registry import one_label, task_named
from ...tasks.task import Task
from ..arguments.data_arguments import DataArguments
from ..arguments.model_arguments import ModelArguments
from ..arguments.tables import not_for
from ..arguments.training_arguments import ViTTrainingArguments
from ..arguments.values import field_values
from ..initialization.feature_projection import add_projection
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
from ..objectives.feature_distillation import FeatureLoss
from ..objectives.loss import ClassificationLoss, balanced_weights
from ..objectives.masking import MaskedImages, PatchMasks
from ..objectives.reconstruction import MaskedLoss
from ..objectives.teacher_classes import open_teacher
from ..objectives.teacher_features import EncoderTeacher
from ..objectives.teacher_loading import Teacher
from ..optimization.time_budget import time_budget
from .feature_teacher import learn_features
from .trainer import ViTCustomTrainer

MAX_WORKERS = 16
FEW_WORKERS = 2  # enough to read from a cache for an accelerator


@dataclass(frozen=True)
class TrainingInputs:
    """What a training needs of its data.

    task: what is learnt.   loss: None for the model's own.   balanced: whether each class is drawn equally often.
    measure: as for `BatchTrainer`.
    """

    task: Task
    train: ImageDataset
    validation: ImageDataset | None
    augmentation: BatchAugmentation
    loss: ClassificationLoss | DistillationLoss | None = None
    balanced: bool = False
    measure: MaskedLoss | FeatureLoss | None = None


def prepare_feed(
    config: Any,
    processor: Any,
    splits: Splits,
    data_args: DataArguments,
    training_args: ViTTrainingArguments,
    teacher: Teacher | EncoderTeacher | None = None,
    masks: PatchMasks | None = None,
) -> TrainingInputs:
    """Build the `TrainingInputs` of a training: task, views (see `prepare_views`), augmentation and loss.

    teacher: to distil from; of an encoder the task is to learn its features.   masks: hide patches; the task is then to
    fill them in.
    Raises UsageError for flags that do not fit the task.
    """
    task = task_named(splits.problem_type) if masks is None else MASKED_IMAGES
    if isinstance(teacher, EncoderTeacher):
        task = ENCODER_FEATURES
    images = ImageDataset if masks is None else partial(MaskedImages, masks)
    check_task(task, data_args, training_args)
    check_channels(config.num_channels, data_args)
    views, policy = prepare_views(config, processor, splits, data_args, training_args)
    loss: Any = training_loss(task, splits, training_args)
    rows, notes = dict[str, Any](), list[str]()
    measure: Any = None if masks is None else MaskedLoss(config)
    if isinstance(teacher, EncoderTeacher):
        cache, progress = data_args.image_cache, shows_progress(training_args)
        measure, rows, notes = learn_features(teacher, views, splits, cache, training_args.device, progress)
    elif teacher is not None:
        loss, rows["train"], notes = distil(
            teacher, config, splits, loss, data_args.image_cache, distillation_of(training_args), training_args.device,
            shows_progress(training_args),
        )  # fmt: skip
    if notes and training_args.process_index == 0:
        print(*map(printable, notes), sep="\n", flush=True)
    return TrainingInputs(
        task=task,
        train=images(splits.train, views["train"], training_args.seed, policy, rows.get("train")),
        validation=None
        if splits.validation is None
        else images(splits.validation, views["validation"], teacher=rows.get("validation")),
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
        measure=measure,
    )


def start_of(model_args: ModelArguments) -> Start:
    """Return where the weights come from. Raises UsageError where --config_overrides is not all name=value."""
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
    """Load the teacher that --teacher names; None without it or without distillation. Raises as `open_teacher`."""
    name = training_args.teacher
    if name is None or training_args.distillation == "none":
        return None
    settings = field_values(training_args.teacher_config, "--teacher_config")
    return open_teacher(name, training_args.teacher_weights, settings, splits)


def distillation_of(training_args: ViTTrainingArguments) -> Distillation:
    args = training_args
    return Distillation(str(args.distillation), args.distillation_alpha, args.distillation_temperature)


def shows_progress(training_args: ViTTrainingArguments) -> bool:
    """Return whether this process draws progress bars: the first of its machine, unless they were turned off."""
    return training_args.local_process_index == 0 and not training_args.disable_tqdm


def as_evaluated(examples: Examples, processor: Any, config: Any) -> ImageDataset:
    """Return the images as evaluation sees them, each decoded on demand."""
    return ImageDataset(examples, DecodedViews(examples, eval_resizer(processor, config)))


def plain_feed(config: Any, processor: Any, splits: Splits) -> TrainingInputs:
    """Build the `TrainingInputs` of a model that is not trained: images as evaluation sees them, decoded on demand."""
    views = {
        split: as_evaluated(examples, processor, config)
        for split, examples in (("train", splits.train), ("validation", splits.validation))
        if examples is not None
    }
    nothing = BatchAugmentation(None, config.image_hw, PixelValues(processor))
    return TrainingInputs(task_named(splits.problem_type), views["train"], views.get("validation"), nothing)


def prepare_views(
    config: Any, processor: Any, splits: Splits, data_args: DataArguments, training_args: ViTTrainingArguments
) -> tuple[dict[str, Any], Policy | None]:
    """Return (the views of each split, the policy that augments those of training or None).

    Builds or finds the image cache, prints which, and sets the number of loading processes in `training_args`.
    Raises DataError for images that cannot be read.
    """
    progress = shows_progress(training_args)
    makers = {"train": train_views(config, processor, data_args), "validation": eval_resizer(processor, config)}
    views: dict[str, Any] = {}
    notes = []
    for split, maker in makers.items():
        if (examples := getattr(splits, split)) is not None:
            if stream_of(examples) is not None:
                views[split] = StreamedViews(examples, maker, data_args.shuffle_buffer)
                note = f"{split}: images are read from the shards, and decoded, again in each epoch"
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


def check_task(task: Task, data_args: DataArguments, training_args: ViTTrainingArguments) -> None:
    """Raise UsageError for a given flag that is not for this task."""
    for name in not_for(task, data_args, training_args):
        raise UsageError(f"--{name} is for {one_label()}, but the data is {task.name}: leave it out.")


def check_channels(num_channels: int, data_args: DataArguments) -> None:
    """Raise UsageError for a given flag that changes colours, unless the model takes grey or RGB images."""
    if num_channels in (1, 3):
        return
    for name in ("auto_augment", "random_grayscale"):
        if value := getattr(data_args, name):
            raise UsageError(
                f"--{name} {value} is for grey and RGB images, the model takes {num_channels} channels: leave it out."
            )


def train_views(config: Any, processor: Any, data_args: DataArguments) -> ImageResizer:
    """Return the maker of the views from which the named augmentation starts: evaluation's, or larger ones to crop."""
    if (scale := VIEW_SCALE[data_args.augmentation]) == 1:
        return eval_resizer(processor, config)
    given = data_args.view_size or [round(side * scale) for side in config.image_hw]
    return larger_resizer(processor, config, (given[0], given[-1]))


def training_loss(task: Task, splits: Splits, training_args: ViTTrainingArguments) -> ClassificationLoss | None:
    """Return our loss, which accepts mixed labels, for single-label tasks; None (the model's own loss) for others."""
    if not task.one_label:
        return None
    weights = None
    if training_args.class_weights == "balanced":
        weights = balanced_weights(splits.train.targets.values, len(splits.id2label))
    return ClassificationLoss(training_args.loss, training_args.label_smoothing_factor, weights)


def choose_workers(training_args: ViTTrainingArguments, cached: bool) -> None:
    """Set --dataloader_num_workers where it was not given, then leave each worker a core (`share_cores`).

    Reading views from a cache costs next to nothing: without an accelerator it gets no worker. Decoding gets the cores
    that an accelerator leaves idle, or a quarter of the cores where the CPU trains as well.
    """
    if training_args.dataloader_num_workers == -1:
        count = available_cores()
        cores = max(1, count // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        if training_args.on_accelerator:
            training_args.dataloader_num_workers = min(cores, FEW_WORKERS if cached else MAX_WORKERS)
        else:
            training_args.dataloader_num_workers = 0 if cached else min(cores // 4, MAX_WORKERS)
    if training_args.dataloader_num_workers == 0:  # the settings of workers must then be off
        training_args.dataloader_persistent_workers, training_args.dataloader_prefetch_factor = False, None
        training_args.dataloader_multiprocessing_context = None
    share_cores(training_args)


def share_cores(training_args: ViTTrainingArguments) -> None:
    """Leave a core to each loading process when training on the CPU, unless OMP_NUM_THREADS is set.

    The threads of one tensor operation wait for each other, so one without a core slows all. Measured on two cores
    beside one busy process: 93 ms a step with two threads, 26 ms with one thread and one loading process.
    """
    workers = training_args.dataloader_num_workers
    if training_args.device.type == "cpu" and workers and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() - workers))


def build_trainer(
    model,
    processor,
    splits: Splits,
    model_args: ModelArguments,
    feed: TrainingInputs,
    training_args: ViTTrainingArguments,
    began: float | None = None,
) -> ViTCustomTrainer:
    """Build the Trainer for a model and its data; freeze what the method does not train.

    began: the clock from which --max_minutes counts.
    """
    frozen = None
    if model_args.method == "linear_probe":
        frozen = model.vit.requires_grad_(False)
    elif model_args.method == "lora":
        lora = model_args
        add_adapters(model, lora.lora_rank, lora.lora_alpha, lora.lora_dropout, lora.lora_targets)
    if isinstance(feed.measure, FeatureLoss):
        known = feed.measure.statistics
        add_projection(model, len(known.pooled_mean), len(known.patch_mean), training_args.seed)
    sizes = [0 if examples is None else len(examples) for examples in (splits.validation, splits.test)]
    return ViTCustomTrainer(
        model=model,
        args=training_args,
        train_dataset=feed.train,
        eval_dataset=feed.validation,
        augmentation=feed.augmentation,
        to_pixel_values=feed.augmentation.to_pixel_values,
        balanced=feed.balanced,
        measure=feed.measure,
        compute_loss_func=feed.loss,
        data_collator=collate,
        processing_class=processor,
        compute_metrics=TrainerMetrics(feed.task, len(splits.id2label)),
        frozen=frozen,
        budget=time_budget(training_args.max_minutes, training_args.processes, sizes[0], sizes[1], began),
    )
