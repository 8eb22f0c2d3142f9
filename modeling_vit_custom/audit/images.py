"""Findings on single images, from the records of all: unreadable, misnamed, odd in size or kind.

Shapes: N images.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from .findings import ERROR, NOTE, WARNING, Catalogue, Example, Finding, finding

TINY_SIDE = 8  # pixels
EXTREME_ASPECT = 5.0  # longer side over shorter
OUTLIER = 16.0  # times the median area, or as much below
DARK_RANGE = 64  # of 255: the brightest that 14-bit data gets in 16 bits
SAME_FORMAT = {"MPO": "JPEG", "DIB": "BMP"}  # files of the first kind carry names of the second


def unreadable_findings(errors: Mapping[int, str]) -> list[Finding]:
    """Return a finding on images that do not decode to the end."""
    return finding(
        ERROR,
        "unreadable",
        "images that cannot be decoded, at which training would stop",
        "Copy them again from their source, or remove them.",
        [Example(message) for message in errors.values()],
    )


def image_findings(catalogue: Catalogue, records: np.ndarray) -> list[Finding]:
    """Return findings on what is odd about single images, from the records of those that decode."""
    found = []
    for severity, code, mask, title, advice in [*_sizes(records), *_kinds(records), *_names(catalogue, records)]:
        cases = [_example(catalogue, records, int(i)) for i in np.flatnonzero(mask & (records["height"] > 0))]
        found += finding(severity, code, title, advice, cases)
    return found


def depth_findings(catalogue: Catalogue, records: np.ndarray) -> list[Finding]:
    """Return a finding on 16-bit images if none comes near white: their data has fewer bits than the file type.

    Such images are read as nearly black, because the file type sets the range of values.
    """
    deep = _of_16_bits(records["mode"]) & (records["height"] > 0)
    brightest = int(records["brightest"][deep].max(initial=0))
    if brightest > DARK_RANGE:
        return []
    bits = math.ceil(math.log2(max(brightest - 0.5, 0.5) * 257))
    return finding(
        WARNING,
        "deep-but-dark",
        f"16-bit images whose values use only about {bits} bits of that range: they are read as nearly black",
        f"Scale them first, for {bits}-bit data times {2 ** (16 - bits)}; or save them with 8 bits.",
        [_example(catalogue, records, int(i)) for i in np.flatnonzero(deep)],
    )


def _of_16_bits(mode: np.ndarray) -> np.ndarray:
    return np.char.startswith(mode, b"I") | np.char.endswith(mode, b" uint16")


def _example(catalogue: Catalogue, records: np.ndarray, i: int) -> Example:
    row = records[i]
    kind = f"{row['format'].decode()} {row['mode'].decode()}".strip()
    return Example(f"{catalogue.text(i)}: {row['width']} x {row['height']} {kind}", (i,))


def _sizes(records: np.ndarray):
    height, width = records["height"].astype(np.int64), records["width"].astype(np.int64)
    short, long = np.minimum(height, width), np.maximum(height, width)
    area = (height * width).astype(float)
    median = float(np.median(area[area > 0])) if (area > 0).any() else 1.0
    tiny = short < TINY_SIDE
    extreme = long >= EXTREME_ASPECT * short
    outlier = ((area * OUTLIER < median) | (area > OUTLIER * median)) & ~tiny
    usual = f"{round(median**0.5)} x {round(median**0.5)} pixels"
    return [
        (WARNING, "blank", records["blank"], "images of one plain colour", "Remove them if they show nothing."),
        (
            WARNING,
            "tiny-images",
            tiny,
            f"images less than {TINY_SIDE} pixels high or wide",
            "Look whether they are thumbnails or broken crops.",
        ),
        (
            WARNING,
            "extreme-aspect",
            extreme,
            f"images whose longer side is {EXTREME_ASPECT:.0f} times the shorter, or more",
            "They are squeezed to the model's input: crop them, or leave them out.",
        ),
        (
            NOTE,
            "size-outliers",
            outlier,
            f"images with {OUTLIER:.0f} times more or fewer pixels than is usual here (about {usual})",
            "Look whether they belong to the data.",
        ),
    ]


def _kinds(records: np.ndarray):
    mode = records["mode"]
    grey = np.isin(mode, [b"1", b"L", b"LA"])
    deep = _of_16_bits(mode) | (mode == b"F") | np.char.endswith(mode, b" float32")
    palette, cmyk = (mode == b"P") | (mode == b"PA"), mode == b"CMYK"
    readable = records["height"] > 0
    mixed = bool((grey & readable).any() and (~grey & ~deep & readable).any())
    return [
        (
            WARNING,
            "animated",
            records["animated"],
            "images with several frames, of which only the first is used",
            "Save the frames that matter as images of their own; a model of as many channels as a TIFF has pages reads "
            "them all, as its channels.",
        ),
        (
            NOTE,
            "transparent",
            records["transparent"],
            "images with transparency, through which a background colour shows",
            "Set the processor's background_color if white is wrong.",
        ),
        (
            NOTE,
            "grey-among-colour",
            grey & mixed,
            "grey images among colour ones",
            "Nothing, unless grey goes with one class: then a model learns that instead.",
        ),
        (NOTE, "palette", palette, "images with a colour palette", "Nothing: they are converted to RGB."),
        (
            NOTE,
            "cmyk",
            cmyk,
            "CMYK images, whose colours are converted without a profile",
            "Convert them to RGB yourself if colours matter.",
        ),
        (
            NOTE,
            "deep",
            deep,
            "images with 16 bits or more a pixel, which are scaled to 8",
            "Nothing, if their values use the whole range; else stretch them first.",
        ),
        (
            NOTE,
            "exif-rotated",
            records["turned"],
            "images turned upright by their EXIF orientation",
            "Nothing here; other tools may show them lying.",
        ),
    ]


def _names(catalogue: Catalogue, records: np.ndarray):
    Image.init()
    known = Image.registered_extensions()

    def named(i: int) -> str:
        by_name = known.get(Path(catalogue.names[i]).suffix.lower(), "")
        return SAME_FORMAT.get(by_name, by_name)

    formats = [SAME_FORMAT.get(name, name) for name in (raw.decode() for raw in records["format"].tolist())]
    wrong = np.array([bool(inside and named(i) and named(i) != inside) for i, inside in enumerate(formats)])
    return [
        (
            NOTE,
            "wrong-suffix",
            wrong,
            "images of another format than their name says",
            "Nothing here, files are read by content; rename them for other tools.",
        )
    ]
