"""torchvision's `vit_*`, as state dicts. A state dict contains neither the number of heads nor the preprocessing.

Shapes: B images, C channels, D width, N tokens, h×w grid.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torchvision
from PIL import Image
from torchvision.models.vision_transformer import interpolate_embeddings

from .check import Reference, outputs_of
from .engine import ConversionError, State, Table, folded_positions, packed, same
from .family import Family, Settings, Source, resolve
from .preprocessing import BICUBIC, BILINEAR, IMAGENET, documented, image_side, resize_and_crop

_BLOCK, _OURS = "encoder.layers.encoder_layer_{i}", "vit.layers.{i}"


# our name: torchvision's name, and its name in files of 2022 and before
_MLP = {"fc1": ("0", "linear_1"), "fc2": ("3", "linear_2")}
TABLE = Table(
    [
        same("vit.embeddings.patch_embeddings.projection.{p}", "conv_proj.{p}"),
        folded_positions(
            [("vit.embeddings.cls_token", "class_token")],
            "vit.embeddings.position_embeddings",
            "encoder.pos_embedding",
        ),
        same(f"{_OURS}.layernorm_before.{{p}}", f"{_BLOCK}.ln_1.{{p}}"),
        *(
            packed([f"{_OURS}.attention.{name}_proj.{p}" for name in "qkv"], f"{_BLOCK}.self_attention.in_proj_{p}")
            for p in ("weight", "bias")
        ),
        same(f"{_OURS}.attention.o_proj.{{p}}", f"{_BLOCK}.self_attention.out_proj.{{p}}"),
        same(f"{_OURS}.layernorm_after.{{p}}", f"{_BLOCK}.ln_2.{{p}}"),
        *(
            same(f"{_OURS}.mlp.{ours}.{{p}}", f"{_BLOCK}.mlp.{name}.{{p}}")
            for ours, names in _MLP.items()
            for name in names
        ),
        same("vit.layernorm.{p}", "encoder.ln.{p}"),
        same("pre_logits.0.{p}", "heads.pre_logits.{p}"),
        same("classifier.{p}", "heads.head.{p}"),
    ]
)
_FIELDS = (
    "image_size", "num_attention_heads", "layer_norm_eps", "hidden_dropout_prob", "attention_probs_dropout_prob",
    "hidden_act", "id2label",
)  # fmt: skip
_HEADS = {1280: 16}  # vit_h_14; all others have heads of size 64


def config_of(model: Any) -> dict[str, Any]:
    """Read our configuration fields from a live `torchvision.models.VisionTransformer`, beyond its tensors."""
    block = model.encoder.layers[0]
    return {
        "image_size": model.image_size,
        "num_attention_heads": block.num_heads,
        "layer_norm_eps": block.ln_1.eps,
        "hidden_dropout_prob": model.dropout,
        "attention_probs_dropout_prob": model.attention_dropout,
    }


def processor_of(transforms: Any) -> dict[str, Any]:
    """Read image processor settings from the `ImageClassification` preset of a weights entry (`transforms()`)."""
    resample = {"bilinear": BILINEAR, "bicubic": BICUBIC}[transforms.interpolation.value]
    colours = {"image_mean": list(transforms.mean), "image_std": list(transforms.std)}
    sizes = (transforms.resize_size[0], transforms.crop_size[0])
    settings, _ = resize_and_crop(colours, resample, lambda side: sizes, rounding="round_crop")(sizes[1])
    return settings


def _settings(source: Source, tensors: State) -> Settings:
    given = {**source.config, **source.flags}
    defaults: dict[str, Any] = {"hidden_act": "gelu", "layer_norm_eps": 1e-6}
    width = tensors["vit.embeddings.patch_embeddings.projection.weight"].shape[0]
    if width in _HEADS:
        defaults["num_attention_heads"] = _HEADS[width]
    fields, notes = resolve(given, {name: name for name in _FIELDS}, defaults, "torchvision")
    fields["position_interpolation"] = "bicubic_align_corners"
    prepare = _SWAG if image_side(source, tensors) > 224 else _V1  # only the SWAG weights have larger images
    processor, said = documented(prepare, source, tensors, "most of torchvision's weights, not all, do so")
    return Settings(fields, processor, notes + said)


_V1 = resize_and_crop(IMAGENET, BILINEAR, lambda side: (round(side * 256 / 224), side), rounding="round_crop")
_SWAG = resize_and_crop(IMAGENET, BICUBIC, lambda side: (side, side), rounding="round_crop")

FAMILIES = [Family("torchvision", ("encoder.layers.encoder_layer_*", "class_token"), (), TABLE, _settings)]


def reference_of(model: Any, prepare: Callable[[Image.Image], torch.Tensor]) -> Reference:
    """Build the reference of a `torchvision.models.VisionTransformer`.

    prepare: one picture → [C, H, W], as its weights are evaluated.

    Its forward takes the native size only. For another size its modules are called one by one: square images with
    positions from torchvision's `interpolate_embeddings`, others by the same rule, which torchvision has for squares
    only.
    """
    own = (model.image_size, model.image_size)

    def run(images: torch.Tensor) -> dict[str, torch.Tensor]:
        if tuple(images.shape[2:]) == own:
            with outputs_of(model.encoder) as seen:
                logits = model(images)
            return {"tokens": seen[-1], "logits": logits}
        tokens = model.conv_proj(images).flatten(2).transpose(1, 2)  # [B, N, D]
        tokens = torch.cat([model.class_token.expand(len(images), -1, -1), tokens], dim=1)
        grid = (images.shape[2] // model.patch_size, images.shape[3] // model.patch_size)
        tokens = model.encoder.layers(tokens + resampled(model.encoder.pos_embedding, *grid))
        tokens = model.encoder.ln(tokens)
        return {"tokens": tokens, "logits": model.heads(tokens[:, 0])}

    by = f"torchvision {torchvision.__version__}, at other sizes by its interpolate_embeddings"
    return Reference(by, run, lambda pictures: torch.stack([prepare(picture) for picture in pictures]))


def resampled(table: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resample positions [1, 1 + N, D] to a grid of height×width patches."""
    if height == width:
        return interpolate_embeddings(height, 1, OrderedDict({"encoder.pos_embedding": table}))["encoder.pos_embedding"]
    side = math.isqrt(table.shape[1])
    cls, patches = table.split([1, side * side], dim=1)
    square = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # [1, D, h, w]
    patches = torch.nn.functional.interpolate(square, (height, width), mode="bicubic", align_corners=True)
    return torch.cat([cls, patches.flatten(2).transpose(1, 2)], dim=1)


def reference_of_state(state: State, config: Any, prepare: Callable[[Image.Image], torch.Tensor]) -> Reference:
    """Build the reference from a file's tensors; the number of heads and eps are taken from our `config`."""
    pre_logits = state.get("heads.pre_logits.weight")
    model = torchvision.models.VisionTransformer(
        image_size=config.image_hw[0],
        patch_size=config.patch_hw[0],
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        hidden_dim=config.hidden_size,
        mlp_dim=config.intermediate_size,
        num_classes=config.num_labels,
        representation_size=None if pre_logits is None else len(pre_logits),
        norm_layer=partial(torch.nn.LayerNorm, eps=config.layer_norm_eps),
    )
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ConversionError(f"torchvision's model does not take these tensors: {error}") from error
    return reference_of(model.eval(), prepare)


def assumed_transforms(side: int) -> Any:
    """Return the evaluation transforms of torchvision's own weights for images of `side`; above 224, those of SWAG."""
    weights = torchvision.models.ViT_B_16_Weights
    if side > 224:
        return weights.IMAGENET1K_SWAG_E2E_V1.transforms(crop_size=side, resize_size=side)
    return weights.IMAGENET1K_V1.transforms(crop_size=side, resize_size=round(side * 256 / 224))
