"""The plain Vision Transformers of transformers: vit, deit, dinov2, dinov2_with_registers, dinov3_vit, vit_mae, ijepa,
clip and siglip vision towers.

Names are those of transformers 5 without the base model's prefix; `canonical` renames older spellings.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from .engine import Row, State, Table, averaged_heads, folded_positions, packed, same
from .family import Family, Settings, Source, resolve
from .preprocessing import BICUBIC, BILINEAR, HALF, IMAGENET, OPENAI, Preparation, documented, resize_and_crop, squash

# Older spelling -> spelling of transformers 5; files are still saved with the older one.
_SPELLINGS = (
    (r"^(vit|deit|dinov2|dinov2_with_registers|ijepa|dinov3_vit|vision_model|backbone)\.", ""),
    (r"^encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.", r"encoder.layer.\1.attention.\2_proj."),
    (r"\.attention\.(q|k|v)(?:uery|ey|alue)_proj\.", r".attention.\1_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^encoder\.layer\.(\d+)\.output\.dense\.", r"encoder.layer.\1.mlp.fc2."),
    (r"^encoder\.layer\.(\d+)\.(layernorm_before|layernorm_after)\.", r"layers.\1.\2."),
    (r"^model\.layer\.", "layer."),
    (r"\.mlp\.weights_out\.", ".mlp.down_proj."),
)

_MASK = "the mask token only serves pre-training"
_POOLER = "transformers' pooler, which classifiers do not use"


def canonical(state: State) -> dict[str, Any]:
    """Rename tensors to transformers 5's names, without the base model's prefix."""
    renamed: dict[str, Any] = {}
    dinov2 = any(re.search(r"encoder\.layer\.\d+\.norm1\.", name) for name in state)
    for name, tensor in state.items():
        for pattern, spelling in _SPELLINGS:
            name = re.sub(pattern, spelling, name)
        if not dinov2:  # the older spelling of vit, deit, mae and ijepa
            name = re.sub(r"^encoder\.layer\.", "layers.", name)
        renamed[name] = tensor
    return renamed


def _block(theirs: str, names: Mapping[str, str]) -> list[Row]:
    return [same(f"vit.layers.{{i}}.{ours}.{{p}}", f"{theirs}.{{i}}.{name}.{{p}}") for ours, name in names.items()]


_ATTENTION = {f"attention.{name}_proj": f"attention.{name}_proj" for name in "qkvo"}
_MLP = {f"mlp.{name}": f"mlp.{name}" for name in ("fc1", "fc2")}
_PATCH = same("vit.embeddings.patch_embeddings.projection.{p}", "embeddings.patch_embeddings.projection.{p}")
_CLS = ("vit.embeddings.cls_token", "embeddings.cls_token")
_DISTILLATION = ("vit.embeddings.register_tokens", "embeddings.distillation_token")
_POSITIONS = ("vit.embeddings.position_embeddings", "embeddings.position_embeddings")
_HEAD = same("classifier.{p}", "classifier.{p}")
_NORM = same("vit.layernorm.{p}", "layernorm.{p}")

_VIT_BLOCK = _block(
    "layers", {"layernorm_before": "layernorm_before", **_ATTENTION, "layernorm_after": "layernorm_after", **_MLP}
)
_DINO_NAMES = {"layernorm_before": "norm1", **_ATTENTION, "layernorm_after": "norm2", **_MLP}
_SCALES = ("layer_scale1.lambda1", "layer_scale2.lambda1")


def _dino_block(theirs: str) -> list[Row]:
    """Rows of blocks with LayerScale; their MLP is plain, gated, or gated with gate and value in one matrix."""
    scales = [same(f"vit.layers.{{i}}.{name}", f"{theirs}.{{i}}.{name}") for name in _SCALES]
    ours, names = (
        tuple(f"{block}.{{i}}.mlp.{name}_proj.{{p}}" for name in ("gate", "up", "down"))
        for block in ("vit.layers", theirs)
    )
    both = f"{theirs}.{{i}}.mlp.weights_in.{{p}}"
    mlps = [
        Row(ours, names),
        Row(
            ours,
            (both, names[2]),
            lambda x, down: (*x.chunk(2), down),
            lambda gate, up, down: (torch.cat([gate, up]), down),
        ),
        same("vit.layers.{i}.mlp.fc1.{p}", names[1]),
        same("vit.layers.{i}.mlp.fc2.{p}", names[2]),
    ]
    return [*_block(theirs, _DINO_NAMES), *scales, *mlps]


_CLIP_NAMES = {
    "layernorm_before": "layer_norm1",
    **{f"attention.{name}_proj": f"self_attn.{name}_proj" for name in "qkv"},
    "attention.o_proj": "self_attn.out_proj",
    "layernorm_after": "layer_norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def _unsqueezed(ours: str, theirs: str) -> Row:
    """Row of a table [h·w, D], which is [1, h·w, D] in ours."""
    return Row((ours,), (theirs,), lambda table: (table[None],), lambda table: (table[0],))


def _flat_positions() -> Row:
    """Row of a class vector [D] and a position table [1 + h·w, D]."""
    folded = folded_positions([_CLS], *_POSITIONS)

    def write(token, table):
        token, table = folded.write(token, table)
        return token[0, 0], table[0]

    theirs = ("embeddings.class_embedding", "embeddings.position_embedding.weight")
    return Row(folded.ours, theirs, lambda token, table: folded.read(token[None, None], table[None]), write)


def _map_head() -> list[Row]:
    ours, attention = "vit.pooler.attention_pooling", "vit.pooler.attention_pooling.attention"
    projections = [[f"{attention}.{name}_proj.{p}" for name in "qkv"] for p in ("weight", "bias")]
    return [
        same(f"{ours}.query", "head.probe"),
        *(
            packed(names, f"head.attention.in_proj_{p}")
            for names, p in zip(projections, ("weight", "bias"), strict=True)
        ),
        same(f"{attention}.o_proj.{{p}}", "head.attention.out_proj.{p}"),
        same(f"{ours}.layernorm.{{p}}", "head.layernorm.{p}"),
        *(same(f"{ours}.mlp.{name}.{{p}}", f"head.mlp.{name}.{{p}}") for name in ("fc1", "fc2")),
    ]


_NO_PATCH_BIAS: tuple[str, ...] = ("vit.embeddings.patch_embeddings.projection.bias",)
_TEXT: dict[str, str] = {
    "text_model.*": "the text tower",
    "*_projection.*": "the projection to texts",
    "logit_*": "for texts only",
}
_TOWER = [
    same("vit.embeddings.patch_embeddings.projection.{p}", "embeddings.patch_embedding.{p}"),
    *_block("encoder.layers", _CLIP_NAMES),
]
_IDS: dict[str, str] = {"embeddings.position_ids": "computed"}

VIT = Table(
    [_PATCH, folded_positions([_CLS], *_POSITIONS), *_VIT_BLOCK, _NORM, _HEAD],
    unused={"embeddings.mask_token": _MASK, "pooler.dense.*": _POOLER, "decoder*": "the decoder of pre-training"},
)
DEIT = Table(
    [
        _PATCH,
        folded_positions([_CLS, _DISTILLATION], *_POSITIONS),
        *_VIT_BLOCK,
        _NORM,
        averaged_heads("cls_classifier", "distillation_classifier"),
        _HEAD,
    ],
    unused=VIT.unused,
)
IJEPA = Table([_PATCH, same(*_POSITIONS), *_VIT_BLOCK, _NORM, _HEAD], unused=VIT.unused)
DINOV2 = Table(
    [
        _PATCH,
        folded_positions([_CLS], *_POSITIONS),
        same("vit.embeddings.register_tokens", "embeddings.register_tokens"),
        *_dino_block("encoder.layer"),
        _NORM,
        _HEAD,
    ],
    unused={"embeddings.mask_token": _MASK},
)
DINOV3 = Table(
    [
        same("vit.embeddings.patch_embeddings.projection.{p}", "embeddings.patch_embeddings.{p}"),
        same(*_CLS),
        same("vit.embeddings.register_tokens", "embeddings.register_tokens"),
        *_dino_block("layer"),
        same("vit.layernorm.{p}", "norm.{p}"),
        _HEAD,
    ],
    zero=["vit.layers.*.attention.?_proj.bias", "vit.layers.*.mlp.*.bias"],
    unused={"embeddings.mask_token": _MASK},
)
CLIP = Table(
    [
        *_TOWER,
        _flat_positions(),
        same("vit.embeddings.layernorm.{p}", "pre_layrnorm.{p}"),
        same("vit.pooler.layernorm.{p}", "post_layernorm.{p}"),
    ],
    zero=_NO_PATCH_BIAS,
    unused=_TEXT | _IDS,
)
CLIP_CLASSIFIER = Table(
    [*CLIP.rows[:-1], _HEAD], zero=_NO_PATCH_BIAS, unused=CLIP.unused | {"post_layernorm.*": "the classifier skips it"}
)
SIGLIP = Table(
    [
        *_TOWER,
        _unsqueezed("vit.embeddings.position_embeddings", "embeddings.position_embedding.weight"),
        same("vit.layernorm.{p}", "post_layernorm.{p}"),
        *_map_head(),
    ],
    unused=_TEXT | _IDS,
)
SIGLIP_CLASSIFIER = Table(
    [*SIGLIP.rows[: len(_TOWER) + 2], _HEAD],
    unused=SIGLIP.unused | {"head.*": "the classifier averages patches instead"},
)

_FIELDS = {
    name: name
    for name in (
        "num_attention_heads", "hidden_act", "layer_norm_eps", "image_size", "hidden_dropout_prob",
        "initializer_range", "drop_path_rate", "rope_theta",
    )
} | {"layer_scale_init_value": "layerscale_value"}  # fmt: skip

# Preprocessing by transformers' image processor of each family, with the settings of its published weights. If the
# defaults of the class differ (DeiT's mean is 0.5 there), the files on the Hub override them.
_DOCUMENTED: dict[str, Preparation] = {
    "vit": squash(HALF, BILINEAR),
    "deit": resize_and_crop(IMAGENET, BICUBIC, whole=True),
    "dinov2": resize_and_crop(IMAGENET, BICUBIC, lambda side: (256, 224)),
    "dinov2_with_registers": resize_and_crop(IMAGENET, BICUBIC, lambda side: (256, 224)),
    "dinov3_vit": squash(IMAGENET, BILINEAR),
    "vit_mae": squash(IMAGENET, BILINEAR),
    "ijepa": squash(IMAGENET, BILINEAR),
    "clip": resize_and_crop(OPENAI, BICUBIC, lambda side: (side, side)),
    "siglip": squash(HALF, BICUBIC),
}


def _settings(
    source: Source, tensors: State, defaults: Mapping[str, Any], whose: str, fixed: Mapping[str, Any]
) -> Settings:
    config = source.config.get("vision_config") or source.config
    names = _FIELDS | {
        "attention_probs_dropout_prob": "attention_dropout"
        if "attention_dropout" in config
        else "attention_probs_dropout_prob"
    }
    fields, notes = resolve(config, names, defaults, whose)
    fields |= {"problem_type": source.config.get("problem_type"), "position_interpolation": "bicubic"}
    if labels := source.config.get("id2label"):
        fields["id2label"] = {int(i): name for i, name in labels.items()}
    found = {name: value(tensors) if callable(value) else value for name, value in fixed.items()}
    fields |= {name: value for name, value in found.items() if value is not None}
    prepare = _DOCUMENTED[whose.split(",")[0]]
    processor, said = documented(
        prepare, source, tensors, f"as {whose} documents, there is no preprocessor_config.json"
    )
    return Settings(fields, processor, notes + said)


def _joined(tensors: State) -> str:
    """DINOv2's pooling: its classifier takes class token and mean of the patches, its encoder pools the class token."""
    head = tensors.get("classifier.weight")
    width = len(tensors["vit.embeddings.patch_embeddings.projection.weight"])
    return "cls_mean" if head is not None and head.shape[1] == 2 * width else "cls"


