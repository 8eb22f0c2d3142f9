"""Contenders of `benchmark training`: two models in two loops, our recipe, and transformers' example.

The two models have the same size: 28 px, patch 4, width 128, depth 6, class token. Our loop is `train`; the plain loop
is that of a tutorial. All train on the same folder, from scratch, for the same number of seconds.

Shapes: B batch, C channels, h x w pixels, L classes.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from ..configuration_vit_custom import ViTCustomConfig
from ..engines.output import OutputOf
from ..modeling_vit_custom import ViTCustomForImageClassification
from ..training.arguments.completion import complete_arguments
from ..training.arguments.parsing import parse_flags
from ..training.initialization.build import build_model
from ..training.runs.data_loading import load_data
from ..training.trainer.assembly import build_trainer, prepare_feed, start_of
from .peers import Shape

SIDE, PATCH, WIDTH, DEPTH, HEADS, HIDDEN = 28, 4, 128, 6, 4, 512
BATCH, RATE, DECAY, SMOOTHING, WARMUP = 128, 1e-3, 0.05, 0.1, 0.1
PROBE = 40  # steps timed to estimate max_steps, for a loop that needs it in advance


@dataclass
class Trained:
    """model: pixel_values [B, C, h, w] -> logits [B, L], of `classes`.   transform: a PIL image -> pixel_values."""

    model: nn.Module
    classes: list[str]
    transform: Callable[[Any], torch.Tensor]
    images: int
    seconds: float


@dataclass(frozen=True)
class TrainingBudget:
    """data: a folder train/<class>/… and test/<class>/….   seconds: of training.   workers: loading processes."""

    data: Path
    seconds: float
    seed: int
    workers: int
    output_dir: Path


def same_size_fields(labels: int) -> dict[str, Any]:
    shape = Shape("same size", SIDE, PATCH, WIDTH, DEPTH, HEADS, HIDDEN, labels)
    return shape.fields | {"num_channels": 1}


def our_model(labels: int) -> nn.Module:
    return OutputOf(ViTCustomForImageClassification(ViTCustomConfig(**same_size_fields(labels))), "logits")


def timm_model(labels: int) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=SIDE, patch_size=PATCH, in_chans=1, num_classes=labels, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS
    )


class Labelled(nn.Module):
    """Adapter of a model that returns logits to the interface that Trainer needs."""

    def __init__(self, model: nn.Module, config: Any):
        super().__init__()
        self.model, self.config = model, config

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **_: Any) -> dict[str, Any]:
        logits = self.model(pixel_values)
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


# ---------- the plain loop


def plain_transform(train: bool) -> Callable[[Any], torch.Tensor]:
    """Build the transform to 28 px, grey, in [-1, 1]; with random flips and shifts for training."""
    augment = [v2.RandomHorizontalFlip(), v2.RandomAffine(0, translate=(0.1, 0.1))] if train else []
    to_tensor = [v2.Grayscale(), v2.ToImage(), v2.Resize((SIDE, SIDE)), v2.ToDtype(torch.float32, scale=True)]
    return v2.Compose([*augment, *to_tensor, v2.Normalize([0.5], [0.5])])


def plain_loop(build: Callable[[int], nn.Module], task: TrainingBudget) -> Trained:
    """Train by AdamW, a cosine schedule over time with warm-up, label smoothing, and batches of 128."""
    torch.manual_seed(task.seed)
    dataset = ImageFolder(str(task.data / "train"), plain_transform(train=True))
    persistent = {"num_workers": task.workers, "persistent_workers": bool(task.workers)}
    loader = DataLoader(dataset, BATCH, shuffle=True, drop_last=True, **persistent)  # type: ignore[arg-type]
    model = build(len(dataset.classes)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    began, images = time.perf_counter(), 0
    while True:
        for pixel_values, labels in loader:
            done = (time.perf_counter() - began) / task.seconds
            if done >= 1:
                return Trained(
                    model, dataset.classes, plain_transform(train=False), images, time.perf_counter() - began
                )
            rate = RATE * min(done / WARMUP, (1 + math.cos(math.pi * (done - WARMUP) / (1 - WARMUP))) / 2)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = F.cross_entropy(model(pixel_values), labels, label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            images += len(labels)


# ---------- our loop


def our_loop(task: TrainingBudget, *flags: Any, replaced_by: Callable[[int], nn.Module] | None = None) -> Trained:
    """Run `train` up to the end of the training.   replaced_by: builds a model to train instead of ours."""
    argv = [*flags, "--train_dir", task.data / "train", "--seed", task.seed, "--output_dir", task.output_dir]
    argv += ["--max_minutes", task.seconds / 60, "--eval_strategy", "no", "--save_strategy", "no", "--audit", "off"]
    argv += ["--load_best_model_at_end", "false", "--disable_tqdm", "true", "--report_to", "none"]
    argv += ["--train_val_split", 0.001, "--logging_strategy", "no"]
    model_args, data_args, training_args = parse_flags([str(word) for word in argv])
    complete_arguments(model_args, data_args, training_args)
    splits = load_data(data_args, training_args)
    model, processor, splits = build_model(start_of(model_args), None, splits, training_args.seed)
    feed = prepare_feed(model.config, processor, splits, data_args, training_args)
    if replaced_by is not None:
        model = Labelled(replaced_by(len(splits.id2label)), model.config)
    trainer = build_trainer(model, processor, splits, model_args, feed, training_args)
    budget: Any = trainer.budget
    budget.after, budget.began = 0.0, time.monotonic()  # the seconds count training alone
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    images = trainer.state.global_step * training_args.train_batch_size

    def transform(image: Any) -> torch.Tensor:
        layout = {"input_data_format": "channels_first"}
        return processor(processor.decode(image), return_tensors="pt", **layout)["pixel_values"][0]

    net: Any = trainer.model
    classes = [splits.id2label[i] for i in range(len(splits.id2label))]
    return Trained(OutputOf(net, "logits") if replaced_by is None else net.model, classes, transform, images, seconds)


def our_recipe(task: TrainingBudget, flags: Sequence[Any] = ()) -> Trained:
    """Train by the recipe for small grey pictures.   flags: win over the recipe's."""
    return our_loop(task, "--recipe", "fashion_mnist", *flags)


