"""Google's `.npz` files: `Spec` describes, `random_arrays` fills, `stored` lays out and `forward` runs a variant."""

from dataclasses import dataclass
from math import prod

import numpy as np

from modeling_vit_custom.conversion import google_reference

# names of attention, second norm and MLP in a block; OLD counts all layers together, NEW counts each kind separately
OLD = ("MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
NEW = ("MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")


@dataclass(frozen=True)
class Spec:
    """A variant of the file.

    positions: their name in the file, "" for computed sine-cosine positions. pool: "cls", "mean" or "map"."""

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
    """Return every array of the variant with random values, norms and biases too."""
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
    """Return the arrays as a file may hold them: under a prefix, blocks stacked, bfloat16 as two raw bytes."""
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
    """Return the upper halves of float32 numbers as files hold them: dtype V2."""
    return (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16).view("V2")


def from_bfloat16(array: np.ndarray) -> np.ndarray:
    """Return what `to_bfloat16` kept, in float64."""
    return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def forward(spec: Spec, arrays: dict[str, np.ndarray], images: np.ndarray, exact_gelu: bool = False) -> np.ndarray:
    """Return logits, or the pooled vector without a head, of images [B, H, W, 3] whose sides are multiples of the
    patch."""
    outputs = google_reference.forward(arrays, images, exact_gelu)
    return outputs["logits" if spec.classes or spec.pre_logits else "pooled"]
