"""The explanation of some answers of a model.

Shapes: R rows (an image and what is explained of it), B images, C channels, H×W pixels, h×w grid of patches, L blocks.
"""

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..common.json_files import json_safe
from ..common.outputs import write_whole
from ..inference.answers import json_line
from .images import Originals
from .pictures.drawing import draw
from .pictures.panels import Box, Drawn
from .targets import REST

_TOP = 8  # cells that a record names
_UNSURE = 0.5  # the probability below which an answer is unsure
_NOTHING = 0.02  # an SRG below which a map is not faithful; a random one has 0 on average


@dataclass
class Explanation:
    """Maps of R answers, with what is known of their worth. All tensors are float32 and on the CPU.

    There is one row an image, unless `target` was None for a model with several answers an image.

    method: the one that was used.   rows: the image of each row.   target: ids of outputs, None of a function.
    label: names.   contrast: what the outputs are compared with, None without.   probability: [R], the model's; NaN
    where it has none.   logit: [R], what is explained.
    grid: [R, h, w], signed and raw: evidence for and against.   shown: [R, h, w], at least 0: what a picture draws; of
    `libra` the positive evidence of each block.   map: [R, H, W], `shown` (`grid`, if signed) at the model's pixels.
    layers: [L, R, h, w], the share of each block in the grid, of methods that have it.   heads: [H, R, h, w], of
    `attention`.   colours: [R, h, w, 3], of `pca`.
    completeness: [R], |logit − all evidence| / max(|logit|, 1), None of methods that do not add up or without check.
    constant: [R], the part of the logit that comes from no pixel, so that the model would say so of any image.
    confirmed: for each row, whether replacing each of its top cells lowers the logit: {(row, column): bool}.
    faithfulness: for each row before, hidden, hidden_random, sentence and, with a full check, srg, srg_random, deletion
    and insertion; None without check.
    class_specific: whether the map depends on the class.   signed: whether evidence against counts, as with contrast.
    caveat: what the method cannot say.   notes: sentences on all of them.   remarks: sentences on each row.
    photos: uint8 [B, H, W, 3], the images as the model was given them.   seen: rows and columns of their pixels that
    the model looks at.   originals: the photos that these were made of, to draw on; None of a tensor.
    """

    method: str
    rows: list[int]
    target: list[int] | None
    label: list[str]
    contrast: str | None
    probability: torch.Tensor
    logit: torch.Tensor
    grid: torch.Tensor
    shown: torch.Tensor
    map: torch.Tensor
    photos: np.ndarray
    seen: tuple[int, int]
    layers: torch.Tensor | None = None
    heads: torch.Tensor | None = None
    colours: torch.Tensor | None = None
    completeness: torch.Tensor | None = None
    constant: torch.Tensor | None = None
    confirmed: list[dict[tuple[int, int], bool]] | None = None
    faithfulness: list[dict[str, Any]] | None = None
    class_specific: bool = True
    signed: bool = False
    caveat: str | None = None
    notes: list[str] = field(default_factory=list)
    remarks: list[list[str]] = field(default_factory=list)
    originals: Originals | None = None

    @property
    def ranking(self) -> torch.Tensor:
        """The order that the map gives to patches, [R, h, w]: what is shown, and the grid where nothing is."""
        if self.signed:
            return self.grid
        return torch.where(self.shown > 0, self.shown, self.grid.clamp_max(0))

    def __len__(self) -> int:
        return len(self.rows)

    def little(self, row: int) -> str | None:
        """Return why a map explains little; None if nothing speaks against it."""
        reasons = []
        if self.faithfulness is not None:
            measured = self.faithfulness[row]
            useless = measured["hidden"] >= measured["hidden_random"]
            if "srg" in measured:
                useless = measured["srg"] <= max(measured["srg_random"], _NOTHING)
            if useless:
                reasons.append("hiding its top patches changes the answer no more than hiding random ones")
        if self.probability[row] < _UNSURE:
            reasons.append("the model is not sure of this answer")
        return "; ".join(reasons) or None

    def drawn(self, row: int) -> Drawn:
        """Return what a picture shows of a row."""
        probability = float(self.probability[row])
        other = "all others" if self.contrast == REST else self.contrast
        against = f" rather than {other}" if other else ""
        value = f"score {float(self.logit[row]):.3g}" if np.isnan(probability) else f"p {probability:.2f}"
        lines = [f"method {self.method}"]
        if self.faithfulness is not None:
            measured = self.faithfulness[row]
            if "srg" in measured:
                lines.append(f"SRG {measured['srg']:.2f}, of a random map {measured['srg_random']:.2f}")
            lines.append(measured["sentence"])
        if self.completeness is not None:
            lines.append(f"adds up to the logit within {float(self.completeness[row]):.1g}")
        lines += self.remarks[row]
        confirmed = {} if self.confirmed is None else self.confirmed[row]
        grid = self.grid if self.signed else self.shown
        return Drawn(
            grid[row].numpy(), f"{self.label[row]}{against}, {value}", lines, self.signed,
            [cell for cell, lowers in confirmed.items() if not lowers], self.little(row), self.caveat,
        )  # fmt: skip

    def photo(self, row: int) -> tuple[np.ndarray, Box]:
        """Return the image of a row, uint8 [H, W, 3], and the part of it that the map covers.

        The image is the photo as it was given, where a processor resized and cropped it, else the model's view of it.
        """
        view = self.photos[self.rows[row]]
        found = None if self.originals is None else self.originals.photo(self.rows[row])
        if found is None:
            return view, (0, 0, *self.seen)
        photo, (top, left, bottom, right) = found
        height, width = ((bottom - top) * self.seen[0] / len(view), (right - left) * self.seen[1] / view.shape[1])
        return photo, (top, left, top + max(1, round(height)), left + max(1, round(width)))

    def image(self, row: int = 0, side: int = 256) -> Image.Image:
        """Return the picture of a row: image, map, map over image, and what was measured.

        side: pixels of the longer side of each of the three.
        """
        if self.colours is not None:
            return Image.fromarray((self.colours[row].numpy() * 255).round().astype(np.uint8)).resize(
                self.photos.shape[2:0:-1], Image.Resampling.NEAREST
            )
        (photo, seen), drawn = self.photo(row), self.drawn(row)
        return draw(
            photo, drawn.grid, title=drawn.title, lines=drawn.lines, signed=drawn.signed, unconfirmed=drawn.unconfirmed,
            little=drawn.little, note=drawn.note, seen=seen, side=side,
        )  # fmt: skip

    def save(self, path: str | os.PathLike) -> list[Path]:
        """Write the pictures as PNG; return their paths.

        path: of a single row a file; of several a folder, whose files are numbered.
        """
        path = Path(path)
        if len(self) > 1:
            path.mkdir(parents=True, exist_ok=True)
        paths = [path] if len(self) == 1 else [path / f"{row}.png" for row in range(len(self))]
        return [write_whole(each, png_bytes(self.image(row))) for row, each in enumerate(paths)]

    def records(self) -> list[dict[str, Any]]:
        """Return what is known of each row, fit for JSON; its grid is rounded to six digits."""
        return [self.record(row) for row in range(len(self))]

    def record(self, row: int) -> dict[str, Any]:
        """Return the entry of `records` for one row."""
        order = self.ranking[row].flatten().argsort(descending=True, stable=True)[:_TOP].tolist()
        columns = self.grid.shape[2]
        confirmed = {} if self.confirmed is None else self.confirmed[row]
        cells = [(cell // columns, cell % columns) for cell in order]
        record = {
            "image": self.rows[row],
            "label": self.label[row],
            "target": None if self.target is None else self.target[row],
            "contrast": self.contrast,
            "probability": float(self.probability[row]),
            "logit": float(self.logit[row]),
            "method": self.method,
            "class_specific": self.class_specific,
            "caveat": self.caveat,
            "completeness": None if self.completeness is None else float(self.completeness[row]),
            "constant": None if self.constant is None else float(self.constant[row]),
            "faithfulness": None if self.faithfulness is None else self.faithfulness[row],
            "little": self.little(row),
            "top_cells": [{"cell": cell, "confirmed": confirmed.get(cell)} for cell in cells],
            "grid": [[float(f"{value:.6g}") for value in line] for line in self.grid[row].tolist()],
            "notes": [*self.notes, *self.remarks[row]],
        }
        return json_safe(record)

    def to_json(self) -> str:
        """Return `records` as JSON Lines, one row a line."""
        return "".join(map(json_line, self.records()))

    def __repr__(self) -> str:
        names = ", ".join(self.label[:4]) + (", …" if len(self) > 4 else "")
        return f"Explanation: {self.method} of {len(self)} answers ({names}), {self.grid.shape[1]}×{self.grid.shape[2]}"


def png_bytes(picture: Image.Image) -> bytes:
    """Return a picture as the content of a PNG file."""
    written = io.BytesIO()
    picture.save(written, "PNG")
    return written.getvalue()