def same_size_flags() -> list[Any]:
    """Return the flags that give our loop the settings of the plain loop."""
    plain = {"stem": "patch", "pooling": "cls", "use_cls_token": True, "position_embedding": "learned"}
    fields = same_size_fields(0) | plain
    left = {"image_size", "patch_size", "num_labels"}
    overrides = ",".join(f"{name}={value}" for name, value in fields.items() if name not in left)
    return [
        "--variant", f"nano/{PATCH}", "--image_size", SIDE, "--config_overrides", f"{overrides},initializer_range=0.02",
        "--augmentation", "shift", "--learning_rate", RATE, "--weight_decay", DECAY, "--label_smoothing_factor",
        SMOOTHING, "--per_device_train_batch_size", BATCH, "--warmup_steps", WARMUP,
    ]  # fmt: skip


# ---------- transformers' example


def transformers_example(task: TrainingBudget) -> Trained:
    """Train ViTForImageClassification by plain Trainer, with the transforms of transformers' classification example."""
    from transformers import Trainer, TrainerCallback, TrainingArguments, ViTConfig, ViTForImageClassification

    torch.manual_seed(task.seed)
    colours = [v2.RGB(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
    train = v2.Compose([v2.RandomResizedCrop(SIDE), v2.RandomHorizontalFlip(), *colours])
    dataset = ImageFolder(str(task.data / "train"), train)

    def model() -> nn.Module:
        fields: Any = same_size_fields(len(dataset.classes)) | {"num_channels": 3}
        return ViTForImageClassification(ViTConfig(**fields))

    class Deadline(TrainerCallback):
        def __init__(self, seconds: float):
            self.seconds = seconds

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = time.perf_counter() - self.began > self.seconds

    def run(steps: int, seconds: float) -> tuple[Any, float]:
        arguments = TrainingArguments(
            output_dir=str(task.output_dir), max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=RATE,
            weight_decay=DECAY, lr_scheduler_type="cosine", warmup_steps=WARMUP, save_strategy="no", report_to="none",
            dataloader_num_workers=task.workers, disable_tqdm=True, logging_strategy="no", seed=task.seed,
            label_smoothing_factor=SMOOTHING, dataloader_persistent_workers=bool(task.workers),
        )  # fmt: skip

        def collate(rows: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
            return {"pixel_values": torch.stack([x for x, _ in rows]), "labels": torch.tensor([y for _, y in rows])}

        torch.manual_seed(task.seed)
        trainer = Trainer(
            model(), arguments, data_collator=collate, train_dataset=dataset, callbacks=[Deadline(seconds)]
        )
        began = time.perf_counter()
        trainer.train()
        return trainer, time.perf_counter() - began

    _, probed = run(PROBE, math.inf)
    trainer, seconds = run(max(PROBE, int(task.seconds / probed * PROBE)), task.seconds)
    plain = v2.Compose([v2.Resize(SIDE), v2.CenterCrop(SIDE), *colours])
    return Trained(
        OutputOf(trainer.model, "logits"), dataset.classes, plain, trainer.state.global_step * BATCH, seconds
    )


# ---------- the contenders

RECIPE = "our recipe"
# ablation: flags that remove one part of the recipe, or add one
PARTS: dict[str, tuple[Any, ...]] = {
    "AdamW for Muon": ("--muon", "false"),
    "patches for the convolutional stem": ("--config_overrides", "num_channels=1,stem=patch"),
    "class token for the mean": ("--config_overrides", "num_channels=1,pooling=cls,use_cls_token=true"),
    "positions learned for fixed": ("--config_overrides", "num_channels=1,position_embedding=learned"),
    "no shifts and flips": ("--augmentation", "none"),
    "no weight decay": ("--weight_decay", 0),
    "no warm-up": ("--warmup_steps", 0),
    "constant rate for the cosine": ("--lr_scheduler_type", "constant_with_warmup"),
    "no clipping of gradients": ("--max_grad_norm", 0),
    "label smoothing 0.1": ("--label_smoothing_factor", 0.1),
    "averaged weights": ("--ema_decay", 0.998),
    "mixup 0.2": ("--mixup", 0.2),
    "random erasing": ("--random_erasing", 0.25),
    "growing images": ("--progressive_resizing", 0.5),
    "stochastic depth 0.1": ("--config_overrides", "num_channels=1,drop_path_rate=0.1"),
}

CONTENDERS: dict[str, Callable[[TrainingBudget], Trained]] = {
    RECIPE: our_recipe,
    "our model, our loop": lambda task: our_loop(task, *same_size_flags()),
    "our model, plain loop": lambda task: plain_loop(our_model, task),
    "timm, our loop": lambda task: our_loop(task, *same_size_flags(), replaced_by=timm_model),
    "timm, plain loop": lambda task: plain_loop(timm_model, task),
    "transformers, Trainer": transformers_example,
}
ABLATION: dict[str, Callable[[TrainingBudget], Trained]] = {
    RECIPE: our_recipe,
    **{part: partial(our_recipe, flags=flags) for part, flags in PARTS.items()},
}
