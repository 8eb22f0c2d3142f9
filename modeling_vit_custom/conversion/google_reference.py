"""Google's ViTs and their preprocessing in numpy float64, from the layout of `.npz` files alone.

The reference for conversions: it shares no code with them, nor with our model and image processor. Its forward was
checked against flax 0.12.8 modules in float64, for cls, mean and map pooling: they differ by less than 1e-15.

Shapes: B images, H×W pixels, D width, N tokens, h heads, d = D / h; n → m pixels of one axis.
"""

from collections.abc import Callable, Mapping, Sequence
from math import isqrt
from os import PathLike

import numpy as np
from PIL import Image

Arrays = Mapping[str, np.ndarray]

_PREFIXES = ("", "params/", "params/img/", "opt/target/")
_STACKED, _BLOCK = "Transformer/encoderblock/", "Transformer/encoderblock_{}"
# Names of attention, second norm and MLP of a block: numbered over all layers, or by kind of layer.
_OLD = ("MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
_NEW = ("MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")
_POSITIONS = ("Transformer/posembed_input/pos_embedding", "Transformer/pos_embedding", "pos_embedding")


def read(path: str | PathLike) -> dict[str, np.ndarray]:
    """Read the arrays of the image tower in float64, without prefix; stacked blocks are split."""
    with np.load(path, allow_pickle=False) as archive:
        prefix = next(prefix for prefix in _PREFIXES if f"{prefix}embedding/kernel" in archive.files)
        named = [name for name in archive.files if name.startswith(prefix)]
        arrays = {name.removeprefix(prefix): _float64(archive[name]) for name in named}
    for name in [name for name in arrays if name.startswith(_STACKED)]:
        for i, array in enumerate(arrays.pop(name)):
            arrays[f"{_BLOCK.format(i)}/{name.removeprefix(_STACKED)}"] = array
    return arrays


def _float64(array: np.ndarray) -> np.ndarray:
    """The array in float64. numpy stores bfloat16 as untyped pairs of bytes: the upper half of float32."""
    if array.dtype == np.dtype("V2"):
        array = (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)


def forward(arrays: Arrays, images: np.ndarray, exact_gelu: bool = False, eps: float = 1e-6) -> dict[str, np.ndarray]:
    """Compute "tokens" [B, N, D], "pooled" [B, D] and, with a head, "logits" of images [B, H, W, 3] of whole patches.

    The variant (names of layers, place of positions, pooling, layer before the head) is read off the arrays.
    """
    x = _embedded(arrays, images)
    names = _OLD if f"{_BLOCK.format(0)}/{_OLD[0]}/query/kernel" in arrays else _NEW
    attention, norm, mlp = names
    for i in range(sum(name.endswith(f"/{attention}/query/kernel") and "encoderblock" in name for name in arrays)):
        block = _under(arrays, _BLOCK.format(i))
        y = _norm(_under(block, "LayerNorm_0"), x, eps)
        x = x + _attend(_under(block, attention), y, y)
        x = x + _mlp(_under(block, mlp), _norm(_under(block, norm), x, eps), exact_gelu)
    x = _norm(_under(arrays, "Transformer/encoder_norm"), x, eps)
    outputs = {"tokens": x, "pooled": _pooled(arrays, x, exact_gelu, eps)}
    logits = outputs["pooled"]
    if "pre_logits/kernel" in arrays:
        logits = np.tanh(_dense(_under(arrays, "pre_logits"), logits))
    if "head/kernel" in arrays:
        logits = _dense(_under(arrays, "head"), logits)
    return outputs if logits is outputs["pooled"] else {**outputs, "logits": logits}


def has_positions(arrays: Arrays) -> bool:
    """Return whether the file stores positions; if not, sine-cosine positions are computed."""
    return any(name in arrays for name in _POSITIONS)


def _embedded(arrays: Arrays, images: np.ndarray) -> np.ndarray:
    """Tokens [B, N, D]: the class token, if there is one, then the patches with their positions."""
    kernel = arrays["embedding/kernel"]
    p, q = kernel.shape[:2]
    batch, height, width, channels = images.shape
    cells = images.reshape(batch, height // p, p, width // q, q, channels).transpose(0, 1, 3, 2, 4, 5)
    x = cells.reshape(batch, -1, p * q * channels) @ kernel.reshape(p * q * channels, -1) + arrays["embedding/bias"]
    cls = np.tile(arrays["cls"], (batch, 1, 1)) if "cls" in arrays else x[:, :0]
    grid = (height // p, width // q)
    positions = next((arrays[name] for name in _POSITIONS if name in arrays), None)
    if positions is None:
        return np.concatenate([cls, x + _sincos(*grid, x.shape[-1])], axis=1)
    if "cls" in arrays and isqrt(positions.shape[1]) ** 2 != positions.shape[1]:  # the class token has a position too
        added = np.concatenate([positions[:, :1], _zoomed(positions[:, 1:], grid)], axis=1)
        return np.concatenate([cls, x], axis=1) + added
    return np.concatenate([cls, x + _zoomed(positions, grid)], axis=1)


def _pooled(arrays: Arrays, x: np.ndarray, exact_gelu: bool, eps: float) -> np.ndarray:
    """The class token, the output of the attention pooling head, or the mean of the tokens."""
    if "cls" in arrays:
        return x[:, 0]
    head = _under(arrays, "MAPHead_0") if "MAPHead_0/probe" in arrays else arrays
    if "probe" not in head:
        return x.mean(axis=1)
    y = _attend(_under(head, _NEW[0]), np.tile(head["probe"], (len(x), 1, 1)), x)
    return (y + _mlp(_under(head, _NEW[2]), _norm(_under(head, "LayerNorm_0"), y, eps), exact_gelu))[:, 0]


def _under(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    return {name[len(prefix) + 1 :]: array for name, array in arrays.items() if name.startswith(prefix + "/")}


def _dense(layer: Arrays, x: np.ndarray) -> np.ndarray:
    return x @ layer["kernel"] + layer["bias"]


def _norm(layer: Arrays, x: np.ndarray, eps: float) -> np.ndarray:
    variance = x.var(axis=-1, keepdims=True)
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(variance + eps) * layer["scale"] + layer["bias"]


def _mlp(layer: Arrays, x: np.ndarray, exact: bool) -> np.ndarray:
    from scipy.special import erf

    x = _dense(_under(layer, "Dense_0"), x)
    inner = erf(x / np.sqrt(2)) if exact else np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    return _dense(_under(layer, "Dense_1"), 0.5 * x * (1 + inner))


def _attend(layer: Arrays, queries: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Multi-head attention. Kernels are [D, h, d] for queries, keys and values, [h, d, D] for the output."""

    def projected(name: str, x: np.ndarray) -> np.ndarray:  # [B, h, N, d]
        kernel, bias = layer[f"{name}/kernel"], layer[f"{name}/bias"]
        return (np.tensordot(x, kernel, axes=1) + bias).transpose(0, 2, 1, 3)

    q, k, v = projected("query", queries), projected("key", tokens), projected("value", tokens)
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = (weights / weights.sum(axis=-1, keepdims=True) @ v).transpose(0, 2, 1, 3)  # [B, N, h, d]
    return np.tensordot(mixed, layer["out/kernel"], axes=2) + layer["out/bias"]


def _zoomed(table: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Positions [1, N, D] resampled to another grid, by the same scipy call as in both libraries."""
    from scipy.ndimage import zoom

    side = isqrt(table.shape[1])
    square = table.reshape(side, side, -1)
    return zoom(square, (grid[0] / side, grid[1] / side, 1), order=1).reshape(1, grid[0] * grid[1], -1)


def _sincos(height: int, width: int, depth: int) -> np.ndarray:
    """MoCo v3's table [1, h·w, D] in float32."""
    y, x = np.mgrid[:height, :width]
    omega = 1 / 10_000 ** (np.arange(depth // 4) / (depth // 4 - 1))
    y, x = np.outer(y, omega), np.outer(x, omega)
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1).astype(np.float32)[None]


# ---------- preprocessing


def prepare_whole(pictures: Sequence[Image.Image], height: int, width: int) -> np.ndarray:
    """Resize to [B, height, width, 3] in [-1, 1], as vision_transformer and big_vision's SigLIP (`resize`) do."""
    return np.stack([_resized(np.asarray(picture), height, width, bilinear) for picture in pictures]) / 127.5 - 1


def prepare_cropped(pictures: Sequence[Image.Image], side: int) -> np.ndarray:
    """Resize and crop pictures to [B, side, side, 3] in [-1, 1]: big_vision's `resize_small(256)|central_crop(224)`.

    Both sizes are scaled by side / 224. `resize_small` averages areas, rounds both edges (half to even), and truncates
    pixels to uint8.
    """
    prepared = []
    for picture in pictures:
        pixels = np.asarray(picture)
        factor = round(side * 256 / 224) / min(pixels.shape[:2])
        height, width = (int(np.rint(length * factor)) for length in pixels.shape[:2])
        resized = _resized(pixels, height, width, area).clip(0, 255).astype(np.uint8)
        top, left = (height - side) // 2, (width - side) // 2
        prepared.append(resized[top : top + side, left : left + side])
    return np.stack(prepared) / 127.5 - 1


def _resized(pixels: np.ndarray, height: int, width: int, along: Callable[..., np.ndarray]) -> np.ndarray:
    rows = along(pixels.astype(np.float64), height)
    return along(rows.swapaxes(0, 1), width).swapaxes(0, 1)


def bilinear(pixels: np.ndarray, m: int) -> np.ndarray:
    """Resize [n, …] to [m, …] as `tf.image.resize` (version 2): linear between pixel centres, without antialiasing."""
    n = len(pixels)
    place = (np.arange(m) + 0.5) * n / m - 0.5
    lower = np.floor(place).astype(int)
    part = (place - lower).reshape(-1, *[1] * (pixels.ndim - 1))
    return pixels[lower.clip(0, n - 1)] * (1 - part) + pixels[(lower + 1).clip(0, n - 1)] * part


def area(pixels: np.ndarray, m: int) -> np.ndarray:
    """Resize [n, …] to [m, …] as `tf.image.resize` with "area": the mean over the area of each output pixel."""
    n = len(pixels)
    sums = np.concatenate([np.zeros_like(pixels[:1]), pixels.cumsum(axis=0)])  # sum of all pixels before a border
    border = np.arange(m + 1) * n / m
    whole = np.minimum(border.astype(int), n - 1)
    part = (border - whole).reshape(-1, *[1] * (pixels.ndim - 1))
    return np.diff(sums[whole] + part * pixels[whole], axis=0) * m / n
