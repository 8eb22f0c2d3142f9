"""Pictures of maps: the image, the map, the map over the image, and what was measured of it; sheets of several methods.

Shapes: H x W pixels of an image, h x w cells of a map. Lengths below are for panels of 256 pixels, and grow with them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from .colours import scale_of
from .lettering import Lettering, line_height, write_lines
from .panels import (
    INK,
    MUTED,
    PAPER,
    Box,
    Drawn,
    Subject,
    hatching,
    map_panel,
    overlay_panel,
    photo_panel,
    scale_bar,
    subject_of,
)

NOT_OF_THE_CLASS = "not an explanation of the class"
FEATURES = "features, not an explanation"
_GREY, _ACCENT, _LINE = "#7b8794", "#b3400a", "#c8ced6"
_UNCONFIRMED = "not confirmed: replacing this patch alone does not lower the score"
_UNSEEN = "not seen by the model"
_TITLE, _TEXT, _SMALL = 21, 14, 12  # heights of text
_EDGE, _GAP, _COLUMN, _NARROW = 22, 14, 320, 110  # margin; between panels; width of the text, of the narrowest panel


def draw(
    pixels: np.ndarray,
    grid: np.ndarray,
    *,
    title: str,
    lines: Sequence[str] = (),
    signed: bool = False,
    scale: float | None = None,
    unconfirmed: Sequence[tuple[int, int]] = (),
    little: str | None = None,
    note: str | None = None,
    unit: str = "",
    seen: Box | None = None,
    side: int = 256,
    cells: bool = False,
    font: str | Path | None = None,
) -> Image.Image:
    """Draw image, map, overlay and text beside one another.

    pixels: uint8 [H, W, 3].   scale: value of the brightest colour; None: by `scale_of`.   seen: (top, left, bottom,
    right) of the pixels that the map covers; the rest is hatched. None: all.   side: pixels of a panel's longer side.
    cells: draw the borders of the patches.   font: a TrueType file for names that the other fonts cannot write.   Other
    arguments as in `Drawn`. Raises ValueError for pixels or a map of another shape, or a map with NaN.
    """
    drawn = Drawn(np.asarray(grid), title, lines, signed, unconfirmed, little, note, unit)
    return draw_rows(pixels, [drawn], scale=scale, seen=seen, side=side, cells=cells, font=font)


def draw_rows(
    pixels: np.ndarray,
    maps: Sequence[Drawn],
    *,
    scale: float | None = None,
    seen: Box | None = None,
    side: int = 256,
    cells: bool = False,
    font: str | Path | None = None,
) -> Image.Image:
    """Draw a row as `draw` for each map of one image, all on one scale: two classes can be compared by colour."""
    subject = subject_of(pixels, maps, seen, side, cells)
    if scale is None:
        scale = scale_of(*(one.grid for one in maps), signed=any(one.signed for one in maps))
    page = _Page(Lettering(font), side / 256)
    return page.framed(page.stacked([page.row(subject, one, scale) for one in maps], _EDGE))


def contact_sheet(
    pixels: np.ndarray,
    maps: Sequence[Drawn],
    *,
    title: str,
    columns: int = 4,
    seen: Box | None = None,
    side: int = 208,
    font: str | Path | None = None,
) -> Image.Image:
    """Draw the image and the overlay of each map, with its title above and its lines below; each on its own scale.

    title: of the sheet. For maps of several methods, which have no scale in common: their titles are the methods'
    names. Other arguments as in `draw`.
    """
    if columns < 1:
        raise ValueError(f"columns={columns}: give 1 or more.")
    subject = subject_of(pixels, maps, seen, side, cells=False)
    page = _Page(Lettering(font), side / 208)
    width = max(subject.photo.shape[1], page.px(_COLUMN // 2 + 20))
    tiles = [page.tile(photo_panel(subject), width, Drawn(np.zeros((1, 1)), "image"))]
    tiles += [page.tile(overlay_panel(subject, one, one.scale()), width, one) for one in maps]
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    whole = page.stacked([page.beside(row, _EDGE) for row in rows], _EDGE)
    heading = page.text_block([(title, _TITLE, INK)], whole.width)
    foot = "Colours: from 0 to each map's own 99th percentile."
    if any(one.signed for one in maps):
        foot += " Blue: against."
    if any(one.unconfirmed for one in maps):
        foot += f" Hatched: {_UNCONFIRMED}."
    return page.framed(page.stacked([heading, whole, page.text_block([(foot, _SMALL, MUTED)], whole.width)], _GAP))


def alt_text(drawn: Drawn) -> str:
    """Return the words of a picture for those who do not see it: title, note, where the map is highest, and lines."""
    rows, columns = drawn.grid.shape
    row, column = divmod(int(np.argsort(-drawn.grid, axis=None, kind="stable")[0]), columns)
    place = f"highest in row {row + 1} of {rows}, column {column + 1} of {columns}"
    parts = (drawn.title, drawn.note, place, *drawn.lines, drawn.little)
    return ". ".join(part for part in parts if part)


class _Page:
    """Puts parts of a picture together.   unit: pixels of the picture for each pixel of the lengths above."""

    def __init__(self, letters: Lettering, unit: float):
        self.letters, self.unit = letters, unit

    def px(self, length: float) -> int:
        return max(1, round(length * self.unit))

    def stacked(self, parts: Sequence[Image.Image], gap: int) -> Image.Image:
        return self._joined(parts, gap, down=True)

    def beside(self, parts: Sequence[Image.Image], gap: int) -> Image.Image:
        return self._joined(parts, gap, down=False)

    def _joined(self, parts: Sequence[Image.Image], gap: int, down: bool) -> Image.Image:
        between = self.px(gap)
        sizes = np.array([part.size for part in parts])
        total, most = sizes.sum(axis=0) + between * (len(parts) - 1), sizes.max(axis=0)
        joined = Image.new("RGB", (most[0], total[1]) if down else (total[0], most[1]), PAPER)
        at = 0
        for part in parts:
            joined.paste(part, (0, at) if down else (at, 0))
            at += (part.height if down else part.width) + between
        return joined

    def framed(self, picture: Image.Image) -> Image.Image:
        return ImageOps.expand(picture, self.px(_EDGE), PAPER)

    def text_block(self, texts: Sequence[tuple[str, int, str]], width: int) -> Image.Image:
        """Write texts (text, height, colour) below one another, each broken into lines."""
        wrapped = [self.letters.wrapped(text, self.px(size), width) for text, size, _ in texts]
        gap = self.px(5)
        height = sum(line_height(int(font.size)) for lines in wrapped for font, _ in lines) + gap * len(texts)
        block = Image.new("RGB", (width, height), PAPER)
        y = 0
        for lines, (_, _, colour) in zip(wrapped, texts, strict=True):
            y = write_lines(ImageDraw.Draw(block), (0, y), lines, colour) + gap
        return block

    def captioned(self, panel: Image.Image, caption: str) -> Image.Image:
        width = max(panel.width, self.px(_NARROW))
        return self.stacked([self.text_block([(caption, _SMALL, MUTED)], width), self.outlined(panel)], 1)

    def outlined(self, panel: Image.Image) -> Image.Image:
        """Draw the edge of a panel, so that it is seen on the page, also of a white photo."""
        ImageDraw.Draw(panel).rectangle((0, 0, panel.width - 1, panel.height - 1), outline=_LINE, width=self.px(1))
        return panel

    def row(self, subject: Subject, drawn: Drawn, scale: float) -> Image.Image:
        """Put together image, map, overlay and text; under the map its scale, and what hatching means."""
        photo = self.captioned(photo_panel(subject), "image")
        map_ = self.captioned(map_panel(subject, drawn, scale), "map")
        overlay = self.captioned(overlay_panel(subject, drawn, scale), "map over image")
        wide = map_.width + overlay.width + self.px(_GAP)
        bar = scale_bar(self.letters, scale, drawn.signed, drawn.unit, wide, self.px(_SMALL))
        legends = [] if subject.is_whole else [self._legend(_UNSEEN, wide, subject.stripe, pale=True)]
        if drawn.unconfirmed:
            legends.append(self._legend(_UNCONFIRMED, wide, subject.stripe))
        panels = self.stacked([self.beside([map_, overlay], _GAP), bar, *legends], 8)
        return self.beside([self.beside([photo, panels], _GAP), self._words(drawn, _COLUMN)], _EDGE)

    def _words(self, drawn: Drawn, width: int) -> Image.Image:
        parts = [self.text_block(self._texts(drawn), self.px(width))]
        if drawn.little:
            words = self.text_block([(f"This map explains little: {drawn.little}", _TEXT, _GREY)], self.px(width - 12))
            mark = Image.new("RGB", (self.px(3), words.height), _GREY)
            parts.append(self.beside([mark, words], 9))
        return self.stacked(parts, 6)

    def _texts(self, drawn: Drawn) -> list[tuple[str, int, str]]:
        note = [(drawn.note, _TEXT, _ACCENT)] if drawn.note else []
        return [(drawn.title, _TITLE, INK), *note, *((line, _TEXT, MUTED) for line in drawn.lines)]

    def tile(self, panel: Image.Image, width: int, drawn: Drawn) -> Image.Image:
        """Put together a map of a sheet: its title, its overlay, its lines."""
        texts = [(line, _SMALL, MUTED) for line in drawn.lines]
        if drawn.note:
            texts.insert(0, (drawn.note, _SMALL, _ACCENT))
        if drawn.little:
            texts.append((f"explains little: {drawn.little}", _SMALL, _GREY))
        below = [self.text_block(texts, width)] if texts else []
        return self.stacked([self.text_block([(drawn.title, _TEXT + 1, INK)], width), self.outlined(panel), *below], 4)

    def _legend(self, text: str, width: int, stripe: int, pale: bool = False) -> Image.Image:
        side = self.px(_SMALL + 4)
        swatch = np.full((side, side, 3), 235 if pale else 150, np.uint8)
        light, dark = hatching(side, side, stripe)
        swatch[dark] = 170 if pale else 30
        if not pale:
            swatch[light] = 255
        words = self.text_block([(text, _SMALL, MUTED)], width - side - self.px(8))
        return self.beside([Image.fromarray(swatch), words], 8)
