"""The reference for Meta's `.pth` files: timm's models, filled by timm's own converters.

DeiT and MAE use timm's models; DINO, DINOv2 and DINOv3 have the same blocks. Positions at another size are resampled by
the rule of each repository, and images are prepared by its transforms. No table of ours is used. What the files do not
contain (number of heads, and the repository they come from) is taken from the conversion.

Shapes: B images, D width, h×w grid, P positions of prefix tokens.
"""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from math import isqrt
from typing import Any

import torch
from torch.nn.functional import linear

from .check import Reference
from .engine import ConversionError, State

# How the repositories resample positions, as arguments of torch's interpolate; `offset` is added to the grid.
_PLAIN: dict[str, Any] = {"mode": "bicubic"}
_OFFSET: dict[str, Any] = {"mode": "bicubic", "offset": 0.1}
_ANTIALIASED: dict[str, Any] = {"mode": "bicubic", "antialias": True}

# family: timm's model, its variant with a gated MLP, further arguments, how positions are resampled (None: rotary)
_MODELS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any] | None]] = {
    "meta_vit": ("deit_tiny_patch16_224", "", {}, _PLAIN),
    "meta_deit, distilled": ("deit_tiny_distilled_patch16_224", "", {}, _PLAIN),
    "meta_deit3": ("deit3_base_patch16_224", "", {}, _PLAIN),
    "meta_mae": ("vit_base_patch16_224", "", {}, _PLAIN),
    "meta_mae, fine-tuned": ("vit_base_patch16_224", "", {"global_pool": "avg"}, _PLAIN),
    "meta_dinov2": ("vit_small_patch14_dinov2", "vit_giant_patch14_dinov2", {}, _OFFSET),
    "meta_dinov2_with_registers": (
        "vit_small_patch14_reg4_dinov2", "vit_giant_patch14_reg4_dinov2", {}, _ANTIALIASED,
    ),
    "meta_dinov3": (
        "vit_small_patch16_dinov3_qkvb", "vit_small_plus_patch16_dinov3_qkvb", {"global_pool": "token"}, None,
    ),
}  # fmt: skip
_PRETRAINING = ("decoder_*", "head.mlp.*", "head.last_layer.*", "dino_head.*", "ibot_head.*", "local_cls_norm.*")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def reference_of(family: str, state: State, num_heads: int, side: int) -> Reference:
    """Build the reference of a file.

    state: its tensors under its own names, without chunk numbers of blocks.   side: side of the model's images.
    """
    import timm

    state = {name: tensor.float() for name, tensor in state.items()}

    def run(images: torch.Tensor) -> dict[str, torch.Tensor]:
        model = timm_model(family, state, num_heads, side, (images.shape[2], images.shape[3]))
        return outputs_of(model, state, images)

    by = f"timm {timm.__version__}, filled by its own converters; heads, and which repository this is of, are assumed"
    return Reference(by, run, transforms_of(family, side))


def timm_model(family: str, state: State, num_heads: int, side: int, size: tuple[int, int]) -> torch.nn.Module:
    """Build timm's model of this state for images of `size`.

    side: native image side; for another size, positions are resampled as the file's repository does.
    Raises ConversionError if the tensors do not fit.
    """
    import timm
    from timm.models import eva, vision_transformer

    plain, gated, options, rule = _MODELS[family]
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    packed, is_gated = "blocks.0.mlp.w12.weight" in state, "blocks.0.mlp.w3.weight" in state
    hidden = len(state[f"blocks.0.mlp.{'w12' if packed else 'w1' if is_gated else 'fc1'}.weight"])
    head = state.get("head.weight")
    arguments: dict[str, Any] = {
        "patch_size": patch, "embed_dim": width, "num_heads": num_heads, "mlp_ratio": hidden / width,
        "depth": sum(fnmatchcase(name, "blocks.*.norm1.weight") for name in state),
        "num_classes": 0 if head is None else len(head),
    }  # fmt: skip

    def create(image_size: tuple[int, int]) -> Any:
        name = gated if is_gated else plain
        model = timm.create_model(name, img_size=image_size, **arguments, **options)
        return model.eval().to(state["patch_embed.proj.weight"].dtype)

    model = create((side, side))
    given = {name: tensor.clone() for name, tensor in state.items() if not _is_beside_the_model(name)}
    if rule is None:
        loaded = eva.checkpoint_filter_fn(given, model)
    else:
        scaled = "blocks.0.gamma_1" in state
        loaded = vision_transformer.checkpoint_filter_fn(given, model, adapt_layer_scale=scaled)
    try:
        model.load_state_dict(loaded, strict=True)
        if rule is None or size == (side, side):
            return model
        other = create(size)
        positions = resampled(model.pos_embed, rule, (size[0] // patch, size[1] // patch))
        other.load_state_dict(model.state_dict() | {"pos_embed": positions}, strict=True)
    except RuntimeError as error:
        raise ConversionError(f"timm's model of the family {family} does not take these tensors: {error}") from error
    return other


def _is_beside_the_model(name: str) -> bool:
    return name.startswith("linear_head.") or any(fnmatchcase(name, pattern) for pattern in _PRETRAINING)


def resampled(table: torch.Tensor, rule: Mapping[str, Any], grid: tuple[int, int]) -> torch.Tensor:
    """Resample a position table [1, P + h·w, D] to another grid, P being 0, 1 or 2."""
    rule = dict(rule)
    offset = rule.pop("offset", 0)
    side = isqrt(table.shape[1])
    prefix, patches = table.split([table.shape[1] - side**2, side**2], dim=1)
    square = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # [1, D, h, w]
    target = {"scale_factor": tuple((n + offset) / side for n in grid)} if offset else {"size": grid}
    patches = torch.nn.functional.interpolate(square, **target, **rule)
    return torch.cat([prefix, patches.flatten(2).transpose(1, 2)], dim=1)


def outputs_of(model: Any, state: State, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Compute tokens and, with a classifier, logits, else the pooled vector.

    The input of `linear_head` of DINOv2 and DINOv3 is the class token ‖ the mean of the patches, cut to its width.
    """
    tokens = model.forward_features(images)
    outputs = {"tokens": tokens}
    if "linear_head.weight" in state:
        seen = torch.cat([tokens[:, 0], tokens[:, model.num_prefix_tokens :].mean(dim=1)], dim=1)
        seen = seen[:, : state["linear_head.weight"].shape[1]]
        outputs["logits"] = linear(seen, state["linear_head.weight"], state["linear_head.bias"])
    elif model.num_classes:
        outputs["logits"] = model.forward_head(tokens)
    else:
        outputs["pooled"] = model.forward_head(tokens)
    return outputs


def transforms_of(family: str, side: int) -> Callable[[Any], torch.Tensor]:
    """Build the evaluation transforms of the repository, from torchvision's transforms."""
    from torchvision.transforms import InterpolationMode, v2

    bilinear, bicubic = InterpolationMode.BILINEAR, InterpolationMode.BICUBIC
    if family == "meta_dinov3":
        steps: list[Any] = [v2.Resize((side, side), bilinear, antialias=True)]
    elif "dinov2" in family:
        steps = [v2.Resize(256, bicubic), v2.CenterCrop(224)]
    elif "mae" in family and side > 224:
        steps = [v2.Resize(side, bicubic), v2.CenterCrop(side)]
    else:
        steps = [v2.Resize(int(side * 256 / 224), bicubic), v2.CenterCrop(side)]
    last = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(_MEAN, _STD)]
    transform = v2.Compose([*steps, *last])
    return lambda pictures: torch.stack([transform(picture) for picture in pictures])
