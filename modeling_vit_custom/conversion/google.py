"""Google's `.npz` files: vision_transformer (ImageNet-21k, AugReg, SAM) and big_vision (also SigLIP, LiT).

Shapes: D width, H heads, d = D / H, M hidden width of the MLP, p×q patch, C channels, L blocks, N patches.
"""

import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..interpolation_vit_custom import COMPUTED
from ..weight_files_vit_custom import MAX_TENSORS, shorten_list
from . import google_reference
from .check import Reference
from .engine import ConversionError, Row, State, Table, folded_positions, respelled, same
from .family import Family, Settings, Source, resolve
from .preprocessing import AREA, BILINEAR, HALF, documented, resize_and_crop, squash

_PREFIXES = ("", "params/", "params/img/", "opt/target/")
_STEM = "embedding/kernel"
_POSITIONS = "pos_embedding"
_POSITIONS_WITH_CLS = "Transformer/posembed_input/pos_embedding"
# Older spelling -> newer
_SPELLINGS = (
    (r"^Transformer/pos_embedding$", _POSITIONS),
    (r"^(probe$|(?:LayerNorm|MlpBlock|MultiHeadDotProductAttention)_0/)", r"MAPHead_0/\1"),
)
_STATE = {"opt/*": "the optimiser's state", "chrono/*": "training's clock", "extra/*": "of the training"}
_MAX_BLOCKS = 512  # as in our configuration
_MAX_UNPACKED = 20  # times the file's size: weights hardly compress, zeros by a factor of a thousand
_REFUSED = {
    "conv_root/*": "a hybrid, whose patches come from a ResNet",
    "block*/unit*": "a hybrid, whose patches come from a ResNet",
    "MixerBlock_*": "an MLP-Mixer",
}


def read_npz(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Read the arrays of the image tower under their flax names.

    Prefixes are removed, blocks stacked along a depth axis are split, bfloat16 becomes float32. A position table that
    includes the class token is named "Transformer/posembed_input/pos_embedding", any other "pos_embedding". Arrays
    outside the tower keep their full names; training state is not read, its names get a zero each.
    Raises ConversionError for a file that cannot be read, that needs unpickling, or that holds no plain ViT.
    """
    state = _load(path)
    prefix = next((prefix for prefix in _PREFIXES if prefix + _STEM in state), None)
    if prefix is None:
        raise ConversionError(f"{path}: no {_STEM!r} among {shorten_list(sorted(state))}: no ViT of Google's.")
    state = respelled(state, [(f"^{prefix}", ""), *_SPELLINGS])
    for pattern, what in _REFUSED.items():
        if any(fnmatchcase(name, pattern) for name in state):
            raise ConversionError(f"{path}: {what}: no place in this architecture.")
    if state[_STEM].ndim != 4:
        raise ConversionError(f"{path}: NaFlex, which embeds flattened patches: no place in this architecture.")
    return _with_named_positions(_unstacked(state))


def _load(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    try:
        _check_members(path)
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            prefix = next((prefix for prefix in _PREFIXES if prefix + _STEM in archive.files), "")
            return {
                name: torch.zeros(1) if _is_state(name, prefix) else _tensor(archive[name]) for name in archive.files
            }
    except (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ConversionError(f"{path} cannot be read as .npz, and nothing in it was unpickled: {error}") from error


def _is_state(name: str, prefix: str) -> bool:
    """Whether `name` is training state, not a parameter; parameters begin with `prefix`."""
    return not (prefix and name.startswith(prefix)) and any(fnmatchcase(name, pattern) for pattern in _STATE)


def _check_members(path: str | os.PathLike) -> None:
    """Raise ValueError if the archive unpacks to far more than its size, or an array claims more bytes than it has."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        unpacked, packed = sum(member.file_size for member in members), os.path.getsize(path)
        if len(members) > MAX_TENSORS or unpacked > _MAX_UNPACKED * packed + 2**20:
            raise ValueError(f"{len(members):,} arrays of {unpacked:,} bytes in a file of {packed:,}")
        for member in members:
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            if math.prod(shape) * dtype.itemsize > member.file_size:
                raise ValueError(f"{member.filename} claims shape {shape}, more than its {member.file_size:,} bytes")


def _tensor(array: np.ndarray) -> torch.Tensor:
    """An array as a tensor; numpy has no bfloat16 and stores it as untyped pairs of bytes."""
    if array.dtype == np.dtype("V2"):
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).float()
    return torch.from_numpy(array)


