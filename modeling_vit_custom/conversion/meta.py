"""Meta's `.pth` files: DeiT, DeiT III, DINO, MAE, DINOv2 and DINOv3.

They hold tensors only. The number of heads, eps, position resampling and preprocessing are taken from the code of the
repository that published the file.

Shapes: D width, H heads, d = D / H, P prefix tokens, N patches, R registers.
"""

import os
import pickle
import zipfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch

from ..inference.foreign import check_stored_whole
from ..weight_files_vit_custom import shorten_list
from .engine import ConversionError, Row, State, Table, averaged_heads, folded_positions, packed, respelled, same
from .family import Family, Settings, Source, resolve
from .preprocessing import BICUBIC, BILINEAR, IMAGENET, Preparation, documented, resize_and_crop, squash

_WRAPPERS = ("model", "state_dict", "teacher")
_SPELLINGS = (
    (r"^(module\.|backbone\.)+", ""),
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # blocks in chunks: drop the chunk number
)


def read_pth(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Read the tensors of a `.pth` file and rename them by `canonical`; nothing in the file is executed.

    Raises ConversionError as `read_pickled` does.
    """
    return canonical(read_pickled(path))


def read_pickled(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Read the tensors of a torch.save file, memory-mapped if its format allows; nothing in it is executed.

    Raises ConversionError for another kind of file, and for one that holds more than tensors and plain values.
    """
    try:
        with torch.serialization.safe_globals([Namespace]):  # DeiT and MAE keep their command line
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_stored_zip(path))
    except (
        OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile,
    ) as error:  # fmt: skip
        reason = str(error).strip().split("\n")[0]
        raise ConversionError(f"{path} cannot be read as tensors, and nothing in it was executed: {reason}") from error
    for wrapper in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict):
        raise ConversionError(f"{path} holds a {type(loaded).__name__} instead of named tensors.")
    if other := [str(name) for name, value in loaded.items() if not isinstance(value, torch.Tensor)]:
        raise ConversionError(f"{path} holds no tensors but others under {shorten_list(other)}.")
    try:
        check_stored_whole(path, loaded)
    except ValueError as error:
        raise ConversionError(str(error)) from error
    return loaded


