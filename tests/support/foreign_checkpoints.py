"""Tiny checkpoints saved by other libraries, with random parameters, for images of 8x8 pixels."""

from pathlib import Path

import numpy as np
import torch
from flax_vit import Spec, random_arrays
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTForImageClassification, ViTImageProcessor

NETWORK = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "mlp_ratio": 2,
    "image_size": 8, "patch_size": 4,
}  # fmt: skip


def save_vit(folder: Path, labels: list[str]) -> Path:
    """Save transformers' ViT classifier with its image processor."""
    return save(ViTForImageClassification(ViTConfig(**NETWORK, id2label=dict(enumerate(labels)))), folder)


def save_encoder(folder: Path) -> Path:
    """Save transformers' DINOv2, which has no head."""
    return save(Dinov2Model(Dinov2Config(**NETWORK)), folder)


def save(model, folder: Path) -> Path:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)
    return folder


def save_npz(path: Path, **spec) -> Path:
    """Write a file in Google's layout: two classes, heads of 8; `spec` holds fields of flax_vit.Spec."""
    small = {"width": 16, "heads": 2, "mlp": 24, "depth": 2, "patch": 4, "side": 8, "classes": 2}
    np.savez(path, **random_arrays(Spec(**{**small, **spec})))
    return path
