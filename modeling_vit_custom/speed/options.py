"""Options that make a trained classifier faster without training it again.

Shapes: H×W pixels, p×q patch.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..inference.loading import FORMATS
from ..token_merging_vit_custom import counts_for

MERGING = ("1.25x", "1.5x", "1.75x", "2x", "2.5x")
SIZES = (0.875, 0.75, 0.625, 0.5)  # shares of the image's sides
EXACT_FORMAT = "float32"


@dataclass(frozen=True)
class Option:
    """One option.   token_merging, shrink_to: as in the configuration.   format_name: one of FORMATS."""

    token_merging: str | None = None
    shrink_to: tuple[int, int] | None = None
    format_name: str = EXACT_FORMAT

    def __str__(self) -> str:
        size = f"{self.shrink_to[0]}x{self.shrink_to[1]} px" if self.shrink_to else None
        merging = f"merging {self.token_merging}" if self.token_merging else None
        name = self.format_name if self.format_name != EXACT_FORMAT else None
        return ", ".join(filter(None, (merging, size, name))) or "exact"

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of the option that the configuration's `speeds` hold."""
        return {"token_merging": self.token_merging, "shrink_to": list(self.shrink_to) if self.shrink_to else None}


def options(
    config: Any, merging: Sequence[str], sizes: Sequence[float], forms: Sequence[str]
) -> tuple[list[Option], list[str]]:
    """Return (the possible options, a sentence on each impossible one).

    The options are every combination of merging and size, the exact one first, then each format.   merging: targets.
    sizes: shares of the image's sides, below 1, which are rounded to whole patches.

    Raises ValueError for an invalid target or share.
    """
    shrunk: list[tuple[int, int] | None] = [None]
    for share in sizes:
        if not 0 < share < 1:
            raise ValueError(f"--sizes {share}: give shares of the sides between 0 and 1, such as 0.75.")
        h, w = (
            max(1, round(share * cells)) * side for cells, side in zip(config.grid_hw, config.patch_hw, strict=True)
        )
        if (h, w) != tuple(cells * side for cells, side in zip(config.grid_hw, config.patch_hw, strict=True)):
            shrunk.append((h, w))
    found, impossible = [], []
    for size in dict.fromkeys(shrunk):
        for target in (None, *merging):
            option = Option(target, size)
            try:
                counts_for(config, target, math.prod(config.grid_of(size or config.image_hw)))
                found.append(option)
            except ValueError as error:
                if "possible" not in str(error):
                    raise
                impossible.append(f"{option}: {error}")
    return found + [Option(format_name=name) for name in forms if name != EXACT_FORMAT], impossible


@contextmanager
def applied(option: Option, model: Any) -> Iterator[Any]:
    """Yield `model` with `option` set in its configuration; restore the configuration at the end."""
    before = {name: getattr(model.config, name) for name in option.settings}
    try:
        model.config.token_merging, model.config.shrink_to = option.token_merging, option.shrink_to
        yield model
    finally:
        for name, value in before.items():
            setattr(model.config, name, value)


def in_format(model: Any, format_name: str) -> Any:
    """Return a copy of `model` in another number format; `model` itself for float32."""
    return model if format_name == EXACT_FORMAT else copy.deepcopy(model).to(FORMATS[format_name])
