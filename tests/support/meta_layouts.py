"""The contents of `.pth` files of Meta's repositories, with random numbers.

Shapes: D width, M hidden width of the MLP, p patch side, h×w grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch

from modeling_vit_custom.conversion import meta_reference


@dataclass(frozen=True)
class Layout:
    """The layout of one kind of file.

    prefix: prefix tokens in order, with their number. slots: how many of them have a row in the position table.
    mlp: names of the MLP's layers. scale: name of LayerScale, {} is its number. rotary: positions are rotary.
    others: shapes of tensors that our model does not use.
    """

    family: str
    prefix: Mapping[str, int] = field(default_factory=lambda: {"cls_token": 1})
    slots: int = 1
    mlp: tuple[str, ...] = ("fc1", "fc2")
    scale: str = ""
    norm: str = "norm"
    heads: tuple[str, ...] = ("head",)
    rotary: bool = False
    others: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    width: int = 32
    num_heads: int = 4
    hidden: int = 48
    depth: int = 3
    patch: int = 8
    side: int = 32
    classes: int = 5

    @property
    def grid(self) -> int:
        return self.side // self.patch


MASK = {"mask_token": (1, 32)}
DECODER = {"decoder_pos_embed": (1, 17, 16), "decoder_blocks.0.attn.qkv.weight": (48, 16), "decoder_pred.bias": (192,)}
DINO: dict[str, Any] = {"scale": "ls{}.gamma", "heads": ()}
DINOV3 = DINO | {"prefix": {"cls_token": 1, "storage_tokens": 4}, "slots": 0, "rotary": True, "others": MASK}
B16: dict[str, Any] = {"width": 768, "num_heads": 12, "hidden": 3072, "depth": 12, "patch": 16, "side": 224}

# The family of a layout is its name up to the slash.
LAYOUTS = {
    "meta_vit": Layout("meta_vit"),
    "meta_vit/dino, mae encoder": Layout("meta_vit", heads=()),
    "meta_deit, distilled": Layout(
        "meta_deit, distilled", {"cls_token": 1, "dist_token": 1}, slots=2, heads=("head", "head_dist")
    ),
    "meta_deit3": Layout("meta_deit3", scale="gamma_{}", slots=0),
    "meta_mae": Layout("meta_mae", heads=(), others={"mask_token": (1, 1, 32), **DECODER}),
    "meta_mae, fine-tuned": Layout("meta_mae, fine-tuned", norm="fc_norm"),
    "meta_dinov2": Layout("meta_dinov2", others=MASK, **DINO),
    "meta_dinov2/swiglu": Layout("meta_dinov2", mlp=("w12", "w3"), others=MASK, **DINO),
    "meta_dinov2_with_registers": Layout(
        "meta_dinov2_with_registers", {"cls_token": 1, "register_tokens": 4}, others=MASK, **DINO
    ),
    "meta_dinov3": Layout("meta_dinov3", **DINOV3),
    "meta_dinov3/swiglu": Layout("meta_dinov3", mlp=("w1", "w2", "w3"), **DINOV3),
    "meta_vit/full size": Layout("meta_vit", **{**B16, "classes": 1000}),
    "meta_dinov2/full size": Layout("meta_dinov2", others={"mask_token": (1, 768)}, **DINO, **B16),
}


def random_state(layout: Layout) -> dict[str, torch.Tensor]:
    """Return every tensor of a file in float64 with random values, norms and biases too."""
    d, m = layout.width, layout.hidden
    shapes: dict[str, tuple[int, ...]] = dict(layout.others)

    def linear(name: str, before: int, after: int):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (after, before), (after,)

    shapes["patch_embed.proj.weight"], shapes["patch_embed.proj.bias"] = (d, 3, layout.patch, layout.patch), (d,)
    for name, count in layout.prefix.items():
        shapes[name] = (1, count, d)
    if not layout.rotary:
        shapes["pos_embed"] = (1, layout.slots + layout.grid**2, d)
    for i in range(layout.depth):
        block = f"blocks.{i}"
        linear(f"{block}.attn.qkv", d, 3 * d)
        linear(f"{block}.attn.proj", d, d)
        for name in layout.mlp:
            is_last = name == layout.mlp[-1]
            linear(f"{block}.mlp.{name}", m if is_last else d, d if is_last else 2 * m if name == "w12" else m)
        vectors = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")
        scales = (layout.scale.format(1), layout.scale.format(2)) if layout.scale else ()
        shapes |= {f"{block}.{name}": (d,) for name in (*vectors, *scales)}
    shapes[f"{layout.norm}.weight"] = shapes[f"{layout.norm}.bias"] = (d,)
    for name in layout.heads:
        linear(name, d, layout.classes)
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        scale = prod(shape[1:]) ** -0.5 if len(shape) in (2, 4) else 0.5
        state[name] = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
    if layout.rotary:
        quarter = d // layout.num_heads // 4
        state["rope_embed.periods"] = 100.0 ** (torch.arange(quarter) / quarter)
        mask = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64).repeat_interleave(d)
        state |= {f"blocks.{i}.attn.qkv.bias_mask": mask.clone() for i in range(layout.depth)}
    return state


def timm_model(layout: Layout, state: Mapping[str, torch.Tensor], size: tuple[int, int]) -> torch.nn.Module:
    """Return timm's model of this state for images of `size`, positions resampled by the rule of the repository."""
    return meta_reference.timm_model(layout.family, state, layout.num_heads, layout.side, size)