def _is_stored_zip(path: str | os.PathLike) -> bool:
    """Return whether the file has torch's zip format (since 1.6). Raises ValueError if its members are compressed: they
    could unpack to far more than their size, and cannot be memory-mapped.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return False
    with zipfile.ZipFile(path) as archive:
        if packed := [one.filename for one in archive.infolist() if one.compress_type != zipfile.ZIP_STORED]:
            raise ValueError(f"{shorten_list(packed)} are compressed, as torch.save never does")
    return True


def canonical(state: State) -> dict[str, torch.Tensor]:
    """Remove the prefixes of wrappers from the names, and the chunk numbers from those of blocks."""
    return respelled(state, _SPELLINGS)


def _masked_bias() -> Row:
    """DINOv3's bias of the fused QKV and the mask that multiplies it (0 for k)."""

    def read(bias: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (bias * mask).chunk(3)

    def write(*parts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, k, v = parts
        return torch.cat(parts), torch.cat([torch.ones_like(q), (k != 0).to(k.dtype), torch.ones_like(v)])

    names = tuple(f"{_OURS}.attention.{name}_proj.bias" for name in "qkv")
    return Row(names, (f"{_BLOCK}.attn.qkv.bias", f"{_BLOCK}.attn.qkv.bias_mask"), read, write)


_BLOCK, _OURS = "blocks.{i}", "vit.layers.{i}"
_CLS = ("vit.embeddings.cls_token", "cls_token")
_POSITIONS = ("vit.embeddings.position_embeddings", "pos_embed")
_ROWS = [
    same("vit.embeddings.patch_embeddings.projection.{p}", "patch_embed.proj.{p}"),
    *(
        same(f"{_OURS}.{ours}.{{p}}", f"{_BLOCK}.{theirs}.{{p}}")
        for ours, theirs in {
            "layernorm_before": "norm1",
            "attention.o_proj": "attn.proj",
            "layernorm_after": "norm2",
            "mlp.fc1": "mlp.fc1",
            "mlp.fc2": "mlp.fc2",
            "mlp.gate_proj": "mlp.w1",
            "mlp.up_proj": "mlp.w2",
            "mlp.down_proj": "mlp.w3",
        }.items()
    ),
    _masked_bias(),
    packed([f"{_OURS}.attention.{name}_proj.{{p}}" for name in "qkv"], f"{_BLOCK}.attn.qkv.{{p}}"),
    packed([f"{_OURS}.mlp.{name}_proj.{{p}}" for name in ("gate", "up")], f"{_BLOCK}.mlp.w12.{{p}}"),
    *(
        same(f"{_OURS}.layer_scale{k}.lambda1", f"{_BLOCK}.{name}")
        for k in "12"
        for name in (f"ls{k}.gamma", f"gamma_{k}")
    ),
    same("vit.layernorm.{p}", "norm.{p}"),
    same("vit.pooler.layernorm.{p}", "fc_norm.{p}"),
    averaged_heads("head", "head_dist"),
    same("classifier.{p}", "head.{p}"),
    same("classifier.{p}", "linear_head.{p}"),
]
_UNUSED = {
    "mask_token": "the mask token only serves pre-training",
    "decoder_*": "the decoder of pre-training",
    "head.mlp.*": "a head of pre-training",
    "head.last_layer.*": "a head of pre-training",
    "dino_head.*": "a head of pre-training",
    "ibot_head.*": "a head of pre-training",
    "local_cls_norm.*": "only serves pre-training on small crops",
    "rope_embed.periods": "computed from rope_theta, which they tell",
}
_ZERO = ["vit.layers.*.attention.?_proj.bias"]

_REGISTERS = "vit.embeddings.register_tokens"
_PLAIN = Table([folded_positions([_CLS], *_POSITIONS), *_ROWS], _ZERO, _UNUSED)
_DISTILLED = Table([folded_positions([_CLS, (_REGISTERS, "dist_token")], *_POSITIONS), *_ROWS], _ZERO, _UNUSED)
_UNFOLDED = Table([same(*_CLS), same(*_POSITIONS), *_ROWS], _ZERO, _UNUSED)
_WITH_REGISTERS = Table([same(_REGISTERS, "register_tokens"), *_PLAIN.rows], _ZERO, _UNUSED)
_ROTARY = Table([same(*_CLS), same(_REGISTERS, "storage_tokens"), *_ROWS], _ZERO, _UNUSED)


def _settings(
    source: Source,
    tensors: State,
    whose: str,
    assumed: Mapping[str, Any],
    fixed: Mapping[str, Any],
    prepare: Preparation,
) -> Settings:
    """assumed: defaults that differ from the common ones.   fixed: field → value, or (source, tensors) → value."""
    fixed = {name: value(source, tensors) if callable(value) else value for name, value in fixed.items()}
    gated = "vit.layers.0.mlp.gate_proj.weight" in tensors
    defaults = {"hidden_act": "silu" if gated else "gelu", "layer_norm_eps": 1e-6, **assumed}
    if "num_attention_heads" not in fixed and _width(tensors) in _HEADS:
        defaults["num_attention_heads"] = _HEADS[_width(tensors)]
    given = {**source.config, **source.flags}
    fields, notes = resolve(given, {name: name for name in (*defaults, "num_attention_heads")}, defaults, whose)
    processor, said = documented(prepare, source, tensors, f"as the repository of {whose} evaluates")
    return Settings(fields | fixed, processor, [*notes, *said, *_look_alikes(source.state)])


FOR_TIMM = "For a model of timm's give the folder with its config.json, or timm:NAME"
# Tensor names that no model of timm has.
_METAS_OWN = ("mask_token", "decoder_*", "register_tokens", "storage_tokens", "linear_head.*", "blocks.*.mlp.w12.*")


def _look_alikes(state: State) -> list[str]:
    if any(fnmatchcase(name, pattern) for name in state for pattern in _METAS_OWN):
        return []
    return [f"timm's files look alike, but have preprocessing, pooling and labels of their own. {FOR_TIMM}"]


_HEADS = {1280: 16}  # ViT-H of DeiT III and MAE; all other widths have heads of size 64


def _width(tensors: State) -> int:
    return tensors["vit.embeddings.patch_embeddings.projection.weight"].shape[0]


def _joined(pooling: str) -> Callable[[Source, State], str]:
    """Rule for the pooling: `pooling` if the classifier's input is two vectors wide, else "cls"."""

    def choose(_: Source, tensors: State) -> str:
        head = tensors.get("classifier.weight")
        return pooling if head is not None and head.shape[1] == 2 * _width(tensors) else "cls"

    return choose


def _rotary_heads(source: Source, tensors: State) -> int:
    """H, from the number of stored periods, which is d / 4."""
    return _width(tensors) // (4 * len(_periods(source)))


def _rope_theta(source: Source, tensors: State) -> float:
    """Base θ of the periods θ^(4i/d); the file may have rounded them to bfloat16."""
    periods = _periods(source)
    exponents = torch.arange(len(periods), dtype=torch.float64) / len(periods)
    theta = float((periods[-1] ** (1 / exponents[-1])).round())
    if not torch.allclose(periods, theta**exponents, rtol=1e-2, atol=0):
        raise ConversionError(f"rope_embed.periods={periods.tolist()}: not the powers of one base that are known here.")
    return theta


def _periods(source: Source) -> torch.Tensor:
    periods = source.state["rope_embed.periods"].double()
    if periods.ndim != 1 or len(periods) < 2:
        raise ConversionError(f"rope_embed.periods has shape {tuple(periods.shape)}: a quarter of a head is needed.")
    return periods


_BY_RATIO = resize_and_crop(IMAGENET, BICUBIC, rounding="round_crop")
# for inputs above 224 pixels, MAE resizes to the input size itself
_BY_RATIO_UP_TO_224 = resize_and_crop(
    IMAGENET, BICUBIC, lambda side: (int(side * 256 / 224) if side <= 224 else side, side), rounding="round_crop"
)
_TO_224 = resize_and_crop(IMAGENET, BICUBIC, lambda side: (256, 224), rounding="round_crop")
_WHOLE = squash(IMAGENET, BILINEAR)

_BICUBIC = {"position_interpolation": "bicubic"}
_OFFSET = {"position_interpolation": "bicubic_offset", "pooling": _joined("cls_mean")}
_ANTIALIASED = {"position_interpolation": "bicubic_antialias", "pooling": _joined("cls_mean")}
_ROPE = {"rope_theta": _rope_theta, "num_attention_heads": _rotary_heads, "pooling": _joined("cls_mean")}
_QKV = "blocks.*.attn.qkv.weight"

# name, patterns present, patterns absent, table, defaults, fixed fields of the family, preprocessing
_FAMILIES: list[
    tuple[str, tuple[str, ...], tuple[str, ...], Table, dict[str, Any], dict[str, Any], Preparation]
] = [
    # DeiT, DINO, and MAE's encoder without its decoder have the same tensor names
    ("meta_vit", (_QKV, "cls_token", "norm.weight"), ("dist_token", "*.gamma*", "decoder_*"), _PLAIN, {}, _BICUBIC,
     _BY_RATIO),
    ("meta_deit, distilled", (_QKV, "dist_token"), (), _DISTILLED, {}, {**_BICUBIC, "pooling": _joined("cls_register")},
     _BY_RATIO),
    ("meta_deit3", (_QKV, "blocks.*.gamma_1"), (), _UNFOLDED, {}, _BICUBIC, _BY_RATIO),
    ("meta_mae", (_QKV, "decoder_*", "norm.weight"), (), _PLAIN, {}, _BICUBIC, _BY_RATIO_UP_TO_224),
    ("meta_mae, fine-tuned", (_QKV, "cls_token", "fc_norm.weight"), (), _PLAIN, {}, {**_BICUBIC, "pooling": "mean"},
     _BY_RATIO_UP_TO_224),
    ("meta_dinov2", (_QKV, "blocks.*.ls1.gamma", "pos_embed"), ("register_tokens",), _PLAIN, {}, _OFFSET, _TO_224),
    ("meta_dinov2_with_registers", (_QKV, "blocks.*.ls1.gamma", "register_tokens"), (), _WITH_REGISTERS, {},
     _ANTIALIASED, _TO_224),
    ("meta_dinov3", (_QKV, "storage_tokens", "rope_embed.periods"), (), _ROTARY,
     {"layer_norm_eps": 1e-5, "image_size": 224}, _ROPE, _WHOLE),
]  # fmt: skip

FAMILIES = [
    Family(name, present, absent, rows, partial(_settings, whose=name, assumed=assumed, fixed=fixed, prepare=prepare))
    for name, present, absent, rows, assumed, fixed, prepare in _FAMILIES
]
