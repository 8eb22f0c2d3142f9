"""The same Vision Transformer, with random weights, built by four libraries: ours, transformers, timm, torchvision.

Shapes: B batch, C channels, D width, M width of the MLP's hidden layer, N tokens, K classes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..configuration_vit_custom import VARIANTS, ViTCustomConfig
from ..engines.output import OutputOf
from ..modeling_vit_custom import ViTCustomForImageClassification


@dataclass(frozen=True)
class Shape:
    """Model size that all four can build: patch embedding, class token, learned positions, blocks, linear head."""

    name: str
    image: int
    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    classes: int = 1000

    @classmethod
    def of(cls, name: str) -> "Shape":
        """Parse a variant and its image size, such as "ti/16@224". Raises ValueError for any other text."""
        variant, _, image = name.partition("@")
        size, _, patch = variant.partition("/")
        if size not in VARIANTS or not (image.isdecimal() and patch.isdecimal()):
            raise ValueError(f"{name!r} is no shape: give VARIANT/PATCH@PIXELS, such as ti/16@224.")
        width, depth, heads, hidden, _ = VARIANTS[size]
        return cls(name, int(image), int(patch), width, depth, heads, hidden)

    @property
    def fields(self) -> dict[str, Any]:
        """Configuration fields, the same for ours and transformers."""
        return {
            "image_size": self.image, "patch_size": self.patch, "hidden_size": self.width, "num_labels": self.classes,
            "num_hidden_layers": self.depth, "num_attention_heads": self.heads, "intermediate_size": self.hidden,
        }  # fmt: skip

    @property
    def tokens(self) -> int:
        return (self.image // self.patch) ** 2 + 1

    def products(self, batch: int) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
        """Return the matrix products of a forward: (count, shape of a, shape of b) each."""
        n, d, m, h = self.tokens, self.width, self.hidden, self.heads
        rows = batch * n
        return [
            (1, (rows - batch, 3 * self.patch**2), (3 * self.patch**2, d)),
            (4 * self.depth, (rows, d), (d, d)),
            (self.depth, (rows, d), (d, m)),
            (self.depth, (rows, m), (m, d)),
            (self.depth, (batch * h, n, d // h), (batch * h, d // h, n)),
            (self.depth, (batch * h, n, n), (batch * h, n, d // h)),
        ]

    def operations(self, batch: int) -> int:
        """Return the FLOPs of all these products."""
        return sum(count * product_operations(a, b) for count, a, b in self.products(batch))


def product_operations(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Return the FLOPs of one matrix product, two for each multiplication."""
    return 2 * math.prod(a) * b[-1]


def ours(shape: Shape) -> nn.Module:
    return OutputOf(ViTCustomForImageClassification(ViTCustomConfig(**shape.fields)), "logits")


def transformers_vit(shape: Shape) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return OutputOf(ViTForImageClassification(ViTConfig(**shape.fields)), "logits")


def timm_vit(shape: Shape) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=shape.image, patch_size=shape.patch, num_classes=shape.classes, embed_dim=shape.width,
        depth=shape.depth, num_heads=shape.heads, mlp_ratio=shape.hidden / shape.width,
    )  # fmt: skip


def torchvision_vit(shape: Shape) -> nn.Module:
    from torchvision.models import VisionTransformer

    model: Any = VisionTransformer(
        image_size=shape.image, patch_size=shape.patch, num_layers=shape.depth, num_heads=shape.heads,
        hidden_dim=shape.width, mlp_dim=shape.hidden, num_classes=shape.classes,
    )  # fmt: skip
    nn.init.normal_(model.heads.head.weight, std=0.02)  # torchvision starts at zero: all logits would be equal
    return model


LIBRARIES: dict[str, Callable[[Shape], nn.Module]] = {
    "ours": ours,
    "transformers": transformers_vit,
    "timm": timm_vit,
    "torchvision": torchvision_vit,
}
