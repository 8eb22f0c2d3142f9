"""The pictures of the page of shortcuts, as data: URLs.

Shapes: C channels, H×W pixels, h×w grid of patches.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from ...reporting.page import data_url
from ..images import viewable
from ..pictures.colours import coloured, scale_of, share_of_scale
from ..pictures.panels import Drawn, Subject, overlay_panel, subject_of

SIDE = 112  # pixels of a picture
MAP_SIDE = 168
_DARK, _LIGHT = (20, 24, 28), (255, 255, 255)


class Pictures:
    """Draws images as a processor shows them to the model.   processor: its normalisation is undone."""

    def __init__(self, processor: Any):
        self.processor = processor

    def photo(self, image: torch.Tensor, cells: np.ndarray | None = None) -> str:
        """Return an image [C, H, W], with the outline of cells bool [h, w] if they are given."""
        return _url(Image.fromarray(self._subject(image, Drawn(np.zeros((1, 1)), "")).photo), cells)

    def overlay(self, image: torch.Tensor, share: np.ndarray) -> str:
        """Return a map [h, w] over its image [C, H, W]."""
        drawn = Drawn(share, "")
        return _url(overlay_panel(self._subject(image, drawn), drawn, drawn.scale()), None)

    def _subject(self, image: torch.Tensor, drawn: Drawn) -> Subject:
        return subject_of(viewable(image[None], self.processor)[0], [drawn], None, SIDE, cells=False)


def place_map(mean: np.ndarray, scale: float, cells: np.ndarray | None = None, side: int = MAP_SIDE) -> str:
    """Return a mean map [h, w] in flat cells, with the outline of cells.   scale: value of the brightest colour."""
    colours = coloured(share_of_scale(mean, scale)).round().astype(np.uint8)
    height, width = mean.shape
    factor = max(1, side // max(height, width))
    return _url(Image.fromarray(colours).resize((width * factor, height * factor), Image.Resampling.NEAREST), cells)


def common_scale(*maps: np.ndarray) -> float:
    """Return the scale on which maps can be compared."""
    return scale_of(*maps)


def outlined(picture: Image.Image, cells: np.ndarray) -> Image.Image:
    """Return a copy with the outline of cells bool [h, w]: dark and light, so that it is seen on any photo."""
    picture = picture.copy()
    pen = ImageDraw.Draw(picture)
    rows = np.linspace(0, picture.height - 1, cells.shape[0] + 1).round().astype(int)
    columns = np.linspace(0, picture.width - 1, cells.shape[1] + 1).round().astype(int)
    framed = np.pad(cells, 1)
    lines = []
    for row, column in np.argwhere(cells):
        top, bottom, left, right = rows[row], rows[row + 1], columns[column], columns[column + 1]
        around = {
            (left, top, right, top): framed[row, column + 1],
            (left, bottom, right, bottom): framed[row + 2, column + 1],
            (left, top, left, bottom): framed[row + 1, column],
            (right, top, right, bottom): framed[row + 1, column + 2],
        }
        lines += [tuple(map(int, line)) for line, inside in around.items() if not inside]
    for colour, width in ((_DARK, 4), (_LIGHT, 2)):
        for line in lines:
            pen.line(line, fill=colour, width=width)
    return picture


def _url(picture: Image.Image, cells: np.ndarray | None) -> str:
    return data_url(picture if cells is None else outlined(picture, cells), "png" if picture.width <= 64 else "jpeg")
