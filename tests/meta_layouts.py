"""What the `.pth` files of Meta's repositories hold, and timm's models of them, which timm's own converters fill.

Shapes: D width, M hidden width of the MLP, p patch side, h×w grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isqrt, prod
from typing import Any

import timm
import torch
from timm.models import eva, vision_transformer

# How repositories resample positions, as arguments of torch's interpolation; `offset` is added to the grid.
DEIT_RULE = {"mode": "bicubic"}
DINOV2_RULE = {"mode": "bicubic", "offset": 0.1}
REGISTERS_RULE = {"mode": "bicubic", "antialias": True}


@dataclass(frozen=True)
class Layout:
    """prefix: prefix tokens in order, with their number.   slots: how many have a place in the position table.

    mlp: names of the MLP's layers.   scale: name of LayerScale, {} its number.   rule: None for rotary positions.
    others: shapes of what has no place in our model.   options: of timm's model.
    """

    timm_name: str
    prefix: Mapping[str, int] = field(default_factory=lambda: {"cls_token": 1})
    slots: int = 1
    mlp: tuple[str, ...] = ("fc1", "fc2")
    scale: str = ""
    norm: str = "norm"
    heads: tuple[str, ...] = ("head",)
    rule: Mapping[str, Any] | None = field(default_factory=lambda: DEIT_RULE)
    others: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
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
DINOV3 = DINO | {"prefix": {"cls_token": 1, "storage_tokens": 4}, "slots": 0, "rule": None, "others": MASK}
B16: dict[str, Any] = {"width": 768, "num_heads": 12, "hidden": 3072, "depth": 12, "patch": 16, "side": 224}

# The family of a layout is its name up to a slash.
LAYOUTS = {
    "meta_vit": Layout("deit_tiny_patch16_224"),
    "meta_vit/dino, mae encoder": Layout("deit_tiny_patch16_224", heads=()),
    "meta_deit, distilled": Layout(
        "deit_tiny_distilled_patch16_224", {"cls_token": 1, "dist_token": 1}, slots=2, heads=("head", "head_dist")
    ),
    "meta_deit3": Layout("deit3_base_patch16_224", scale="gamma_{}", slots=0),
    "meta_mae": Layout("vit_base_patch16_224", heads=(), others={"mask_token": (1, 1, 32), **DECODER}),
    "meta_mae, fine-tuned": Layout("vit_base_patch16_224", norm="fc_norm", options={"global_pool": "avg"}),
    "meta_dinov2": Layout("vit_small_patch14_dinov2", rule=DINOV2_RULE, others=MASK, **DINO),
    "meta_dinov2/swiglu": Layout(
        "vit_giant_patch14_dinov2", rule=DINOV2_RULE, mlp=("w12", "w3"), others=MASK, options={"mlp_ratio": 3.0}, **DINO
    ),
    "meta_dinov2_with_registers": Layout(
        "vit_small_patch14_reg4_dinov2",
        {"cls_token": 1, "register_tokens": 4},
        rule=REGISTERS_RULE,
        others=MASK,
        **DINO,
    ),
    "meta_dinov3": Layout("vit_small_patch16_dinov3_qkvb", **DINOV3),
    "meta_dinov3/swiglu": Layout("vit_small_plus_patch16_dinov3_qkvb", mlp=("w1", "w2", "w3"), **DINOV3),
    "meta_vit/full size": Layout("deit_tiny_patch16_224", **{**B16, "classes": 1000}),
    "meta_dinov2/full size": Layout(
        "vit_small_patch14_dinov2", rule=DINOV2_RULE, others={"mask_token": (1, 768)}, **DINO, **B16
    ),
}


def random_state(layout: Layout) -> dict[str, torch.Tensor]:
    """Every tensor of a file in float64, random, norms and biases too."""
    d, m = layout.width, layout.hidden
    shapes: dict[str, tuple[int, ...]] = dict(layout.others)

    def linear(name: str, before: int, after: int):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (after, before), (after,)

    shapes["patch_embed.proj.weight"], shapes["patch_embed.proj.bias"] = (d, 3, layout.patch, layout.patch), (d,)
    for name, count in layout.prefix.items():
        shapes[name] = (1, count, d)
    if layout.rule is not None:
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
    if layout.rule is None:
        quarter = d // layout.num_heads // 4
        state["rope_embed.periods"] = 100.0 ** (torch.arange(quarter) / quarter)
        mask = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64).repeat_interleave(d)
        state |= {f"blocks.{i}.attn.qkv.bias_mask": mask.clone() for i in range(layout.depth)}
    return state


def timm_model(layout: Layout, state: Mapping[str, torch.Tensor], size: tuple[int, int]) -> torch.nn.Module:
    """timm's model of this state, for images of `size`: positions resampled by the rule of the repository."""
    rotary = layout.rule is None
    options: dict[str, Any] = {"mlp_ratio": layout.hidden / layout.width, **layout.options}
    if rotary:
        options["global_pool"] = "token"

    def create(image_size):
        return timm.create_model(
            layout.timm_name, img_size=image_size, patch_size=layout.patch, embed_dim=layout.width,
            depth=layout.depth, num_heads=layout.num_heads, num_classes=layout.classes if layout.heads else 0,
            **options,
        ).eval().double()  # fmt: skip

    model = create((layout.side, layout.side))
    given = {name: tensor.clone() for name, tensor in state.items() if not name.startswith("decoder_")}
    if rotary:
        loaded = eva.checkpoint_filter_fn(given, model)
    else:
        loaded = vision_transformer.checkpoint_filter_fn(given, model, adapt_layer_scale="gamma" in layout.scale)
    model.load_state_dict(loaded, strict=True)
    if rotary or size == (layout.side, layout.side):
        return model
    grid = (size[0] // layout.patch, size[1] // layout.patch)
    other = create(size)
    other.load_state_dict(model.state_dict() | {"pos_embed": resampled(model.pos_embed, layout, grid)}, strict=True)
    return other


def resampled(table: torch.Tensor, layout: Layout, grid: tuple[int, int]) -> torch.Tensor:
    """A position table [1, slots + h·w, D] for another grid, as the repository resamples it."""
    rule = dict(layout.rule or {})
    offset = rule.pop("offset", 0)
    slots, patches = table.split([table.shape[1] - layout.grid**2, layout.grid**2], dim=1)
    side = isqrt(patches.shape[1])
    square = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # [1, D, h, w]
    target = {"scale_factor": tuple((n + offset) / side for n in grid)} if offset else {"size": grid}
    patches = torch.nn.functional.interpolate(square, **target, **rule)
    assert patches.shape[2:] == grid
    return torch.cat([slots, patches.flatten(2).transpose(1, 2)], dim=1)
