"""Pixel arrays: from any layout and dtype to uint8 with the channels that a model takes.

Shapes: C channels, H height, W width. For a model of 1 or 3 channels, C is 1 grey, 2 grey + alpha, 3 RGB or 4 RGBA, and
1 or 3 at the end. For any other model, C is its number of channels, and no channel is read as alpha.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .image_limits_vit_custom import ImageDecodingError

MAX_CHANNELS = 1_024  # as the configuration allows
CHANNELS_FIRST, CHANNELS_LAST = "channels_first", "channels_last"
CHANNEL_ORDERS = {"rgb": [0, 1, 2, 3], "bgr": [2, 1, 0, 3]}  # indices of red, green, blue and alpha


@dataclass(frozen=True)
class Wanted:
    """How an image is to be read.

    num_channels: channels of the model; None for as many as the image has.
    layout: "channels_first" or "channels_last", for arrays whose shape allows both.
    channel_order: "rgb" or "bgr", the order in arrays.
    """

    num_channels: int | None = 3
    layout: str | None = None
    channel_order: str = "rgb"

    @property
    def in_colours(self) -> bool:
        """Whether the model takes grey or RGB, to which other colours are converted."""
        return self.num_channels in (1, 3)


def wrong_channels(found: int, wanted: int, what: str = "it") -> ImageDecodingError:
    """Return the error that `what`, the subject of the message, has `found` channels but the model takes `wanted`."""
    return ImageDecodingError(
        f"{what} has {_channels(found)}, the model takes {wanted}. Fix: give images of {_channels(wanted)}, or make "
        f"a model of {found} (num_channels={found} in its configuration)."
    )


def _channels(count: int) -> str:
    return f"{count} channel{'' if count == 1 else 's'}"


def tensor_to_array(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor's values on the CPU, as float32 if numpy lacks the dtype (bfloat16, float8)."""
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


def to_channels_first(array: np.ndarray, wanted: Wanted) -> np.ndarray:
    """Return [C, H, W] in RGB order of [H, W], [H, W, C] or [C, H, W].

    Raises ImageDecodingError if the channels could be first or last, or if it is not one image.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise ImageDecodingError("a masked array has no value behind its mask. Fix: give array.filled(value).")
    if array.ndim == 4:
        raise ImageDecodingError(f"shape {array.shape} is a batch. Fix: give its images one by one.")
    if array.ndim not in (2, 3):
        raise ImageDecodingError(
            f"shape {array.shape} is not an image. Fix: give [height, width] or that with an axis of channels."
        )
    if 0 in array.shape:
        raise ImageDecodingError(f"shape {array.shape} holds no pixels. Fix: check how it was cropped.")
    if array.ndim == 2:
        return array[None]
    if _layout(array.shape, wanted) == CHANNELS_LAST:
        array = np.moveaxis(array, -1, 0)
    return _in_order(array, wanted.channel_order)


def _layout(shape: tuple[int, ...], wanted: Wanted) -> str:
    count = min(shape[0], shape[2]) if wanted.num_channels is None else wanted.num_channels
    possible = (1, 2, 3, 4) if wanted.in_colours else (count,)
    fits = {CHANNELS_FIRST: shape[0] in possible, CHANNELS_LAST: shape[2] in possible}
    layout = wanted.layout
    if layout is None and all(fits.values()):
        raise ImageDecodingError(
            f"shape {shape} can be read with channels first or last. "
            f"Fix: pass input_data_format={CHANNELS_FIRST!r} or {CHANNELS_LAST!r}."
        )
    if layout is None and any(fits.values()):
        return CHANNELS_FIRST if fits[CHANNELS_FIRST] else CHANNELS_LAST
    if layout is not None and (fits[layout] or wanted.num_channels is None):
        return layout
    if wanted.in_colours and min(shape[0], shape[2]) <= max(possible):
        raise ImageDecodingError(
            f"shape {shape} has no axis of 1 to 4 channels ({str(layout).replace('_', ' ')}). "
            "Fix: give grey, grey + alpha, RGB or RGBA, and the right input_data_format."
        )
    found = {None: min(shape[0], shape[2]), CHANNELS_FIRST: shape[0], CHANNELS_LAST: shape[2]}[layout]
    raise wrong_channels(found, count, f"shape {shape}")


def _in_order(pixels: np.ndarray, channel_order: str) -> np.ndarray:
    """[C, H, W] in RGB order if C is 3 or 4."""
    order = CHANNEL_ORDERS[channel_order]
    if len(pixels) > len(order) and channel_order != "rgb":
        raise ImageDecodingError(
            f"channel_order={channel_order!r} says nothing of {len(pixels)} channels. "
            "Fix: leave it out, and give the channels in the order in which the model was trained."
        )
    return pixels[order[: len(pixels)]] if 3 <= len(pixels) <= len(order) else pixels


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Scale pixels to 0..255 by their dtype, rounding to nearest. Raises ImageDecodingError for values out of range."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind == "b":
        return pixels.astype(np.uint8) * 255
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.dtype.kind == "f":
        low, high = _finite(pixels).min(), pixels.max()
        if low < -1e-4 or high > 1 + 1e-4:  # tolerance for float resizing, far below one grey level
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


def scaled_already(pixels: np.ndarray, in_colours: bool = True) -> np.ndarray:
    """Return float pixels of any range as float32.

    Raises ImageDecodingError for NaN and infinity and, if they are colours, for an alpha channel.
    """
    if in_colours and pixels.shape[0] in (2, 4):
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
    """Composite an alpha channel (C 2 or 4) on `background`: uint8 [C, H, W] → [1 or 3, H, W]."""
    if pixels.shape[0] in (1, 3):
        return pixels
    colour, alpha = pixels[:-1].astype(np.uint16), pixels[-1:].astype(np.uint16)
    behind = np.asarray(background, dtype=np.uint16).reshape(3, 1, 1)
    return ((colour * alpha + behind * (255 - alpha) + 127) // 255).astype(np.uint8)  # grey becomes RGB


def first_three(pixels: np.ndarray) -> np.ndarray:
    """Return [3, H, W] for display of [C, H, W]: the first three channels, or the first as grey if there are fewer."""
    return pixels[:3] if len(pixels) >= 3 else np.broadcast_to(pixels[:1], (3, *pixels.shape[1:]))


def match_channels(pixels: np.ndarray, num_channels: int) -> np.ndarray:
    """Convert [1 or 3, H, W] to [num_channels, H, W]; grey is ITU-R 601-2 luma, in uint8 exactly Pillow's "L"."""
    if pixels.shape[0] == num_channels:
        return pixels
    if num_channels == 3:
        return np.broadcast_to(pixels, (3, *pixels.shape[1:]))
    if pixels.dtype == np.uint8:
        red, green, blue = pixels.astype(np.uint32)
        return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).astype(np.uint8)[None]
    red, green, blue = pixels
    return ((19595 * red + 38470 * green + 7471 * blue) / 65536)[None]
