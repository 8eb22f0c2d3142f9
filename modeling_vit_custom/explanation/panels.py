"""The panels of a picture: a photo, a map in colours, the map over the photo, the bar of its scale.

Shapes: H x W pixels of an image, h x w cells of a map.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .colours import coloured, scale_of, share_of_scale
from .lettering import Lettering, line_height

INK, MUTED, PAPER = "#1f2933", "#52606d", "#ffffff"
COVER = 0.88  # opacity of the brightest colour over the photo
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2
BLOCKY = 4  # images that are enlarged at least so often show their pixels as squares

Box = tuple[int, int, int, int]
"""(top, left, bottom, right) in pixels; bottom and right are outside."""


@dataclass(frozen=True)
class Drawn:
    """A map with what is written beside it.

    grid: [h, w], of any scale.   title: what it explains.   lines: what was measured, one line each.   signed: values
    below 0 are evidence against, and drawn.   unconfirmed: (row, column) of cells to hatch.   little: why the map
    explains little; drawn in grey.   note: what the map is not, such as `NOT_OF_THE_CLASS`.   unit: of its values.
    """

    grid: np.ndarray
    title: str
    lines: Sequence[str] = ()
    signed: bool = False
    unconfirmed: Sequence[tuple[int, int]] = ()
    little: str | None = None
    note: str | None = None
    unit: str = ""

    def scale(self) -> float:
        """Return the value of its brightest colour, if it is drawn on its own scale."""
        return scale_of(self.grid, signed=self.signed)


@dataclass(frozen=True)
class Subject:
    """The image of a picture, at the size of its panels.

    photo: uint8 [H, W, 3].   box: what of it the maps cover.   cells: draw the borders of the cells.   stripe: width of
    a hatching's stripes.
    """

    photo: np.ndarray
    box: Box
    cells: bool
    stripe: int

    @property
    def is_whole(self) -> bool:
        """Whether the maps cover all of the image."""
        return self.box == (0, 0, *self.photo.shape[:2])


def subject_of(pixels: np.ndarray, maps: Sequence[Drawn], seen: Box | None, side: int, cells: bool) -> Subject:
    """Return an image uint8 [H, W, 3] whose longer side is about `side` pixels; raises ValueError for what cannot be
    drawn.   seen: what of it the maps cover; None: all.
    """
    pixels = np.asarray(pixels)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise ValueError(f"pixels: {pixels.dtype} of shape {[*pixels.shape]}. Give uint8 [H, W, 3].")
    if not maps:
        raise ValueError("maps: there is none. Give at least one.")
    for one in maps:
        if one.grid.ndim != 2 or not one.grid.size:
            raise ValueError(f"grid of {one.title!r}: shape {[*one.grid.shape]}. Give one map [h, w].")
        if not np.isfinite(one.grid).all():
            raise ValueError(f"grid of {one.title!r}: it holds a value that is not finite. Give finite values.")
    height, width = pixels.shape[:2]
    top, left, bottom, right = seen or (0, 0, height, width)
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise ValueError(f"seen={seen}: not (top, left, bottom, right) within {height} x {width} pixels.")
    factor = side / max(height, width)
    factor = float(int(factor)) if factor >= BLOCKY else factor
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    kind = Image.Resampling.NEAREST if factor >= BLOCKY else Image.Resampling.LANCZOS
    photo = np.array(Image.fromarray(pixels).resize(size, kind))
    low = (min(int(top * factor), size[1] - 1), min(int(left * factor), size[0] - 1))
    high = (round(bottom * factor), round(right * factor))
    box = (*low, max(low[0] + 1, high[0]), max(low[1] + 1, high[1]))
    return Subject(photo, box, cells, max(2, round(side / 128)))


def photo_panel(subject: Subject) -> Image.Image:
    """Return the photo; what the model does not see is pale and hatched."""
    return Image.fromarray(_outside_hatched(subject, subject.photo.astype(float)).round().astype(np.uint8))


def map_panel(subject: Subject, drawn: Drawn, scale: float) -> Image.Image:
    """Return the map in colours, enlarged between the centres of its cells."""
    colours = coloured(_shares(subject, drawn, scale), drawn.signed)
    return _finished(subject, drawn, colours, np.full(subject.photo.shape, 255.0))


def overlay_panel(subject: Subject, drawn: Drawn, scale: float) -> Image.Image:
    """Return the map over the photo in grey: the higher a value, the more of its colour, so all colour is the map's."""
    shares = _shares(subject, drawn, scale)
    top, left, bottom, right = subject.box
    grey = subject.photo @ np.array(_LUMA)
    photo = np.repeat(grey[..., None], 3, axis=2)
    opacity = COVER * np.abs(shares)[..., None]
    below = photo[top:bottom, left:right]
    return _finished(subject, drawn, below + opacity * (coloured(shares, drawn.signed) - below), photo)


