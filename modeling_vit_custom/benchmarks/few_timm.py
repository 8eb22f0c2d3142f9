"""timm's fine-tuning as a plain loop: its model, augmentation, optimizer with layer decay, and schedule.

`python -m modeling_vit_custom.commands.few_timm train --train DIR --test DIR --checkpoint DIR --cpu_seconds S` trains
until the process has used S CPU seconds, evaluation on the test images included; `… few_timm export --checkpoint DIR
--size N --output DIR` writes this checkpoint for timm from a folder of ours.

Settings are those of timm's recipes for pre-trained Vision Transformers, as far as so few images allow: AdamW, layer
decay 0.7, weight decay 0.05, RandAugment, random erasing, label smoothing 0.1, drop path 0.1, a cosine schedule with
warm-up; batches of 32, with a learning rate for this batch size. No mixup.
"""

import math
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from ..conversion.export import export as convert_to
from ..image_processing_vit_custom import ViTCustomImageProcessor
from ..modeling_vit_custom import ViTCustomModel
from ..pretrained_vit_custom import resize_input
from .usage import cpu_seconds

BATCH, RATE, DECAY, LAYER_DECAY, SMOOTHING, DROP_PATH, WARMUP = 32, 2e-4, 0.05, 0.7, 0.1, 0.1, 0.1
TICKS = 10_000  # steps of the schedule, from its beginning to its end


def export(checkpoint: str, size: int, output: str) -> None:
    """Change the image size of a model folder of ours and convert it for timm. Raises ConversionError."""
    model = ViTCustomModel.from_pretrained(checkpoint)
    processor = ViTCustomImageProcessor.from_pretrained(checkpoint)
    resize_input(model, processor, size)
    with tempfile.TemporaryDirectory() as resized:
        model.save_pretrained(resized)
        processor.save_pretrained(resized)
        convert_to(resized, output, "timm")


def fine_tune(train: str, test: str, checkpoint: str, seconds: float) -> dict[str, Any]:
    """Train until this process has used `seconds` CPU seconds; return accuracy and steps."""
    import timm
    from timm.data import create_transform, resolve_model_data_config
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler

    torch.manual_seed(0)
    classes = len(ImageFolder(train).classes)
    name = f"local-dir:{checkpoint}"
    model: Any = timm.create_model(name, pretrained=True, num_classes=classes, drop_path_rate=DROP_PATH)
    config = resolve_model_data_config(model)
    plain = create_transform(**config, is_training=False)
    augment = create_transform(**config, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.25)
    dataset, unseen = ImageFolder(train, augment), DataLoader(ImageFolder(test, plain), BATCH)
    batches = DataLoader(dataset, BATCH, shuffle=True, drop_last=len(dataset) >= BATCH)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=RATE, weight_decay=DECAY, layer_decay=LAYER_DECAY)
    schedule = CosineLRScheduler(optimizer, TICKS, warmup_t=round(WARMUP * TICKS), t_in_epochs=False)
    loss_of = LabelSmoothingCrossEntropy(SMOOTHING)

    began = cpu_seconds()
    right(model, *next(iter(unseen)))
    end = seconds - (cpu_seconds() - began) * len(unseen)  # reserves time for the test images
    began = cpu_seconds()
    steps = 0
    for images, labels in endless(batches):
        share = (cpu_seconds() - began) / max(end - began, math.ulp(1.0))
        if share >= 1 and steps:
            break
        schedule.step_update(min(TICKS, round(share * TICKS)))
        loss = loss_of(model.train()(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
    total = sum(right(model, images, labels) for images, labels in unseen)
    return {"accuracy": total / len(unseen.dataset), "steps": steps}  # type: ignore[arg-type]


def endless(batches: DataLoader) -> Iterator[Any]:
    while True:
        yield from batches


@torch.inference_mode()
def right(model: Any, images: torch.Tensor, labels: torch.Tensor) -> int:
    """Count the correctly classified images of a batch."""
    return int((model.eval()(images).argmax(1) == labels).sum())
