"""A data set whose shortcut is known: three marks on noise, one of which stays in its corner or moves like the others.

Shapes: N images, C channels, H×W pixels.
"""

import numpy as np
import torch
from PIL import Image

from modeling_vit_custom import ViTCustomConfig, ViTCustomForImageClassification
from modeling_vit_custom.image_processing_vit_custom import ViTCustomImageProcessor

SIDE, PATCH = 24, 4
COLOURS = {"red": (250, 30, 30), "green": (30, 250, 30), "blue": (30, 30, 250)}
CORNER = (5, 5)  # row and column of the patch


def marked_images(count: int, fixed: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (images uint8 [N, H, W, 3], class ids [N]): a patch of the class's colour, anywhere but in the corner.

    fixed: that of red images is always in the corner instead.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(COLOURS)
    images = rng.integers(60, 190, (count, SIDE, SIDE, 3), np.uint8)
    grid = SIDE // PATCH
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(rng.integers(grid * grid - 1)), grid)
        if fixed and label == 0:
            row, column = CORNER
        image[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = [*COLOURS.values()][label]
    return images, labels


def train_marks(fixed: bool, steps: int = 150) -> tuple[ViTCustomForImageClassification, ViTCustomImageProcessor]:
    """Train a tiny classifier of the marks, in some CPU seconds."""
    config = ViTCustomConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=SIDE,
        patch_size=PATCH, id2label=dict(enumerate(COLOURS)), num_labels=len(COLOURS), initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ViTCustomForImageClassification(config)
        processor = ViTCustomImageProcessor.for_model(config)
        images, labels = marked_images(1200, fixed, seed=0)
        pixels = processor(list(torch.from_numpy(images).permute(0, 3, 1, 2)), return_tensors="pt")["pixel_values"]
        optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
        for step in range(steps):
            rows = torch.arange(step * 48, step * 48 + 48) % len(labels)
            loss = model(pixel_values=pixels[rows], labels=torch.from_numpy(labels)[rows]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval(), processor


def write_marks(folder, images: np.ndarray, labels: np.ndarray):
    """Write FOLDER/<class>/<n>.png."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / [*COLOURS][label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder
