"""Google's ViT from the layout of its `.npz` files alone, in numpy float64: a reference that shares no code with ours.

`Spec` names a variant, `random_arrays` fills it, `forward` runs it, `stored` lays it out as files do. Checked against
modules of flax 0.12.8 in float64, for cls, mean and map: they differ by less than 1e-15.

Shapes: B images, H×W pixels, D width, N tokens.
"""

from dataclasses import dataclass
from math import isqrt, prod

import numpy as np
from scipy.ndimage import zoom
from scipy.special import erf

# names of attention, second norm and MLP in a block: all layers counted, or each kind on its own
OLD = ("MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
NEW = ("MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")


@dataclass(frozen=True)
class Spec:
    """positions: where they lie in the file, "" for computed sine-cosine ones.   pool: "cls", "mean" or "map"."""

    names: tuple[str, str, str] = OLD
    positions: str = "Transformer/posembed_input/pos_embedding"
    cls_in_positions: bool = True
    pool: str = "cls"
    pre_logits: int = 0
    classes: int = 5
    width: int = 32
    heads: int = 4
    mlp: int = 48
    depth: int = 3
    patch: int = 8
    side: int = 32

    @property
    def grid(self) -> int:
        return self.side // self.patch


def random_arrays(spec: Spec, seed: int = 0) -> dict[str, np.ndarray]:
    """Every array of the variant, random, norms and biases too."""
    rng = np.random.default_rng(seed)
    attention, norm, mlp = spec.names
    d, h = spec.width, spec.heads
    shapes: dict[str, tuple[int, ...]] = {
        "embedding/kernel": (spec.patch, spec.patch, 3, d),
        "embedding/bias": (d,),
        "Transformer/encoder_norm/scale": (d,),
        "Transformer/encoder_norm/bias": (d,),
    }

    def block(prefix: str, attention: str, norms: tuple[str, ...], mlp: str):
        for name in ("query", "key", "value"):
            shapes[f"{prefix}/{attention}/{name}/kernel"] = (d, h, d // h)
            shapes[f"{prefix}/{attention}/{name}/bias"] = (h, d // h)
        shapes[f"{prefix}/{attention}/out/kernel"] = (h, d // h, d)
        shapes[f"{prefix}/{attention}/out/bias"] = (d,)
        for name in norms:
            shapes[f"{prefix}/{name}/scale"] = shapes[f"{prefix}/{name}/bias"] = (d,)
        for name, (before, after) in {"Dense_0": (d, spec.mlp), "Dense_1": (spec.mlp, d)}.items():
            shapes[f"{prefix}/{mlp}/{name}/kernel"] = (before, after)
            shapes[f"{prefix}/{mlp}/{name}/bias"] = (after,)

    for i in range(spec.depth):
        block(f"Transformer/encoderblock_{i}", attention, ("LayerNorm_0", norm), mlp)
    if spec.positions:
        shapes[spec.positions] = (1, spec.grid**2 + (spec.pool == "cls" and spec.cls_in_positions), d)
    if spec.pool == "cls":
        shapes["cls"] = (1, 1, d)
    if spec.pool == "map":
        shapes["MAPHead_0/probe"] = (1, 1, d)
        block("MAPHead_0", "MultiHeadDotProductAttention_0", ("LayerNorm_0",), "MlpBlock_0")
    if spec.pre_logits:
        shapes["pre_logits/kernel"], shapes["pre_logits/bias"] = (d, spec.pre_logits), (spec.pre_logits,)
    if spec.classes:
        shapes["head/kernel"], shapes["head/bias"] = (spec.pre_logits or d, spec.classes), (spec.classes,)
    arrays = {}
    for name, shape in shapes.items():
        fan_in = prod(shape[:-1]) if name.endswith("kernel") else 4
        arrays[name] = rng.standard_normal(shape) / np.sqrt(fan_in) + name.endswith("scale")
    return arrays


def stored(arrays: dict[str, np.ndarray], prefix: str = "", scanned: bool = False, bfloat16: bool = False):
    """The arrays as a file may hold them: under a prefix, blocks stacked, bfloat16 as two bytes of nothing."""
    if scanned:
        rest = {name.split("/", 2)[2] for name in arrays if name.startswith("Transformer/encoderblock_")}
        depth = 1 + max(int(name.split("/")[1].split("_")[1]) for name in arrays if "/encoderblock_" in name)
        blocks = {
            f"Transformer/encoderblock/{name}": np.stack(
                [arrays[f"Transformer/encoderblock_{i}/{name}"] for i in range(depth)]
            )
            for name in rest
        }
        arrays = {name: array for name, array in arrays.items() if "/encoderblock_" not in name} | blocks
    if bfloat16:
        arrays = {name: to_bfloat16(array) for name, array in arrays.items()}
    return {prefix + name: array for name, array in arrays.items()}


def to_bfloat16(array: np.ndarray) -> np.ndarray:
    """The upper halves of float32 numbers, as files hold them: dtype V2."""
    return (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16).view("V2")


def from_bfloat16(array: np.ndarray) -> np.ndarray:
    """What `to_bfloat16` kept, in float64."""
    return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def forward(spec: Spec, arrays: dict[str, np.ndarray], images: np.ndarray, exact_gelu: bool = False) -> np.ndarray:
    """Logits, or what a head would see, of images [B, H, W, 3] of any size that holds whole patches."""
    x = _embed(arrays, images, spec.patch)  # [B, h, w, D]
    batch, *grid, width = x.shape
    x = x.reshape(batch, -1, width)
    positions = arrays[spec.positions] if spec.positions else None
    cls = np.tile(arrays["cls"], (batch, 1, 1)) if "cls" in arrays else x[:, :0]
    if positions is None:
        x = np.concatenate([cls, x + _sincos(*grid, width)], axis=1)
    elif spec.cls_in_positions and spec.pool == "cls":  # added to the concatenated tokens
        patches = _zoomed(positions[:, 1:], grid)
        x = np.concatenate([cls, x], axis=1) + np.concatenate([positions[:, :1], patches], axis=1)
    else:
        x = np.concatenate([cls, x + _zoomed(positions, grid)], axis=1)
    attention, norm, mlp = spec.names
    for i in range(spec.depth):
        block = _under(arrays, f"Transformer/encoderblock_{i}")
        y = _norm(_under(block, "LayerNorm_0"), x)
        x = x + _attend(_under(block, attention), y, y)
        x = x + _mlp(_under(block, mlp), _norm(_under(block, norm), x), exact_gelu)
    x = _norm(_under(arrays, "Transformer/encoder_norm"), x)
    if spec.pool == "map":
        head = _under(arrays, "MAPHead_0")
        probe = np.tile(head["probe"], (batch, 1, 1))
        y = _attend(_under(head, "MultiHeadDotProductAttention_0"), probe, x)
        x = (y + _mlp(_under(head, "MlpBlock_0"), _norm(_under(head, "LayerNorm_0"), y), exact_gelu))[:, 0]
    else:
        x = x[:, 0] if spec.pool == "cls" else x.mean(axis=1)
    if spec.pre_logits:
        x = np.tanh(_dense(_under(arrays, "pre_logits"), x))
    return _dense(_under(arrays, "head"), x) if spec.classes else x


def _under(arrays, prefix):
    return {name[len(prefix) + 1 :]: array for name, array in arrays.items() if name.startswith(prefix + "/")}


def _embed(arrays, images, patch):
    batch, height, width, channels = images.shape
    cells = images.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return np.einsum("bhpwqc,pqcd->bhwd", cells, arrays["embedding/kernel"]) + arrays["embedding/bias"]


def _dense(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def _norm(layer, x):
    variance = x.var(axis=-1, keepdims=True)
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(variance + 1e-6) * layer["scale"] + layer["bias"]


def _mlp(layer, x, exact):
    x = _dense(_under(layer, "Dense_0"), x)
    inner = erf(x / np.sqrt(2)) if exact else np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    return _dense(_under(layer, "Dense_1"), 0.5 * x * (1 + inner))


def _attend(layer, queries, tokens):
    q, k, v = (
        np.einsum("bnd,dhe->bhne", x, layer[f"{name}/kernel"]) + layer[f"{name}/bias"][None, :, None]
        for name, x in (("query", queries), ("key", tokens), ("value", tokens))
    )
    scores = np.einsum("bhne,bhme->bhnm", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed = np.einsum("bhnm,bhme->bhne", weights, v)
    return np.einsum("bhne,hed->bnd", mixed, layer["out/kernel"]) + layer["out/bias"]


def _zoomed(table, grid):
    """Positions [1, N, D] at another grid, by the call both libraries make."""
    side = isqrt(table.shape[1])
    square = table.reshape(side, side, -1)
    return zoom(square, (grid[0] / side, grid[1] / side, 1), order=1).reshape(1, grid[0] * grid[1], -1)


def _sincos(height, width, depth):
    """MoCo v3's table [1, h·w, D] in float32."""
    y, x = np.mgrid[:height, :width]
    omega = 1 / 10_000 ** (np.arange(depth // 4) / (depth // 4 - 1))
    y, x = np.outer(y, omega), np.outer(x, omega)
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1).astype(np.float32)[None]
