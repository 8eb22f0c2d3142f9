"""Conversion targets of transformers: for each of `huggingface.FAMILIES` the values it supports, its classes, and its
configuration fields.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import transformers

from ..configuration_vit_custom import ViTCustomConfig
from .engine import ConversionError, State
from .target import ANY, GIVEN, SOME, SQUARE, Condition, Expresses, refusals

# ---------- field values that a family supports

_PLAIN: Expresses = {
    "stem": ("patch",), "use_qk_norm": (False,), "pre_logits_size": (None,), "use_gated_mlp": (False,),
    "use_cls_token": (True,), "num_register_tokens": (0,), "embedding_norm": (False,), "rope_theta": (None,),
    "position_embedding": ("learned", "sincos2d"), "layer_scale_init_value": (None,), "pooling": ("cls",),
    "final_norm": ("tokens",),
}  # fmt: skip


def _mlp_ratio(config: ViTCustomConfig) -> int | None:
    """DINOv2's integer mlp_ratio for this MLP width, or None; the width is ratio·D, or two thirds of it if gated."""

    def width(ratio: int) -> int:
        hidden = config.hidden_size * ratio
        return (int(hidden * 2 / 3) + 7) // 8 * 8 if config.use_gated_mlp else hidden

    return next((ratio for ratio in range(1, 65) if width(ratio) == config.intermediate_size), None)


_DINO = _PLAIN | {"layer_scale_init_value": GIVEN, "use_gated_mlp": ANY}
_DINOV2 = _DINO | {
    "image_size": SQUARE,
    "intermediate_size": Condition(lambda config, _: _mlp_ratio(config) is not None, "what a whole mlp_ratio gives"),
    "hidden_act": Condition(lambda config, value: value == "silu" or not config.use_gated_mlp, "'silu' where gated"),
    "pooling": Condition(
        lambda config, value: value == ("cls_mean" if config.num_labels else "cls"),
        "'cls_mean' before a classifier or 'cls' without",
    ),
}
_DINOV3 = _DINO | {"num_register_tokens": ANY, "rope_theta": GIVEN, "position_embedding": ("none",)}
_TOWER = _PLAIN | {"qkv_bias": (True,), "image_size": SQUARE, "patch_size": SQUARE}
_CLIP = _TOWER | {"embedding_norm": (True,), "final_norm": ("pooled",)}
_SIGLIP = _TOWER | {"use_cls_token": (False,), "pooling": ("map",)}


# ---------- configuration fields: our name → its name


def _named(*names: str, **renamed: str) -> dict[str, str]:
    return {name: name for name in names} | renamed


_COMMON = _named(
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_channels", "hidden_act", "layer_norm_eps"
)
_VIT_NAMES = _COMMON | _named(
    "intermediate_size", "qkv_bias", "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range"
)
_SCALES = _named("drop_path_rate", "initializer_range", layer_scale_init_value="layerscale_value")
_DINOV2_NAMES = (
    _COMMON
    | _SCALES
    | _named("qkv_bias", "hidden_dropout_prob", "attention_probs_dropout_prob", use_gated_mlp="use_swiglu_ffn")
)
_DINOV3_NAMES = (
    _COMMON
    | _SCALES
    | _named("intermediate_size", "rope_theta", "use_gated_mlp", "num_register_tokens")
    | _named(attention_probs_dropout_prob="attention_dropout")
)
_SIGLIP_NAMES = _COMMON | _named("intermediate_size", attention_probs_dropout_prob="attention_dropout")
_CLIP_NAMES = _SIGLIP_NAMES | _named("initializer_range")
_FLOATS = ("layer_norm_eps", "rope_theta", "layer_scale_init_value", "initializer_range")  # floats only there

More = Callable[[ViTCustomConfig, State], dict[str, Any]]


def _nothing(config: ViTCustomConfig, tensors: State) -> dict[str, Any]:
    return {}


def _no_pooling_head(config: ViTCustomConfig, tensors: State) -> dict[str, Any]:
    return {"vision_use_head": False}


def _nothing_hidden(config: ViTCustomConfig, tensors: State) -> dict[str, Any]:
    return {"mask_ratio": 0.0}


def _linear_pooler(config: ViTCustomConfig, tensors: State) -> dict[str, Any]:
    """transformers' encoder has a pooler with tanh; ours has no tanh, so it becomes linear."""
    return {} if config.num_labels else {"pooler_act": "linear"}


def _dinov2(config: ViTCustomConfig, tensors: State) -> dict[str, Any]:
    return {"mlp_ratio": _mlp_ratio(config), "use_mask_token": False}


def _dinov2_registers(config: ViTCustomConfig, tensors: State) -> dict[str, Any]:
    return {"mlp_ratio": _mlp_ratio(config), "num_register_tokens": config.num_register_tokens}


