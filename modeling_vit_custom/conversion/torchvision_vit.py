"""torchvision's `vit_*`, as state dicts. A state dict of torchvision's says neither its heads nor its preprocessing."""

from typing import Any

import torch

from .check import Reference
from .engine import State, Table, folded_positions, packed, same
from .family import Family, Settings, Source, resolve
from .preprocessing import BICUBIC, BILINEAR, IMAGENET, documented, image_side, resize_and_crop

_BLOCK, _OURS = "encoder.layers.encoder_layer_{i}", "vit.layers.{i}"


# by our name: the one in files, and the one in files of 2022 and before
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
_HEADS = {1280: 16}  # of vit_h_14; the others have heads of 64


def config_of(model: Any) -> dict[str, Any]:
    """What a live `torchvision.models.VisionTransformer` tells beside its tensors, as our fields."""
    block = model.encoder.layers[0]
    return {
        "image_size": model.image_size,
        "num_attention_heads": block.num_heads,
        "layer_norm_eps": block.ln_1.eps,
        "hidden_dropout_prob": model.dropout,
        "attention_probs_dropout_prob": model.attention_dropout,
    }


def processor_of(transforms: Any) -> dict[str, Any]:
    """Image processor settings from the `ImageClassification` preset of a weights entry, `weights.transforms()`."""
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
    prepare = _SWAG if image_side(source, tensors) > 224 else _V1  # only the SWAG weights are larger
    processor, said = documented(prepare, source, tensors, "most of torchvision's weights, not all, do so")
    return Settings(fields, processor, notes + said)


_V1 = resize_and_crop(IMAGENET, BILINEAR, lambda side: (round(side * 256 / 224), side), rounding="round_crop")
_SWAG = resize_and_crop(IMAGENET, BICUBIC, lambda side: (side, side), rounding="round_crop")

FAMILIES = [Family("torchvision", ("encoder.layers.encoder_layer_*", "class_token"), (), TABLE, _settings)]


def reference_of(model: Any, transforms: Any) -> Reference:
    """The live model, which takes its own size only, with the preprocessing of its weights."""
    prepare = lambda pictures: torch.stack([transforms(picture) for picture in pictures])  # noqa: E731
    return Reference(lambda images: {"logits": model(images)}, prepare, any_size=False)