def _unstacked(state: State) -> dict[str, torch.Tensor]:
    """Split Transformer/encoderblock/… [L, …] into Transformer/encoderblock_0/… and so on."""
    unstacked: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if name.startswith("Transformer/encoderblock/"):
            if tensor.ndim == 0 or len(tensor) > _MAX_BLOCKS:
                raise ConversionError(
                    f"{name} has shape {tuple(tensor.shape)}: at most {_MAX_BLOCKS} blocks are known."
                )
            rest = name.removeprefix("Transformer/encoderblock")
            unstacked |= {f"Transformer/encoderblock_{i}{rest}": block for i, block in enumerate(tensor)}
        else:
            unstacked[name] = tensor
    return unstacked


def _with_named_positions(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the positions by whether they include the class token; their name and number show it."""
    if "cls" not in state and _POSITIONS_WITH_CLS in state:
        state[_POSITIONS] = state.pop(_POSITIONS_WITH_CLS)
    elif "cls" in state and _POSITIONS in state:
        patches = state[_POSITIONS].shape[1] - 1
        if math.isqrt(patches) ** 2 == patches:  # big_vision decides by the same rule
            state[_POSITIONS_WITH_CLS] = state.pop(_POSITIONS)
    return state


def table(heads: int = 1) -> Table:
    """Build the table of both libraries.   heads: used for writing only; tensors that are read contain the number."""
    block, ours = "Transformer/encoderblock_{i}", "vit.layers.{i}"
    cls, positions = "vit.embeddings.cls_token", "vit.embeddings.position_embeddings"
    pooler, map_head = "vit.pooler.attention_pooling", "MAPHead_0"
    rows = [
        *_dense("vit.embeddings.patch_embeddings.projection", "embedding", (3, 2, 0, 1)),
        folded_positions([(cls, "cls")], positions, _POSITIONS_WITH_CLS),
        same(cls, "cls"),
        same(positions, _POSITIONS),
        *_norm(f"{ours}.layernorm_before", f"{block}/LayerNorm_0"),
        *_norm("vit.layernorm", "Transformer/encoder_norm"),
        same(f"{pooler}.query", f"{map_head}/probe"),
        *_attention(f"{pooler}.attention", f"{map_head}/MultiHeadDotProductAttention_0", heads),
        *_norm(f"{pooler}.layernorm", f"{map_head}/LayerNorm_0"),
        *_mlp(f"{pooler}.mlp", f"{map_head}/MlpBlock_0"),
        *_dense("pre_logits.0", "pre_logits"),
        *_dense("classifier", "head"),
    ]
    for attention, norm, mlp in ((1, 2, 3), (0, 1, 0)):  # vision_transformer numbers all layers, big_vision each kind
        rows += [
            *_attention(f"{ours}.attention", f"{block}/MultiHeadDotProductAttention_{attention}", heads),
            *_norm(f"{ours}.layernorm_after", f"{block}/LayerNorm_{norm}"),
            *_mlp(f"{ours}.mlp", f"{block}/MlpBlock_{mlp}"),
        ]
    return Table(rows, unused={"params/*": "not of the image tower", **_STATE})


def _dense(ours: str, theirs: str, order: tuple[int, ...] = (1, 0)) -> list[Row]:
    """Rows of a linear layer: flax has the outputs on the last axis, torch on the first."""
    back = tuple(order.index(axis) for axis in range(len(order)))
    kernel = Row(
        (f"{ours}.weight",), (f"{theirs}/kernel",), lambda x: (x.permute(order),), lambda x: (x.permute(back),)
    )
    return [kernel, same(f"{ours}.bias", f"{theirs}/bias")]


def _norm(ours: str, theirs: str) -> list[Row]:
    return [same(f"{ours}.weight", f"{theirs}/scale"), same(f"{ours}.bias", f"{theirs}/bias")]


def _mlp(ours: str, theirs: str) -> list[Row]:
    return [*_dense(f"{ours}.fc1", f"{theirs}/Dense_0"), *_dense(f"{ours}.fc2", f"{theirs}/Dense_1")]


def _attention(ours: str, theirs: str, heads: int) -> list[Row]:
    """Rows of an attention layer: input projections [D, H, d] with biases [H, d], output [H, d, D] with bias [D]."""
    rows = []
    for name in ("query", "key", "value"):
        rows += [
            Row(
                (f"{ours}.{name[0]}_proj.weight",),
                (f"{theirs}/{name}/kernel",),
                lambda x: (x.flatten(1).T,),
                lambda x: (x.T.unflatten(1, (heads, -1)),),
            ),
            Row(
                (f"{ours}.{name[0]}_proj.bias",),
                (f"{theirs}/{name}/bias",),
                lambda x: (x.flatten(),),
                lambda x: (x.unflatten(0, (heads, -1)),),
            ),
        ]
    out = Row(
        (f"{ours}.o_proj.weight",),
        (f"{theirs}/out/kernel",),
        lambda x: (x.flatten(0, 1).T,),
        lambda x: (x.T.unflatten(0, (heads, -1)),),
    )
    return [*rows, out, same(f"{ours}.o_proj.bias", f"{theirs}/out/bias")]


def _settings(source: Source, tensors: State, whose: str) -> Settings:
    given = {**source.config, **source.flags}
    defaults = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
    fields, notes = resolve(given, {name: name for name in defaults}, defaults, whose)
    if "hidden_act" not in given:
        notes.append("timm and transformers run these weights with the exact GELU: --hidden_act gelu")
    fields["position_interpolation"] = "bilinear_align_corners"
    queries = ("Transformer/*/query/kernel", "MAPHead_0/*/query/kernel")
    if kernels := [kernel for name, kernel in source.state.items() if any(fnmatchcase(name, q) for q in queries)]:
        fields["num_attention_heads"] = kernels[0].shape[1]
    attends = "vit.pooler.attention_pooling.query" in tensors
    if "vit.embeddings.cls_token" not in tensors and not attends:
        fields["pooling"] = "mean"
    if "vit.embeddings.position_embeddings" not in tensors:
        fields |= {"position_embedding": "sincos2d", "position_interpolation": COMPUTED}
        notes.append("the file has no positions: sine-cosine ones are computed")
    prepare = _CROPPED if whose == "big_vision" and not attends else _WHOLE
    processor, said = documented(prepare, source, tensors, f"as {whose} documents")
    return Settings(fields, processor, notes + said)


_WHOLE = squash(HALF, BILINEAR, antialias=False)
# big_vision evaluates classifiers by resize_small(256)|central_crop(224), SigLIP by resize(224)
_CROPPED = resize_and_crop(HALF, AREA, lambda side: (round(side * 256 / 224), side), rounding="round_edge")

FAMILIES = [
    Family(name, (f"Transformer/encoderblock_*/{mlp}/*",), (), table(), partial(_settings, whose=name))
    for name, mlp in (("vision_transformer", "MlpBlock_3"), ("big_vision", "MlpBlock_0"))
]


def reference_of(path: str | os.PathLike, config: Any, library: str) -> Reference:
    """Build the reference that runs the file as its library would.

    config: of the conversion, for settings that the file does not contain.   Raises ConversionError for an activation
    that `library` does not have.
    """
    if config.hidden_act not in ("gelu", "gelu_pytorch_tanh"):
        raise ConversionError(f"hidden_act={config.hidden_act!r}: {library} has gelu and gelu_pytorch_tanh only.")
    arrays = google_reference.read(path)
    exact, eps = config.hidden_act == "gelu", config.layer_norm_eps
    p, q = config.patch_hw

    def run(images: torch.Tensor) -> dict[str, torch.Tensor]:
        height, width = (length - length % side for length, side in zip(images.shape[2:], (p, q), strict=True))
        pixels = images[:, :, :height, :width].permute(0, 2, 3, 1).double().numpy()
        outputs = google_reference.forward(arrays, pixels, exact, eps)
        return {name: torch.from_numpy(array) for name, array in outputs.items()}

    def prepare(pictures: Sequence[Image.Image]) -> torch.Tensor:
        height, width = config.image_hw
        crops = library == "big_vision" and config.pooling != "map" and height == width
        if crops:
            prepared = google_reference.prepare_cropped(pictures, height)
        else:
            prepared = google_reference.prepare_whole(pictures, height, width)
        return torch.from_numpy(prepared).permute(0, 3, 1, 2)

    resampled = config.position_interpolation != COMPUTED and not google_reference.has_positions(arrays)
    only = "the file's sine-cosine positions are computed again for each size there, and resampled here" * resampled
    return Reference(f"{library} in numpy float64, with its documented preprocessing", run, prepare, only)
