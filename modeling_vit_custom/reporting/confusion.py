"""The confusion matrix: its most frequent mistakes, and its picture."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..common.text import printable
from .plots import ACCENT, INK, save_figure


def confused_pairs(confusion: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """[(how often, true class, predicted class)] of the most frequent mistakes.   confusion: [C, C], rows true."""
    rows, columns = np.nonzero(confusion - np.diag(np.diag(confusion)))
    times = confusion[rows, columns]
    order = np.argsort(-times, kind="stable")[:count]
    return [(int(times[k]), int(rows[k]), int(columns[k])) for k in order]


MAX_ANNOTATED = 25  # more classes than this: colour alone, figures no longer fit their cells
MAX_NAMED = 120  # more classes than this: class ids on the axes instead of names
MAX_LABEL = 28  # characters of a class name shown on an axis


def plot_confusion_matrix(
    matrix: np.ndarray, labels: Sequence[str], path: str | os.PathLike, title: str = "Confusion matrix"
) -> Path:
    """Draws counts, coloured by the share of each true class, as a PNG; returns its path.

    matrix: [C, C] counts, rows true, columns predicted.   labels: [C] class names.
    """
    matrix = np.asarray(matrix)
    classes = len(matrix)
    if matrix.shape != (classes, classes) or len(labels) != classes or classes == 0:
        raise ValueError(f"matrix has shape {matrix.shape} with {len(labels)} labels; needs [C, C] and C labels.")
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    written = classes <= MAX_ANNOTATED

    side = float(np.clip(0.5 * classes, 3.4, 12)) if written else min(8 + 0.07 * classes, 16)
    figure = Figure(figsize=(side, side), dpi=150)
    axes = figure.add_axes((0, 0, 1, 1))  # what lies beside it is reached by the tight bounding box on saving
    # The square root lifts rare mistakes off the background; where counts are written it is not needed.
    colours = PowerNorm(1.0 if written else 0.5, vmin=0, vmax=1)
    image = axes.imshow(shares, cmap="Blues", norm=colours, interpolation="nearest")
    inch = 1 / side
    bar_height = 1 if written else 0.5
    bar = figure.colorbar(image, cax=axes.inset_axes((1 + 0.2 * inch, 1 - bar_height, 0.2 * inch, bar_height)))
    if written:
        _write_counts(axes, matrix, shares, side / classes)
    else:
        mistakes = _worst_confusions(matrix, labels)
        axes.text(1 + 0.2 * inch, 0.45, mistakes, va="top", transform=axes.transAxes, parse_math=False)
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)

    _name_ticks(axes, labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    accuracy = np.trace(matrix) / max(matrix.sum(), 1)
    axes.set_title(f"{title}\n{int(matrix.sum()):,} images, {accuracy:.1%} right", color=INK, fontsize=11)
    axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.tick_params(which="minor", length=0)
    if written:
        axes.grid(which="minor", color="white", linewidth=0.5)
    axes.spines[:].set_color("#cbd2d9")
    return save_figure(figure, path)


def _shorten(label: str) -> str:
    label = printable(label)
    return label if len(label) <= MAX_LABEL else label[: MAX_LABEL - 1] + "…"


def _worst_confusions(matrix: np.ndarray, labels: Sequence[str], count: int = 12) -> str:
    lines = [f"{n:,} x  {_shorten(labels[i])} → {_shorten(labels[j])}" for n, i, j in confused_pairs(matrix, count)]
    return "\n".join(["Most frequent mistakes", "(true → predicted)", "", *(lines or ["none"])])


def _name_ticks(axes: Axes, labels: Sequence[str]) -> None:
    classes = len(labels)
    if classes > MAX_NAMED:
        axes.xaxis.set_major_locator(MaxNLocator(20, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(20, integer=True))
        return
    shown = [_shorten(label) for label in labels]
    size = 9 if classes <= MAX_ANNOTATED else max(4.5, 10 - 0.055 * classes)
    upright = max(map(len, shown)) <= 2 and classes <= MAX_ANNOTATED
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    turn = {} if upright else slanted if classes <= MAX_ANNOTATED else {"rotation": 90}
    ticks = [
        *axes.set_xticks(range(classes), shown, fontsize=size, **turn),
        *axes.set_yticks(range(classes), shown, fontsize=size),
    ]
    for tick in ticks:
        tick.label1.set_parse_math(False)


def _write_counts(axes: Axes, matrix: np.ndarray, shares: np.ndarray, cell: float) -> None:
    """Writes each count into its cell of `cell` inches; zeros are left out, so that mistakes stand out."""
    digits = len(f"{matrix.max():,}")
    size = float(np.clip(cell * 72 / (0.75 * digits + 0.6), 4, 11))
    for i, j in zip(*np.nonzero(matrix), strict=True):
        axes.text(
            j,
            i,
            f"{matrix[i, j]:,}",
            ha="center",
            va="center",
            fontsize=size,
            color="white" if shares[i, j] > 0.5 else ACCENT if i != j else INK,
        )