def scale_bar(letters: Lettering, scale: float, signed: bool, unit: str, width: int, size: int) -> Image.Image:
    """Return the colours from 0 (signed: from minus the scale) to the scale, with numbers of `size` pixels below."""
    thick, gap = max(6, round(0.75 * size)), max(2, size // 4)
    bar = Image.new("RGB", (width, thick + gap + line_height(size)), PAPER)
    pen = ImageDraw.Draw(bar)
    if scale <= 0:
        font, text = letters.fitting("no value above 0", size)
        pen.text((0, 0), text, MUTED, font)
        return bar
    shares = np.linspace(-1 if signed else 0, 1, width)
    colours = coloured(shares, signed).round().astype(np.uint8)
    bar.paste(Image.fromarray(np.repeat(colours[None], thick, axis=0)), (0, 0))
    high = f"{scale:.2g}{unit and f' {unit}'} (99th percentile)"
    marks = [(0, "l", f"-{scale:.2g}"), (width // 2, "m", "0")] if signed else [(0, "l", "0")]
    for x, anchor, mark in [*marks, (width, "r", high)]:
        font, text = letters.fitting(mark, size)
        if anchor == "r" and font.getlength(text) > width / (2.4 if signed else 1.2):
            font, text = letters.fitting(f"{scale:.2g}", size)
        pen.text((x, thick + gap), text, MUTED, font, anchor=f"{anchor}a")
    return bar


def hatching(height: int, width: int, stripe: int) -> tuple[np.ndarray, np.ndarray]:
    """Return bool [H, W] twice: the light and the dark stripes of a hatching, seen on light and on dark pixels."""
    across = (np.arange(height)[:, None] + np.arange(width)[None]) % (4 * stripe)
    return across < stripe, (across >= stripe) & (across < 2 * stripe)


# ---------- parts


def _shares(subject: Subject, drawn: Drawn, scale: float) -> np.ndarray:
    """The map as shares of the scale at the size of the box, bilinear between the centres of cells."""
    top, left, bottom, right = subject.box
    grid = drawn.grid if drawn.signed else np.maximum(drawn.grid, 0)
    of_one = (grid / scale if scale > 0 else np.zeros_like(grid)).astype(np.float32)
    enlarged = Image.fromarray(of_one).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
    return share_of_scale(np.array(enlarged), 1.0, drawn.signed)


def _finished(subject: Subject, drawn: Drawn, inside: np.ndarray, around: np.ndarray) -> Image.Image:
    """A panel with the borders of cells, unconfirmed cells hatched, and what is outside the box hatched."""
    top, left, bottom, right = subject.box
    height, width = inside.shape[:2]
    rows, columns = (
        np.linspace(0, length, n + 1).round().astype(int)
        for length, n in zip((height, width), drawn.grid.shape, strict=True)
    )
    if subject.cells:
        for line in rows[1:-1]:
            inside[line] = 0.75 * inside[line] + 0.25 * 255
        for line in columns[1:-1]:
            inside[:, line] = 0.75 * inside[:, line] + 0.25 * 255
    light, dark = hatching(height, width, subject.stripe)
    where = np.zeros((height, width), bool)
    for row, column in drawn.unconfirmed:
        where[rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = True
    inside[where & light], inside[where & dark] = 255, 30
    panel = around.copy()
    panel[top:bottom, left:right] = inside
    return Image.fromarray(_outside_hatched(subject, panel).round().astype(np.uint8))


def _outside_hatched(subject: Subject, panel: np.ndarray) -> np.ndarray:
    if subject.is_whole:
        return panel
    top, left, bottom, right = subject.box
    outside = np.ones(panel.shape[:2], bool)
    outside[top:bottom, left:right] = False
    pale = np.where(outside[..., None], 0.45 * panel + 0.55 * 255, panel)
    _, dark = hatching(panel.shape[0], panel.shape[1], subject.stripe)
    pale[outside & dark] = 0.5 * pale[outside & dark] + 0.5 * 140
    return pale
