"""Boxes of objects, from a CSV file: which patches of an image lie off the object.

Shapes: N images, h×w grid of patches, H×W pixels.
"""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...common.errors import DataError
from ...image_decoding_vit_custom import ImageDecodingError
from ..measures.localisation import cell_shares
from ..pictures.views import seen_box
from .evidence import Evidence

HEADER = ("path", "x0", "y0", "x1", "y1")
Boxes = Mapping[str, Sequence[tuple[float, float, float, float]]]
"""For the path of each image its boxes (x0, y0, x1, y1): pixels of the stored image, x1 and y1 outside."""


def read_boxes(path: str | os.PathLike) -> Boxes:
    """Return the boxes of a CSV file with the columns path, x0, y0, x1, y1: a line a box, several an image if need be.

    Paths are relative to the file. Raises DataError for another kind of file, and for lines that hold no box.
    """
    file = Path(path)
    if file.suffix.lower() != ".csv":
        raise DataError(
            f"--boxes {path}: only CSV files are read, with the columns {', '.join(HEADER)} and a line for each box; "
            "write the boxes of COCO, VOC or other files so."
        )
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    try:
        with open(file, newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            if missing := [name for name in HEADER if name not in (reader.fieldnames or ())]:
                raise DataError(f"--boxes {path}: it has no column {', '.join(missing)}; it needs {', '.join(HEADER)}.")
            for row in reader:
                box = _box(row, f"--boxes {path}, line {reader.line_num}")
                found.setdefault(_key(file.parent / row["path"]), []).append(box)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"--boxes {path} cannot be read: {error}.") from error
    if not found:
        raise DataError(f"--boxes {path}: it holds no box.")
    return found


def off_object(evidence: Evidence, names: Sequence[str], boxes: Boxes, processor: Any) -> np.ndarray:
    """Return bool [N, h, w]: the patches of each image that no box touches.   names: of all images of the data set.

    Of an image without a box no patch is off the object. Raises DataError if no image has a box, and for a processor
    that pads.
    """
    off = np.zeros(evidence.shares.shape, bool)
    matched = 0
    for number, row in enumerate(evidence.rows):
        own = boxes.get(_key(names[row]))
        if own is None:
            continue
        matched += 1
        covered = _seen(_mask(own, _size_of(evidence, int(row))), processor)
        if covered.any() and min(covered.shape[0] - evidence.grid[0], covered.shape[1] - evidence.grid[1]) >= 0:
            off[number] = cell_shares(covered, evidence.grid) == 0
    if not matched:
        raise DataError(
            f"--boxes: none of its {len(boxes)} images, such as {next(iter(boxes))}, is among those that were looked "
            f"at, such as {names[int(evidence.rows[0])]}: paths must be relative to the file of the boxes."
        )
    return off


def _size_of(evidence: Evidence, row: int) -> tuple[int, int]:
    try:
        image = evidence.images.decode(evidence.images.sources[row], name=evidence.images.names[row])
    except (ImageDecodingError, OSError) as error:
        raise DataError(str(error)) from error
    return image.shape[-2], image.shape[-1]


def _mask(boxes: Sequence[tuple[float, float, float, float]], size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, bool)
    for x0, y0, x1, y1 in boxes:
        mask[max(0, round(y0)) : max(0, round(y1)), max(0, round(x0)) : max(0, round(x1))] = True
    return mask


def _seen(mask: np.ndarray, processor: Any) -> np.ndarray:
    try:
        top, left, bottom, right = seen_box(processor, (mask.shape[0], mask.shape[1]))
    except ValueError as error:
        raise DataError(f"--boxes: {error}") from error
    return mask[top:bottom, left:right]


def _box(row: Mapping[str, Any], where: str) -> tuple[float, float, float, float]:
    try:
        x0, y0, x1, y1 = (float(row[name]) for name in HEADER[1:])
    except (TypeError, ValueError):
        raise DataError(f"{where}: {', '.join(HEADER[1:])} must be numbers of pixels.") from None
    if not (0 <= x0 < x1 < np.inf and 0 <= y0 < y1 < np.inf):
        raise DataError(f"{where}: ({x0:g}, {y0:g}, {x1:g}, {y1:g}) is no box: x0 < x1 and y0 < y1, from 0 on.")
    return x0, y0, x1, y1


def _key(path: str | os.PathLike) -> str:
    return os.path.realpath(path)
