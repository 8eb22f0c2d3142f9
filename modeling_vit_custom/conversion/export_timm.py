"""Export to timm: the registered architecture, and its arguments, that build a model equal to ours.

timm's config.json holds numbers, strings and lists. Settings that timm gives as Python objects, the eps of layer norms
and a gated MLP, are set by the choice of the architecture; all others by arguments.

Shapes: B images, C channels, H×W pixels, K classes, D width, N tokens.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from ..common.json_files import write_json
from ..common.model_files import CONFIG, WEIGHTS
from ..configuration_vit_custom import ViTCustomConfig
from ..image_processing_vit_custom import ViTCustomImageProcessor
from .engine import State, own, write
from .target import GIVEN, SOME, Condition, Exported, Expresses, Target, require_same_processing
from .timm_vit import POOLINGS, RESAMPLING, processor_settings, run, table_of

_ACTS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "silu": "silu", "relu": "relu"}
_POOLS = {ours: theirs for theirs, ours in POOLINGS.items()}
_FILTERS = {number: name for name, number in RESAMPLING.items()}


def _plain_map(config: ViTCustomConfig, pooling: str) -> bool:
    """Whether timm has this pooling. Its attention pooling always uses a plain attention and MLP."""
    plain = config.qkv_bias and not config.use_qk_norm and not config.use_gated_mlp
    return pooling in _POOLS and (pooling != "map" or plain)


def _eva_map(config: ViTCustomConfig, pooling: str) -> bool:
    """The same for Eva, whose attention pooling includes prefix tokens; ours does not."""
    return _plain_map(config, pooling) and (pooling != "map" or config.num_prefix_tokens == 0)


def _eva_act(config: ViTCustomConfig, activation: str) -> bool:
    return activation == ("silu" if config.use_gated_mlp else "gelu")


_VIT: Expresses = {
    "stem": ("patch",), "pre_logits_size": (None,), "rope_theta": (None,), "use_gated_mlp": (False,),
    "hidden_act": tuple(_ACTS), "pooling": Condition(_plain_map, "'cls', 'mean' or, with plain attention, 'map'"),
}  # fmt: skip
_GATED = _VIT | {"use_gated_mlp": (True,), "layer_scale_init_value": GIVEN}
_DISTILLED = _VIT | {
    "pooling": ("cls_register",), "num_register_tokens": (1,), "final_norm": ("tokens",), "num_labels": SOME,
    "position_embedding": ("learned", "sincos2d"),
}  # fmt: skip
_ROTARY = _VIT | {
    "rope_theta": GIVEN,
    "use_gated_mlp": (False, True),
    "hidden_act": Condition(_eva_act, "'gelu', or 'silu' gated"),
    "pooling": Condition(_eva_map, "'cls', 'mean' or, without prefix tokens, 'map'"),
}
_SCALED_ROTARY = _ROTARY | {"layer_scale_init_value": GIVEN}

Arguments = dict[str, Any]


def _ratio(width: int, hidden: int) -> float:
    """The mlp_ratio for which int(width * mlp_ratio) is `hidden`."""
    return hidden / width if int(width * (hidden / width)) == hidden else (hidden + 0.5) / width


def _side(pair: tuple[int, int]) -> int | list[int]:
    return pair[0] if pair[0] == pair[1] else list(pair)


def _common(config: ViTCustomConfig) -> Arguments:
    return {
        "img_size": _side(config.image_hw),
        "patch_size": _side(config.patch_hw),
        "in_chans": config.num_channels,
        "num_classes": config.num_labels,
        "global_pool": _POOLS.get(config.pooling, "token"),
        "embed_dim": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": _ratio(config.hidden_size, config.intermediate_size),
        "qkv_bias": config.qkv_bias,
        "qk_norm": config.use_qk_norm or None,  # None: older versions of Eva lack this argument
        "init_values": config.layer_scale_init_value,
    }


def _vit(config: ViTCustomConfig) -> Arguments:
    return _common(config) | {
        "class_token": config.use_cls_token,
        "reg_tokens": config.num_register_tokens,
        "no_embed_class": True,
        "pos_embed": "none" if config.position_embedding == "none" else "learn",
        "pre_norm": config.embedding_norm,
        "final_norm": config.final_norm != "none",
        "fc_norm": config.final_norm == "pooled",
        "act_layer": _ACTS[config.hidden_act],
    }


def _gated(config: ViTCustomConfig) -> Arguments:
    """Arguments of the gated class; its gate and value are one matrix, twice as wide."""
    return _vit(config) | {"mlp_ratio": _ratio(config.hidden_size, 2 * config.intermediate_size)}


def _distilled(config: ViTCustomConfig) -> Arguments:
    """Arguments of the distilled class; its architecture fixes the second token, which has a position in the table."""
    return {name: value for name, value in _vit(config).items() if name not in ("reg_tokens", "no_embed_class")}


def _eva(config: ViTCustomConfig) -> Arguments:
    return _common(config) | {
        "class_token": config.use_cls_token,
        "num_reg_tokens": config.num_register_tokens,
        "no_embed_class": True,
        "use_abs_pos_emb": config.position_embedding != "none",
        "use_rot_pos_emb": True,
        "rope_type": "dinov3",
        "rope_temperature": config.rope_theta,
        "rope_rotate_half": True,
        "use_pre_transformer_norm": config.embedding_norm,
        "use_post_transformer_norm": config.final_norm == "tokens",
        "use_fc_norm": config.final_norm == "pooled",
        "swiglu_mlp": config.use_gated_mlp,
    }


# class of timm: supported field values, its arguments, and eps → an architecture of it; special classes come first
_ROWS: list[tuple[str, Expresses, Callable[[ViTCustomConfig], Arguments], dict[float, str]]] = [
    ("VisionTransformer, gated", _GATED, _gated, {1e-6: "vit_giant_patch14_dinov2"}),
    ("Eva", _ROTARY, _eva, {1e-6: "eva_giant_patch14_224"}),
    ("Eva, DINOv3", _SCALED_ROTARY, _eva, {1e-5: "vit_small_patch16_dinov3"}),
    ("VisionTransformerDistilled", _DISTILLED, _distilled, {1e-6: "deit_base_distilled_patch16_224"}),
    ("VisionTransformer", _VIT, _vit, {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}),
]


def _build(
    arguments_of: Callable[[ViTCustomConfig], Arguments],
    architectures: Mapping[float, str],
    config: ViTCustomConfig,
    tensors: State,
    processor: ViTCustomImageProcessor | None,
) -> Exported:
    import timm

    architecture = architectures[config.layer_norm_eps]
    arguments = {name: value for name, value in arguments_of(config).items() if value is not None}
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model(architecture, **arguments).eval()
    needed = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    made = {name: own(tensor) for name, tensor in write(table_of(model), tensors, needed).items()}
    model.load_state_dict(made, strict=True, assign=True)
    description, notes = None, []
    settings: dict[str, Any] = {}
    if processor is not None:
        settings = _pretrained_cfg(config, processor)
        read_back = processor_settings(settings, config.image_hw)
        notes = require_same_processing(config, processor, read_back, "timm")
        description = {
            "architecture": architecture,
            "num_classes": config.num_labels,
            "num_features": config.hidden_size,
            "global_pool": arguments["global_pool"],
            "label_names": list((config.id2label or {}).values()),
            "model_args": arguments,
            "pretrained_cfg": settings,
        }

    def save_tensors(path: Path) -> None:
        save_file(made, path, metadata={"format": "pt"})

    def save(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / WEIGHTS)
        write_json(folder / CONFIG, description)

    def prepare(pictures: Sequence[Image.Image]) -> torch.Tensor:
        transform: Any = timm.data.create_transform(**timm.data.resolve_data_config({}, pretrained_cfg=settings))
        return torch.stack([transform(picture) for picture in pictures])

    prepares = None if processor is None else prepare
    return Exported(architecture, model, run, save, save_tensors, notes, prepares)


def _pretrained_cfg(config: ViTCustomConfig, processor: Any) -> dict[str, Any]:
    """timm's preprocessing settings closest to our image processor; `require_same_processing` checks them."""
    height, width = config.image_hw
    size = dict(processor.size or {})
    crop = bool(processor.do_center_crop)
    resized = size.get("height") or size.get("shortest_edge") or height
    exact = height / resized if crop else 1.0
    fraction = next((f for f in (exact, math.nextafter(exact, 0)) if int(height / f) == resized), exact)
    return {
        "input_size": [config.num_channels, height, width],
        "fixed_input_size": True,
        "interpolation": _FILTERS.get(processor.resample, "bilinear"),
        "crop_pct": fraction,
        "crop_mode": "squash" if "height" in size else "center",
        "mean": list(processor.image_mean),
        "std": list(processor.image_std),
        "num_classes": config.num_labels,
        "first_conv": "patch_embed.proj",
        "classifier": ["head", "head_dist"] if config.pooling == "cls_register" else "head",
    }


TARGETS = [
    Target(
        name,
        expresses | {"layer_norm_eps": tuple(architectures)},
        "bicubic_antialias",
        (),
        partial(_build, arguments, architectures),
    )
    for name, expresses, arguments, architectures in _ROWS
]
