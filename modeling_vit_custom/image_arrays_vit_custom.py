"""Pixel arrays: from any layout and type to uint8 with the channels a model takes.

Shapes: C channels (1 grey, 2 grey + alpha, 3 RGB, 4 RGBA; in the end 1 or 3), H height, W width.
"""

from collections.abc import Sequence

import numpy as np
import torch

from .image_limits_vit_custom import ImageDecodingError

CHANNELS_FIRST, CHANNELS_LAST = "channels_first", "channels_last"
CHANNEL_ORDERS = {"rgb": [0, 1, 2, 3], "bgr": [2, 1, 0, 3]}  # where red, green, blue and alpha lie


def tensor_to_array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor's values on the CPU; types that numpy lacks (bfloat16, float8) as float32."""
    try:
        tensor = tensor.detach().cpu()
        if tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64):
            tensor = tensor.float()
        return tensor.numpy()
    except (TypeError, RuntimeError, NotImplementedError) as error:  # sparse, quantized, without data, …
        raise ImageDecodingError(
            f"a {tensor.dtype} tensor ({tensor.layout}, on {tensor.device}) holds no plain pixels. "
            "Fix: give a dense tensor of bool, uint8, uint16 or float."
        ) from error


def to_channels_first(array: np.ndarray, layout: str | None, channel_order: str) -> np.ndarray:
    """[H, W], [H, W, C] or [C, H, W] -> [C, H, W] in RGB order, refusing what could be either."""
    if isinstance(array, np.ma.MaskedArray):
        raise ImageDecodingError("a masked array has no value behind its mask. Fix: give array.filled(value).")
    if array.ndim == 4:
        raise ImageDecodingError(f"shape {array.shape} is a batch. Fix: give its images one by one.")
    if array.ndim not in (2, 3):
        raise ImageDecodingError(
            f"shape {array.shape} is not an image. Fix: give [height, width] or that with 1 to 4 channels."
        )
    if 0 in array.shape:
        raise ImageDecodingError(f"shape {array.shape} holds no pixels. Fix: check how it was cropped.")
    if array.ndim == 2:
        return array[None]
    first, last = array.shape[0] in (1, 2, 3, 4), array.shape[2] in (1, 2, 3, 4)
    if layout is None and first and last:
        raise ImageDecodingError(
            f"shape {array.shape} can be read with channels first or last. "
            f"Fix: pass input_data_format={CHANNELS_FIRST!r} or {CHANNELS_LAST!r}."
        )
    layout = layout or (CHANNELS_FIRST if first else CHANNELS_LAST)
    if not (first if layout == CHANNELS_FIRST else last):
        raise ImageDecodingError(
            f"shape {array.shape} has no axis of 1 to 4 channels ({layout.replace('_', ' ')}). "
            "Fix: give grey, grey + alpha, RGB or RGBA, and the right input_data_format."
        )
    array = array if layout == CHANNELS_FIRST else np.moveaxis(array, -1, 0)
    return array if array.shape[0] < 3 else array[CHANNEL_ORDERS[channel_order][: array.shape[0]]]


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Scale by dtype to 0..255, rounding to nearest."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind == "b":
        return pixels.astype(np.uint8) * 255
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.dtype.kind == "f":
        low, high = _finite(pixels).min(), pixels.max()
        if low < -1e-4 or high > 1 + 1e-4:  # the slack is for float resizing, far below one grey level
            raise ImageDecodingError(
                f"float values must be in [0, 1], these are in [{low:.4g}, {high:.4g}]. Fix: divide by their "
                "white (255 for 8 bits) or cast to uint8; if they are scaled already, pass do_rescale=False "
                "(and do_normalize=False if they are normalised too)."
            )
        return np.rint(np.clip(pixels.astype(np.float32), 0, 1) * 255).astype(np.uint8)
    if pixels.dtype.kind in "iu":
        low, high = pixels.min(), pixels.max()
        if low < 0 or high > 255:
            raise ImageDecodingError(
                f"{pixels.dtype} values must be in 0..255, these are {low}..{high}. Fix: cast to uint16 if "
                "they are 16 bits deep, or scale to float in [0, 1]."
            )
        return pixels.astype(np.uint8)
    raise ImageDecodingError(f"{pixels.dtype} is no pixel type. Fix: give bool, uint8, uint16 or float.")


def scaled_already(pixels: np.ndarray) -> np.ndarray:
    """Float pixels in whatever range, as float32; refused where they hold NaN, infinity or an alpha channel."""
    if pixels.shape[0] in (2, 4):
        raise ImageDecodingError(
            "the colours behind an alpha channel are unknown once an image is scaled. "
            "Fix: composite it first, or give uint8 or values in [0, 1] with do_rescale=True."
        )
    with np.errstate(over="ignore"):
        return _finite(pixels.astype(np.float32))


def _finite(pixels: np.ndarray) -> np.ndarray:
    if not np.isfinite(pixels).all():
        raise ImageDecodingError("contains NaN or infinity. Fix: find the step that made them.")
    return pixels


def composite(pixels: np.ndarray, background: Sequence[int]) -> np.ndarray:
    """[C, H, W] uint8 -> [1 or 3, H, W]: an alpha channel (C 2 or 4) is resolved."""
    if pixels.shape[0] in (1, 3):
        return pixels
    colour, alpha = pixels[:-1].astype(np.uint16), pixels[-1:].astype(np.uint16)
    behind = np.asarray(background, dtype=np.uint16).reshape(3, 1, 1)
    return ((colour * alpha + behind * (255 - alpha) + 127) // 255).astype(np.uint8)  # grey becomes RGB


def match_channels(pixels: np.ndarray, num_channels: int) -> np.ndarray:
    """[1 or 3, H, W] -> [num_channels, H, W]; grey is ITU-R 601-2 luma in integers, as Pillow's "L"."""
    if pixels.shape[0] == num_channels:
        return pixels
    if num_channels == 3:
        return np.broadcast_to(pixels, (3, *pixels.shape[1:]))
    if pixels.dtype == np.uint8:
        red, green, blue = pixels.astype(np.uint32)
        return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).astype(np.uint8)[None]
    red, green, blue = pixels
    return ((19595 * red + 38470 * green + 7471 * blue) / 65536)[None]