def _dinov3(config: ViTCustomConfig, tensors: State) -> dict[str, Any]:
    """Flags for the biases that occur. DINOv3 has no key bias, so a key bias counts only if it is not zero."""

    def occurs(pattern: str, even_zero: bool = True) -> bool:
        named = [tensor for name, tensor in tensors.items() if fnmatchcase(name, pattern)]
        return any(even_zero or bool(tensor.any()) for tensor in named)

    projections = {"query": "attention.q_proj", "value": "attention.v_proj", "proj": "attention.o_proj", "mlp": "mlp.*"}
    biases = {f"{name}_bias": occurs(f"*.{projection}.bias") for name, projection in projections.items()}
    return biases | {"key_bias": occurs("*.attention.k_proj.bias", even_zero=False)}


# ---------- the families


@dataclass(frozen=True)
class Row:
    """A family of transformers.

    encoder, classifier: its classes, or None.   names: our fields → fields of its configuration.
    more: returns further fields of its configuration.   nested: whether all fields but the labels are in a
    vision_config.
    """

    family: str
    config: str
    encoder: str | None
    classifier: str | None
    expresses: Expresses
    names: Mapping[str, str]
    more: More = _nothing
    nested: bool = False
    resampling: str = "bicubic"

    @property
    def with_heads(self) -> Expresses:
        """`expresses`, restricted to the number of labels that its classes allow."""
        if self.encoder and self.classifier:
            return self.expresses
        return self.expresses | {"num_labels": SOME if self.classifier else (0,)}


ROWS = [
    Row("vit", "ViTConfig", "ViTModel", "ViTForImageClassification", _PLAIN, _VIT_NAMES, _linear_pooler),
    Row(
        "ijepa", "IJepaConfig", "IJepaModel", "IJepaForImageClassification",
        _PLAIN | {"use_cls_token": (False,), "pooling": ("mean",)}, _VIT_NAMES,
    ),
    Row(
        "deit", "DeiTConfig", "DeiTModel", "DeiTForImageClassification", _PLAIN | {"num_register_tokens": (1,)},
        _VIT_NAMES, _linear_pooler,
    ),
    Row(
        "deit, two heads", "DeiTConfig", None, "DeiTForImageClassificationWithTeacher",
        _PLAIN | {"num_register_tokens": (1,), "pooling": ("cls_register",)}, _VIT_NAMES,
    ),
    Row(
        "dinov2", "Dinov2Config", "Dinov2Model", "Dinov2ForImageClassification", _DINOV2, _DINOV2_NAMES, _dinov2,
    ),
    Row(
        "dinov2_with_registers", "Dinov2WithRegistersConfig", "Dinov2WithRegistersModel",
        "Dinov2WithRegistersForImageClassification", _DINOV2 | {"num_register_tokens": SOME}, _DINOV2_NAMES,
        _dinov2_registers, resampling="bicubic_antialias",
    ),
    Row("dinov3_vit", "DINOv3ViTConfig", "DINOv3ViTModel", None, _DINOV3, _DINOV3_NAMES, _dinov3),
    Row("clip", "CLIPVisionConfig", "CLIPVisionModel", None, _CLIP, _CLIP_NAMES),
    Row(
        "clip, classifier", "CLIPConfig", None, "CLIPForImageClassification",
        _CLIP | {"pooling": ("mean",), "final_norm": ("none",)}, _CLIP_NAMES, nested=True,
    ),
    Row("siglip", "SiglipVisionConfig", "SiglipVisionModel", None, _SIGLIP, _SIGLIP_NAMES),
    Row(
        "siglip, classifier", "SiglipConfig", None, "SiglipForImageClassification", _SIGLIP | {"pooling": ("mean",)},
        _SIGLIP_NAMES, _no_pooling_head, nested=True,
    ),
]  # fmt: skip
# No export target ("vit" serves instead): by default ViTMAE masks patches and shuffles the rest.
_MAE = Row("vit_mae", "ViTMAEConfig", "ViTMAEModel", None, _PLAIN, _VIT_NAMES, _nothing_hidden)
_ROW_OF = {row.family: row for row in (*ROWS, _MAE)}


def express(
    config: ViTCustomConfig, family: str, tensors: State
) -> tuple[type[transformers.PreTrainedModel], transformers.PreTrainedConfig]:
    """Return transformers' (class, configuration) for a model of ours: a classifier, or an encoder if it has no labels.

    family: a name of `huggingface.FAMILIES`.   tensors: under our names or theirs; they show which biases there are.
    Raises ConversionError naming each field of `config` that the family cannot express.
    """
    row = _ROW_OF[family]
    if said := refusals(row.with_heads, config):
        raise ConversionError(f"{family} of transformers has no place for {', '.join(said)}.")
    fields = {theirs: _number(ours, getattr(config, ours)) for ours, theirs in row.names.items()}
    fields |= {"image_size": _side(config.image_hw), "patch_size": _side(config.patch_hw)}
    fields |= row.more(config, tensors)
    labels = {"id2label": config.id2label, "label2id": config.label2id, "problem_type": config.problem_type}
    whole = ({"vision_config": fields} if row.nested else fields) | (labels if config.num_labels else {})
    name = row.classifier if config.num_labels else row.encoder
    return getattr(transformers, str(name)), getattr(transformers, row.config)(**whole)


def _number(name: str, value: Any) -> Any:
    return float(value) if name in _FLOATS else value


def _side(pair: tuple[int, int]) -> int | list[int]:
    return pair[0] if pair[0] == pair[1] else list(pair)
