"""Masks: images whose pixels are class ids, read without ever being taken for colours.

Shapes: H height, W width.
"""

import os
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image

from .image_arrays_vit_custom import tensor_to_array
from .image_bands_vit_custom import NPY_START, read_npy
from .image_files_vit_custom import check_bytes, open_image, pillow_errors, read_by
from .image_limits_vit_custom import DEFAULT_LIMITS, ImageDecodingError, ImageLimits, check_size

# Formats of Pillow that may change values, and its modes whose values are ids: of palettes, the index.
_LOSSY = ("JPEG", "JPEG2000", "WEBP", "AVIF", "HEIF", "JXL", "EPS")
_OF_IDS = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B")


def read_mask(source: Any, name: str | None = None, limits: ImageLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Read the class ids of an image's pixels, [H, W] of integers or bool.

    source: a path, the bytes of a file, a Pillow image, an array or tensor of integers, or the {"bytes", "path"} record
        in which `datasets` stores an image. Files are grey, 16-bit grey or palette images (of which the index is the
        id) in a format without loss, such as PNG, or .npy.
    name: what errors call the mask.   limits: sizes beyond which it is refused before it is decoded.

    Raises ImageDecodingError for anything else: colours are no ids, and JPEG changes them.
    """
    label = name or f"mask given as {type(source).__name__}"
    if isinstance(source, dict) and set(source) == {"bytes", "path"}:
        source = source["path"] if source["bytes"] is None else source["bytes"]
    try:
        return _checked(_read(source, limits), limits)
    except ImageDecodingError as error:
        raise ImageDecodingError(f"{label}: {error}") from error.__cause__


def _read(source: Any, limits: ImageLimits) -> np.ndarray:
    if isinstance(source, str | os.PathLike):
        return read_by(source, lambda stream, size: _read_stream(stream, size, limits))
    if isinstance(source, bytes):
        return _read_stream(BytesIO(source), len(source), limits)
    if isinstance(source, Image.Image):
        with pillow_errors():
            return _ids_of(source, limits)
    if isinstance(source, torch.Tensor):
        source = tensor_to_array(source)
    if isinstance(source, np.ndarray):
        return source
    raise ImageDecodingError(
        f"{type(source).__name__} is no mask. Fix: give a path, a Pillow image, or an array of class ids."
    )


def _read_stream(stream: BinaryIO, size: int, limits: ImageLimits) -> np.ndarray:
    check_bytes(size, limits)
    start = stream.read(64)
    stream.seek(0)
    if start.startswith(NPY_START):
        return read_npy(stream, size, limits)
    with pillow_errors(start), open_image(stream) as image:
        return _ids_of(image, limits)


def _ids_of(image: Image.Image, limits: ImageLimits) -> np.ndarray:
    check_size(image.height, image.width, limits)
    if image.format in _LOSSY:
        raise ImageDecodingError(f"{image.format} changes class ids when it is stored. Fix: store masks as PNG.")
    if image.mode not in _OF_IDS:
        raise ImageDecodingError(
            f"its pixels are colours (mode {image.mode}), not class ids. Fix: store one id a pixel, grey or with a "
            "palette."
        )
    image.load()
    return np.asarray(image)


def _checked(ids: np.ndarray, limits: ImageLimits) -> np.ndarray:
    if ids.ndim == 3 and 1 in (ids.shape[0], ids.shape[2]):
        ids = ids[0] if ids.shape[0] == 1 else ids[:, :, 0]
    if ids.ndim != 2:
        raise ImageDecodingError(f"shape {ids.shape} is no mask. Fix: give one class id a pixel, [height, width].")
    if ids.dtype.kind not in "biu":
        raise ImageDecodingError(f"{ids.dtype} values are no class ids. Fix: cast them to integers.")
    check_size(ids.shape[0], ids.shape[1], limits)
    return ids
