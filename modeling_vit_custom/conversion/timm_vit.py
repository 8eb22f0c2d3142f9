"""timm's plain Vision Transformers (`VisionTransformer`, `VisionTransformerDistilled`, and `Eva` with DINOv3's rotary
positions). Settings come from the live model; parts that our architecture lacks are refused by name.
"""

from functools import partial
from typing import Any

import torch
from torch import nn

from .check import Reference
from .engine import ConversionError, Row, State, Table, averaged_heads, folded_positions, packed, same
from .family import Family, Settings, Source

_ACTIVATIONS = {
    "GELU": "gelu",
    "GELUTanh": "gelu_pytorch_tanh",
    "QuickGELU": "quick_gelu",
    "SiLU": "silu",
    "ReLU": "relu",
}
POOLINGS = {"token": "cls", "avg": "mean", "map": "map"}
_MODELS = ("VisionTransformer", "VisionTransformerDistilled", "Eva")
_BLOCKS = ("Block", "EvaBlock")
_ATTENTIONS = ("Attention", "EvaAttention")
_MLPS = ("Mlp", "GluMlp", "SwiGLU", "SwiGLUPacked")
_STEMS = ("PatchEmbed",)
# class of a part that our architecture lacks -> description
_FOREIGN = {
    "VisionTransformerRelPos": "relative positions",
    "Beit": "BEiT, with relative positions",
    "NaFlexVit": "NaFlex, which packs images of several sizes",
    "VisionTransformerSAM": "Segment Anything's encoder, with windows and relative positions",
    "HybridEmbed": "a convolutional network before the patches (hybrid)",
    "ParallelScalingBlock": "blocks with attention and MLP side by side",
    "DiffParallelScalingBlock": "blocks with differential attention and MLP side by side",
    "ParallelThingsBlock": "blocks with several attentions and MLPs side by side",
    "ResPostBlock": "blocks with norms after their branches",
    "EvaBlockPostNorm": "blocks with norms after their branches",
    "DiffAttention": "differential attention",
    "AttentionRope": "rotary positions of RoPE-ViT's or Sapiens' kind",
}
RESAMPLING = {"bilinear": 2, "bicubic": 3, "nearest": 0, "lanczos": 1}


def family_of(model: Any) -> Family:
    """Return the family that converts this timm model. Raises ConversionError naming an unsupported part."""
    refuse_unknown_parts(model)
    return Family("timm", (), (), table_of(model), partial(_settings, model))


def refuse_unknown_parts(model: Any) -> None:
    """Raise ConversionError unless our architecture supports every part of the model."""
    kinds: list[tuple[str, tuple[str, ...]]] = [(type(model).__name__, _MODELS)]
    for block in getattr(model, "blocks", []):
        kinds += [(type(block).__name__, _BLOCKS)]
        if kinds[-1][0] in _BLOCKS:
            kinds += [(type(block.attn).__name__, _ATTENTIONS), (type(block.mlp).__name__, _MLPS)]
    kinds += [(type(getattr(model, "patch_embed", None)).__name__, _STEMS)]
    for kind, known in kinds:
        if kind not in known:
            what = _FOREIGN.get(kind, f"{kind}, which is none of {', '.join(known)}")
            raise ConversionError(f"{what}: no place in this architecture.")
    block, rope = model.blocks[0], getattr(model, "rope", None)
    refused = {
        "norms other than layer norm": not isinstance(block.norm1, nn.LayerNorm),
        "norms inside attention or MLP": any(_is_norm(getattr(part, "norm", None)) for part in (block.attn, block.mlp)),
        f"pooling {model.global_pool!r}": model.global_pool not in (*POOLINGS, ""),
        "pooling that includes prefix tokens": bool(getattr(model, "pool_include_prefix", False))
        or (type(model).__name__ == "Eva" and model.global_pool == "map" and model.num_prefix_tokens > 0),
        f"rotary positions of kind {type(rope).__name__}": rope is not None and not _is_dinov3_rope(rope, block.attn),
        "heads of a width of their own": block.attn.num_heads * block.attn.head_dim != model.embed_dim,
    }
    if said := [what for what, here in refused.items() if here]:
        raise ConversionError(f"{', '.join(said)}: no place in this architecture.")


def _is_dinov3_rope(rope: Any, attention: Any) -> bool:
    return type(rope).__name__ == "RotaryEmbeddingDinoV3" and attention.rotate_half


