"""Text in pictures: the font that comes with Pillow, another one for names that it cannot write, and line breaks."""

import unicodedata
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from PIL import ImageDraw, ImageFont

from ..common.text import visible

# Signs that Pillow's font lacks, in signs that it has.
PLAIN_SIGNS = {
    "→": "->", "←": "<-", "×": "x", "−": "-", "–": "-", "—": "-", "≥": ">=", "≤": "<=", "±": "+/-", "•": "·",
}  # fmt: skip
KEPT_TOGETHER = (" -> ", " → ", " %")
NO_BREAK = "\u00a0"
NO_GLYPH = "\uffff"  # not a character: drawn as the box for missing ones


class Lettering:
    """Writes texts into one picture.   file: a TrueType font for names in scripts that the other fonts lack."""

    def __init__(self, file: str | Path | None = None):
        self.files = (*(() if file is None else (str(file),)), "", *_installed())

    def fitting(self, text: object, size: int) -> tuple[ImageFont.FreeTypeFont, str]:
        """Return a font of `size` pixels and the text that it can write: one line, nothing steers it.

        It is the first font that has all letters, or else the one that has most. Letters that it lacks become their
        base letter (é: e), or else their escape (猫: \\u732b).
        """
        line = visible(text)
        found = []
        for file in self.files:
            plain = "".join(letter if _has(file, letter) else PLAIN_SIGNS.get(letter, letter) for letter in line)
            found.append((sum(not _has(file, letter) for letter in plain), file))
        best = min(found, key=lambda entry: entry[0])[1]
        return _font(best, size), "".join(_spelt(best, letter) for letter in line)

    def wrapped(self, text: object, size: int, width: int, most: int = 6) -> list[tuple[ImageFont.FreeTypeFont, str]]:
        """Return a text as lines of at most `width` pixels, at most `most` of them; the last one then ends in "…"."""
        font, rest = self.fitting(text, size)
        for sign in KEPT_TOGETHER:
            rest = rest.replace(sign, sign.replace(" ", NO_BREAK))
        lines: list[str] = []
        while rest and len(lines) < most:
            cut = _fitting_length(font, rest, width)
            if len(lines) == most - 1 and cut < len(rest):
                while cut and font.getlength(rest[:cut].replace(NO_BREAK, " ") + "…") > width:
                    cut -= 1
                lines.append(rest[:cut].rstrip() + "…")
                break
            if cut < len(rest) and (space := rest.rfind(" ", 0, cut + 1)) > 0:
                cut = space
            lines.append(rest[:cut].rstrip(" "))
            rest = rest[cut:].lstrip(" ")
        return [(font, line.replace(NO_BREAK, " ")) for line in lines]


def write_lines(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    lines: Sequence[tuple[ImageFont.FreeTypeFont, str]],
    colour: str,
    anchor: str = "la",
) -> int:
    """Write lines below one another from `at` (x, y); return the y below the last one."""
    x, y = at
    for font, line in lines:
        draw.text((x, y), line, colour, font, anchor=anchor)
        y += line_height(int(font.size))
    return y


def line_height(size: int) -> int:
    """Return the distance of two lines of text of `size` pixels."""
    return round(1.35 * size)


def _fitting_length(font: ImageFont.FreeTypeFont, text: str, width: int) -> int:
    """How many letters fit, one or more."""
    low, high = 1, max(1, min(len(text), width))  # a letter is one pixel wide or more
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high)
            if font.getlength(text[:middle].replace(NO_BREAK, " ").rstrip()) <= width
            else (low, middle - 1)
        )
    return low


def _spelt(file: str, letter: str) -> str:
    letter = letter if _has(file, letter) else PLAIN_SIGNS.get(letter, letter)
    if all(_has(file, one) for one in letter):
        return letter
    base = "".join(one for one in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(one))
    if base and all(_has(file, one) for one in base):
        return base
    return letter.encode("unicode_escape").decode()


@cache
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size) if file else cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))


@cache
def _has(file: str, letter: str) -> bool:
    if letter.isspace():
        return letter == " "
    font = _font(file, 16)
    mask, missing = font.getmask(letter), font.getmask(NO_GLYPH)
    return (mask.size, bytes(mask)) != (missing.size, bytes(missing))


@cache
def _installed() -> tuple[str, ...]:
    """DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic and more. Nothing of matplotlib is loaded."""
    found = find_spec("matplotlib")
    if found is None or found.origin is None:
        return ()
    file = Path(found.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
    return (str(file),) if file.is_file() else ()
