"""Configuration fields that can be read off the tensors alone, whatever the source.

Shapes: D width, h×w grid, R width before the classifier.
"""

import math
from typing import Any

from .engine import ConversionError, State


def structure_of(tensors: State) -> dict[str, Any]:
    """Return the configuration fields that follow from tensors under our names.

    Not included, because no shape depends on them: the number of heads, the activation, eps, pooling without
    parameters, the base of rotary positions, and the image size unless positions are a square table.
    Raises ConversionError for tensors that are no ViT.
    """
    kernel = tensors.get("vit.embeddings.patch_embeddings.projection.weight")
    if kernel is None or kernel.ndim != 4:
        raise ConversionError("there is no patch embedding: this is no plain Vision Transformer.")
    width, channels, *patch = kernel.shape
    blocks = {int(name.split(".")[2]) for name in tensors if name.startswith("vit.layers.")}
    if not blocks or blocks != set(range(len(blocks))):
        raise ConversionError(f"the blocks are numbered {sorted(blocks)}: some are missing.")
    gated = "vit.layers.0.mlp.gate_proj.weight" in tensors
    hidden = tensors.get(f"vit.layers.0.mlp.{'gate_proj' if gated else 'fc1'}.weight")
    if hidden is None:
        raise ConversionError("block 0 has no MLP.")
    registers = tensors.get("vit.embeddings.register_tokens")
    scale = tensors.get("vit.layers.0.layer_scale1.lambda1")
    pre_logits = tensors.get("pre_logits.0.weight")
    classifier = tensors.get("classifier.weight")
    fields: dict[str, Any] = {
        "hidden_size": width,
        "num_channels": channels,
        "patch_size": patch[0] if patch[0] == patch[1] else tuple(patch),
        "num_hidden_layers": len(blocks),
        "intermediate_size": len(hidden),
        "use_gated_mlp": gated,
        "use_qk_norm": "vit.layers.0.attention.q_norm.weight" in tensors,
        "qkv_bias": any(f"vit.layers.0.attention.{name}_proj.bias" in tensors for name in "qkv"),
        "use_cls_token": "vit.embeddings.cls_token" in tensors,
        "num_register_tokens": 0 if registers is None else registers.shape[1],
        "embedding_norm": "vit.embeddings.layernorm.weight" in tensors,
        "layer_scale_init_value": None if scale is None else 1.0,
        "position_embedding": "learned" if "vit.embeddings.position_embeddings" in tensors else "none",
        "final_norm": "pooled" if "vit.pooler.layernorm.weight" in tensors else "tokens",
        "pre_logits_size": None if pre_logits is None else len(pre_logits),
        "num_labels": 0 if classifier is None else len(classifier),
    }
    if "vit.pooler.attention_pooling.query" in tensors:
        fields["pooling"] = "map"
    return fields


def square_image_size(tensors: State, patch: int | tuple[int, int]) -> int | tuple[int, int] | None:
    """Return the image size of a square position table, or None if there is no such table."""
    table = tensors.get("vit.embeddings.position_embeddings")
    if table is None:
        return None
    side = math.isqrt(table.shape[1])
    if side * side != table.shape[1]:
        return None
    return side * patch if isinstance(patch, int) else (side * patch[0], side * patch[1])