def table_of(model: Any) -> Table:
    """Build the conversion table of this model's tensors."""
    prefix = [
        (f"vit.embeddings.{ours}", theirs)
        for ours, theirs in (
            ("cls_token", "cls_token"),
            ("register_tokens", "reg_token"),
            ("register_tokens", "dist_token"),
        )
        if getattr(model, theirs, None) is not None
    ]
    positions = ("vit.embeddings.position_embeddings", "pos_embed")
    in_table = not getattr(model, "no_embed_class", False)
    embeddings = [folded_positions(prefix, *positions)] if in_table and model.pos_embed is not None else []
    embeddings += [same(*names) for names in (*prefix, positions)]
    block, ours = "blocks.{i}", "vit.layers.{i}"
    qkv = [f"{ours}.attention.{name}_proj" for name in "qkv"]
    rows = [
        same("vit.embeddings.patch_embeddings.projection.{p}", "patch_embed.proj.{p}"),
        *embeddings,
        same("vit.embeddings.layernorm.{p}", "norm_pre.{p}"),
        same(f"{ours}.layernorm_before.{{p}}", f"{block}.norm1.{{p}}"),
        packed([f"{name}.{{p}}" for name in qkv], f"{block}.attn.qkv.{{p}}"),
        same(f"{qkv[0]}.bias", f"{block}.attn.q_bias"),
        same(f"{qkv[2]}.bias", f"{block}.attn.v_bias"),
        *(same(f"{name}.{{p}}", f"{block}.attn.{part}_proj.{{p}}") for name, part in zip(qkv, "qkv", strict=True)),
        *(same(f"{ours}.attention.{name}.{{p}}", f"{block}.attn.{name}.{{p}}") for name in ("q_norm", "k_norm")),
        same(f"{ours}.attention.o_proj.{{p}}", f"{block}.attn.proj.{{p}}"),
        *(
            same(f"{ours}.layer_scale{k}.lambda1", f"{block}.{name}")
            for k in "12"
            for name in (f"ls{k}.gamma", f"gamma_{k}")
        ),
        same(f"{ours}.layernorm_after.{{p}}", f"{block}.norm2.{{p}}"),
        *_mlp_rows(model.blocks[0].mlp, f"{ours}.mlp", f"{block}.mlp"),
        same("vit.layernorm.{p}", "norm.{p}"),
        same("vit.pooler.layernorm.{p}", "fc_norm.{p}"),
        *_map_rows("vit.pooler.attention_pooling", "attn_pool"),
        averaged_heads("head", "head_dist"),
        same("classifier.{p}", "head.{p}"),
    ]
    zero = ["vit.embeddings.patch_embeddings.projection.bias", "vit.layers.*.attention.?_proj.bias"]
    return Table(rows, zero=zero)


def _mlp_rows(mlp: Any, ours: str, theirs: str) -> list[Row]:
    kind = type(mlp).__name__
    if kind == "Mlp":
        return [same(f"{ours}.{name}.{{p}}", f"{theirs}.{name}.{{p}}") for name in ("fc1", "fc2")]
    gate, up, down = (f"{ours}.{name}_proj.{{p}}" for name in ("gate", "up", "down"))
    last = same(down, f"{theirs}.fc2.{{p}}")
    if kind == "SwiGLU":
        return [same(gate, f"{theirs}.fc1_g.{{p}}"), same(up, f"{theirs}.fc1_x.{{p}}"), last]
    return [packed([up, gate] if mlp.gate_last else [gate, up], f"{theirs}.fc1.{{p}}"), last]


def _map_rows(ours: str, theirs: str) -> list[Row]:
    attention = f"{ours}.attention"
    return [
        same(f"{ours}.query", f"{theirs}.latent"),
        same(f"{attention}.q_proj.{{p}}", f"{theirs}.q.{{p}}"),
        packed([f"{attention}.{name}_proj.{{p}}" for name in "kv"], f"{theirs}.kv.{{p}}"),
        same(f"{attention}.o_proj.{{p}}", f"{theirs}.proj.{{p}}"),
        same(f"{ours}.layernorm.{{p}}", f"{theirs}.norm.{{p}}"),
        *(same(f"{ours}.mlp.{name}.{{p}}", f"{theirs}.mlp.{name}.{{p}}") for name in ("fc1", "fc2")),
    ]