def _gate(tensors: State) -> str | None:
    """DINOv2's activation: a gated MLP always uses SiLU, a plain one follows the configuration (None)."""
    return "silu" if "vit.layers.0.mlp.gate_proj.weight" in tensors else None


_VIT_BLOCKS = "layers.*.layernorm_before.weight"
_DINO_BLOCKS = "encoder.layer.*.norm1.weight"
_CLIP_BLOCKS = "encoder.layers.*.layer_norm1.weight"
_CLS_KEY, _DISTILLATION_KEY, _REGISTERS_KEY = _CLS[1], _DISTILLATION[1], "embeddings.register_tokens"
_PLAIN = {"hidden_act": "gelu", "layer_norm_eps": 1e-12}
_DINO = {"hidden_act": "gelu", "layer_norm_eps": 1e-6}
_QUICK = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_TANH = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}

# name, patterns present, patterns absent, table, defaults, fixed fields of the family
_ROWS: list[tuple[str, tuple[str, ...], tuple[str, ...], Table, dict[str, Any], dict[str, Any]]] = [
    ("vit", (_VIT_BLOCKS, _CLS_KEY), (_DISTILLATION_KEY, "decoder*"), VIT, _PLAIN, {}),
    ("vit_mae", (_VIT_BLOCKS, _CLS_KEY, "decoder*"), (), VIT, _PLAIN, {}),
    ("deit", (_VIT_BLOCKS, _DISTILLATION_KEY), ("distillation_classifier*",), DEIT, _PLAIN, {}),
    (
        "deit, two heads", (_DISTILLATION_KEY, "distillation_classifier*"), (), DEIT, _PLAIN,
        {"pooling": "cls_register"},
    ),
    ("ijepa", (_VIT_BLOCKS,), (_CLS_KEY,), IJEPA, _PLAIN, {"pooling": "mean"}),
    ("dinov2", (_DINO_BLOCKS,), (_REGISTERS_KEY,), DINOV2, _DINO, {"pooling": _joined, "hidden_act": _gate}),
    (
        "dinov2_with_registers", (_DINO_BLOCKS, _REGISTERS_KEY), (), DINOV2, _DINO,
        {"pooling": _joined, "hidden_act": _gate, "position_interpolation": "bicubic_antialias"},
    ),
    (
        "dinov3_vit", ("layer.*.norm1.weight",), (), DINOV3,
        {"hidden_act": "gelu", "layer_norm_eps": 1e-5, "rope_theta": 100.0}, {},
    ),
    ("clip", (_CLIP_BLOCKS, "pre_layrnorm.weight"), ("classifier.*",), CLIP, _QUICK, {}),
    (
        "clip, classifier", (_CLIP_BLOCKS, "pre_layrnorm.weight", "classifier.*"), (), CLIP_CLASSIFIER, _QUICK,
        {"pooling": "mean", "final_norm": "none"},
    ),
    ("siglip", (_CLIP_BLOCKS, "head.probe"), ("classifier.*",), SIGLIP, _TANH, {}),
    ("siglip, classifier", (_CLIP_BLOCKS, "classifier.*"), ("pre_layrnorm.weight",), SIGLIP_CLASSIFIER, _TANH,
     {"pooling": "mean"}),
]  # fmt: skip

FAMILIES = [
    Family(name, present, absent, table, partial(_settings, defaults=defaults, whose=name, fixed=fixed))
    for name, present, absent, table, defaults, fixed in _ROWS
]
