"""Tiny saved checkpoints for tests of evaluation and prediction: ours and transformers' own."""

from pathlib import Path

import torch
from tiny import TINY
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from modeling_vit_custom import ViTCustomConfig, ViTCustomForImageClassification
from modeling_vit_custom.image_processing_vit_custom import ViTCustomImageProcessor

DIGITS = {i: str(i) for i in range(10)}


def save_ours(folder: Path, seed: int = 0, **fields) -> Path:
    """Save a ViTCustomForImageClassification with random parameters; its head is scaled up, so that classes differ."""
    if "num_labels" not in fields:
        fields = {"id2label": DIGITS, "num_labels": 10, **fields}
    config = ViTCustomConfig(**{**TINY, "num_channels": 1, **fields})
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = ViTCustomForImageClassification(config)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        if config.num_labels:
            model.classifier.weight.mul_(5)
    model.save_pretrained(folder)
    ViTCustomImageProcessor.for_model(config).save_pretrained(folder)
    return folder


def save_transformers_vit(folder: Path) -> Path:
    """Save transformers' own ViT classifier, whose base model has no pooler."""
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16,
        patch_size=8, num_labels=10, id2label=DIGITS,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def save_resnet(folder: Path) -> Path:
    """Save a convolutional network: its processor keeps the aspect ratio, its pooled maps are [B, D, 1, 1]."""
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=10, id2label=DIGITS)
    ResNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"shortest_edge": 32}).save_pretrained(folder)
    return folder
