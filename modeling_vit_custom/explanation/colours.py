"""Colours of maps: two tables that are even to the eye, and the scale between 0 and the brightest colour.

In the first, CIELAB lightness rises in equal steps, so no edge appears that the map does not have, and the order of
values survives colour blindness and black-and-white print. In the second, both sides fall from white in equal steps.
h x w cells of a map.
"""

import numpy as np

_SEQUENTIAL = """012169 411f70 661b73 861472 a2146d ba1d66 cf2d5e e04055
ec564d f36e46 f78541 f99c3f f7b342 f2ca53 ecdf69 e3f485"""
_DIVERGING = """2e7ac5 5088cb 6b98d2 83a7d8 9bb7de b1c6e4 c8d6ea dfe6f0 f6f6f6
f2e3d7 edd0b9 e6bd9b e0aa7f d89663 d08349 c6702d bd5c0d"""
PERCENTILE = 99  # of the positive values: the brightest colour. A single outlier does not darken the rest.


def _table(text: str) -> np.ndarray:
    return np.array([[*bytes.fromhex(entry)] for entry in text.split()], np.uint8)


SEQUENTIAL = _table(_SEQUENTIAL)  # [16, 3]: from 0, dark blue, to the highest value, yellow
DIVERGING = _table(_DIVERGING)  # [17, 3]: blue is against, white is 0, orange is for


def scale_of(*grids: np.ndarray, signed: bool = False) -> float:
    """Return the value of the brightest colour, for all of the maps: a percentile of their positive values.

    signed: of their absolute values. 0 if there are none.
    """
    values = np.concatenate([np.abs(grid).ravel() if signed else np.ravel(grid) for grid in grids])
    values = values[values > 0]
    return float(np.percentile(values, PERCENTILE)) if len(values) else 0.0


def share_of_scale(grid: np.ndarray, scale: float, signed: bool = False) -> np.ndarray:
    """Return a map as shares of the scale: 0 to 1, or -1 to 1 if signed. Without `signed`, negative values are 0."""
    if scale <= 0:
        return np.zeros(np.shape(grid))
    return np.clip(np.asarray(grid, float) / scale, -1.0 if signed else 0.0, 1.0)


def coloured(shares: np.ndarray, signed: bool = False) -> np.ndarray:
    """Return the colours, float [..., 3] in 0..255, of shares of the scale [...], interpolated in the table."""
    table = DIVERGING if signed else SEQUENTIAL
    at = ((shares + 1) / 2 if signed else shares) * (len(table) - 1)
    return np.stack([np.interp(at, np.arange(len(table)), table[:, band]) for band in range(3)], axis=-1)