def _settings(model: Any, source: Source, tensors: State) -> Settings:
    block, norms = model.blocks[0], [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    if len({norm.eps for norm in norms}) > 1:
        raise ConversionError(f"layer norms of several eps ({sorted({norm.eps for norm in norms})}) in one model.")
    height, width = model.patch_embed.img_size
    fields: dict[str, Any] = {
        "num_attention_heads": block.attn.num_heads,
        "hidden_act": _activation(block.mlp.act),
        "layer_norm_eps": norms[0].eps,
        "image_size": height if height == width else (height, width),
        "position_interpolation": "bicubic_antialias",
        "pooling": POOLINGS.get(model.global_pool, "cls" if model.cls_token is not None else "mean"),
        "final_norm": "pooled" if _is_norm(model.fc_norm) else "tokens" if _is_norm(model.norm) else "none",
        "rope_theta": None if getattr(model, "rope", None) is None else float(model.rope.temperature),
    }
    if getattr(model, "head_dist", None) is not None:
        fields["pooling"] = "cls_register"
    labels, notes = labels_of(model)
    fields |= {"id2label": labels} if labels else {}
    return Settings(fields, processor_settings(model.pretrained_cfg, model.patch_embed.img_size), notes)


def _is_norm(module: nn.Module | None) -> bool:
    return isinstance(module, nn.LayerNorm)


def _activation(module: nn.Module) -> str:
    name = type(module).__name__
    if name == "GELU" and getattr(module, "approximate", "none") == "tanh":
        name = "GELUTanh"
    if name not in _ACTIVATIONS:
        raise ConversionError(f"the activation {name} is unknown; known are {', '.join(_ACTIVATIONS)}.")
    return _ACTIVATIONS[name]


def processor_settings(config: Any, image_hw: tuple[int, int]) -> dict[str, Any]:
    """Read image processor settings from timm's `pretrained_cfg`: resize by crop_pct and crop_mode, then normalise.

    Raises ConversionError for a setting that our image processor lacks.
    """
    height, width = image_hw
    settings: dict[str, Any] = {
        "image_mean": list(config["mean"]),
        "image_std": list(config["std"]),
        "resample": RESAMPLING[config["interpolation"]],
    }
    if config.get("crop_border_pixels"):
        raise ConversionError("crop_border_pixels has no equal among our image processor's settings.")
    fraction, mode = config.get("crop_pct") or 0.875, config.get("crop_mode") or "center"
    scaled = {"height": int(height / fraction), "width": int(width / fraction)}
    crop = {"do_center_crop": True, "crop_size": {"height": height, "width": width}, "rounding": "round_crop"}
    if mode == "squash":
        return settings if fraction == 1.0 else settings | crop | {"size": scaled}
    if mode == "center" and height == width:
        return settings | crop | {"size": {"shortest_edge": scaled["height"]}}
    raise ConversionError(f"crop_mode={mode!r} at {height}x{width} has no equal among our image processor's settings.")


def labels_of(model: Any) -> tuple[dict[int, str], list[str]]:
    """Return (class names, notes): timm's own, else ImageNet's if the number of classes matches, else {}."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    config = model.pretrained_cfg
    names, descriptions, notes = config.get("label_names"), config.get("label_descriptions") or {}, []
    if not names and (subset := infer_imagenet_subset(model)) and model.num_classes == config.get("num_classes"):
        names, descriptions = ImageNetInfo(subset).label_names(), ImageNetInfo(subset).label_descriptions(as_dict=True)
        notes = [f"label names: those of {subset}, as {model.num_classes:,} classes are for timm"]
    if not names or len(names) != model.num_classes:
        return {}, []
    if isinstance(descriptions, list):
        descriptions = dict(zip(names, descriptions, strict=True))
    return {i: descriptions.get(name, name) for i, name in enumerate(names)}, notes


def reference_of(model: Any) -> Reference:
    """Build the reference of a live model, with timm's evaluation preprocessing."""
    import timm

    size = (model.in_chans, *model.patch_embed.img_size)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({"input_size": size}, model=model))
    any_size = getattr(model, "dynamic_img_size", False)
    return Reference(
        f"timm {timm.__version__}",
        partial(run, model),
        lambda pictures: torch.stack([transform(picture) for picture in pictures]),
        only_size="" if any_size else "the model was built without dynamic_img_size",
    )


def run(model: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Run a timm model on images [B, C, H, W], cut to whole patches; return outputs as defined by `Reference.run`."""
    (p, q), (height, width) = model.patch_embed.patch_size, images.shape[2:]
    tokens = model.forward_features(images[..., : height - height % p, : width - width % q])
    outputs = {"tokens": tokens}
    if getattr(model, "head_dist", None) is None:  # else timm averages what ours concatenates
        outputs["pooled"] = model.forward_head(tokens, pre_logits=True)
    return outputs | ({"logits": model.forward_head(tokens)} if model.num_classes else {})
