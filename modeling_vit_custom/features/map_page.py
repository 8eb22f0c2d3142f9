"""The page of a map: one SVG path for each class, and the pictures in a few sheets, of which one tile is shown.

Shapes: M points.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ..common.text import visible
from ..reporting import page

SIDE, ACROSS = 64, 16  # pixels of a picture; pictures in a row, and rows, of a sheet
MAP = 1000  # longer side of the drawing, in its own units
EDGE = 20
COLOURS = 10
SHAPES = ("round", "square", "ring")
CLASSES = COLOURS * len(SHAPES)  # with a look of their own; further ones are drawn together


def write_map(
    output: str | os.PathLike,
    facts: dict[str, Any],
    places: np.ndarray,
    names: Sequence[str],
    labels: Sequence[str | None],
    image_of: Callable[[int], Any],
    progress: bool = True,
) -> int:
    """Write the page; return how many points have a picture.

    places: [M, 2], from 0 to 1.   names: [M].   labels: [M], None without a label.   image_of: from the number of a
    point to what `decode_image` accepts.
    """
    counts = Counter(label for label in labels if label is not None)
    shown = [label for label, _ in counts.most_common(CLASSES)]
    groups = [(label, [point for point, own in enumerate(labels) if own == label]) for label in shown]
    if rest := [point for point, own in enumerate(labels) if own not in {*shown}]:
        groups.append((f"{len(counts) - len(shown)} more classes" if counts else "images", rest))
    order = [point for _, points in groups for point in points]
    sheets, has_picture = _sheets(map(image_of, order), len(order), progress)
    number = {point: place for place, point in enumerate(order)}
    inside = MAP - 2 * EDGE
    low, high = places.min(axis=0) * inside, places.max(axis=0) * inside
    drawn = np.round(EDGE + places * inside - low, 1)
    content = {
        **facts,
        "scripted": True,
        "classes": len(counts),
        "groups": [
            _group(*group, look, drawn, names, labels, number, has_picture) for look, group in enumerate(groups)
        ],
        "sheets": sheets,
        "pictures": sum(has_picture),
        "side": SIDE,
        "across": ACROSS,
        "width": max(int(high[0] - low[0]), inside // 2) + 2 * EDGE,
        "height": max(int(high[1] - low[1]), inside // 2) + 2 * EDGE,
    }
    page.write_page(Path(output), "features/map_page.html.j2", content)
    return sum(has_picture)


def _group(
    name: str,
    points: list[int],
    look: int,
    drawn: np.ndarray,
    names: Sequence[str],
    labels: Sequence[str | None],
    number: dict[int, int],
    has_picture: Sequence[bool],
) -> dict[str, Any]:
    """What the page shows of one class: its dots as an SVG path, and what the script says of each."""
    said = [
        [visible(names[point]), visible(labels[point] or ""), number[point] if has_picture[number[point]] else -1]
        for point in points
    ]
    plain = look >= CLASSES
    return {
        "name": name,
        "count": len(points),
        "colour": "other" if plain else f"c{look % COLOURS}",
        "shape": SHAPES[0 if plain else look // COLOURS],
        "path": "".join(f"M{x:g} {y:g}h0" for x, y in drawn[points].tolist()),
        "points": json.dumps(said, separators=(",", ":")),
    }


def _sheets(images: Any, count: int, progress: bool) -> tuple[list[str], list[bool]]:
    """Return (sheets of ACROSS x ACROSS pictures as data: URLs, whether each of the `count` images has a picture)."""
    sheets: list[str] = []
    found: list[bool] = []
    sheet = None
    for number, source in enumerate(tqdm(images, "pictures", count, unit="img", disable=not progress)):
        place = number % ACROSS**2
        if sheet is None:
            rows = -(-min(count - number, ACROSS**2) // ACROSS)
            sheet = Image.new("RGB", (ACROSS * SIDE, rows * SIDE), (128, 128, 128))
        picture = page.small_picture(source, SIDE)
        found.append(picture is not None)
        if picture is not None:
            if max(picture.size) <= SIDE // 2:  # small images by whole pixels
                factor = SIDE // max(picture.size)
                picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
            left, top = place % ACROSS * SIDE, place // ACROSS * SIDE
            sheet.paste(picture, (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2))
        if place == ACROSS**2 - 1 or number == count - 1:
            sheets.append(page.data_url(sheet, "jpeg"))
            sheet = None
    return (sheets if any(found) else []), found
