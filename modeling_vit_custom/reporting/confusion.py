"""The picture of confusions: a confusion matrix or, for many classes, the most frequent mistakes."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..common.text import printable
from .confused import MATRIX_CLASSES, confused_pairs, matrix_of, pairs_of
from .plots import ACCENT, INK, Picture, save_figure

MAX_ANNOTATED = 25  # more classes than this: colour alone, figures no longer fit their cells
MAX_NAMED = 120  # more classes than this: class ids on the axes instead of names
MAX_LABEL = 28  # characters of a class name shown on an axis
MAX_BARS = 30  # mistakes shown if there are too many classes for a matrix


def plot_confusions(
    pairs: np.ndarray, labels: Sequence[str], path: str | os.PathLike, title: str = "Confusion matrix"
) -> Path:
    """Draw the confusion matrix of pairs [P, 3] as a PNG, as `draw_confusions` does; return its path."""
    return save_figure(draw_confusions(pairs, labels, title), path)


def draw_confusions(pairs: np.ndarray, labels: Sequence[str], title: str = "Confusion matrix") -> Figure:
    """Draw the confusion matrix of pairs [P, 3], as in `confused`.

    With more than MATRIX_CLASSES classes the most frequent mistakes are drawn as bars instead.
    """
    if len(labels) <= MATRIX_CLASSES:
        return draw_confusion_matrix(matrix_of(pairs, len(labels)), labels, title)
    worst = confused_pairs(pairs, MAX_BARS)
    figure = Picture(figsize=(8, 1 + 0.25 * max(len(worst), 1)), dpi=150)
    axes = figure.add_axes((0, 0, 1, 1))
    bars = axes.barh(range(len(worst)), [times for times, _, _ in worst], color=ACCENT)
    axes.bar_label(bars, [f"{times:,}" for times, _, _ in worst], padding=3)
    names = [f"{_shorten(labels[true])} → {_shorten(labels[predicted])}" for _, true, predicted in worst]
    for tick in axes.set_yticks(range(len(worst)), names):
        tick.label1.set_parse_math(False)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("images")
    what = f"Most frequent mistakes of {len(labels):,} classes (true → predicted)"
    _entitle(axes, what, int(pairs[:, 0].sum()), int(pairs[pairs[:, 1] == pairs[:, 2], 0].sum()))
    return figure


def plot_confusion_matrix(
    matrix: np.ndarray, labels: Sequence[str], path: str | os.PathLike, title: str = "Confusion matrix"
) -> Path:
    """Draw counts as a PNG, as `draw_confusion_matrix` does; return its path."""
    return save_figure(draw_confusion_matrix(matrix, labels, title), path)


def draw_confusion_matrix(matrix: np.ndarray, labels: Sequence[str], title: str = "Confusion matrix") -> Figure:
    """Draw counts, coloured by the share of each true class.

    matrix: [C, C] counts, rows true, columns predicted.   labels: [C] class names.   Raises ValueError for other
    shapes.
    """
    matrix = np.asarray(matrix)
    classes = len(matrix)
    if matrix.shape != (classes, classes) or len(labels) != classes or classes == 0:
        raise ValueError(f"matrix has shape {matrix.shape} with {len(labels)} labels; needs [C, C] and C labels.")
    if classes > MATRIX_CLASSES:
        return draw_confusions(pairs_of(matrix), labels)
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    written = classes <= MAX_ANNOTATED

    side = float(np.clip(0.5 * classes, 3.4, 12)) if written else min(8 + 0.07 * classes, 16)
    figure = Picture(figsize=(side, side), dpi=150)
    axes = figure.add_axes((0, 0, 1, 1))  # the tight bounding box on saving includes what lies outside
    # The square root lifts rare mistakes off the background; written counts do not need it.
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
    _entitle(axes, title, int(matrix.sum()), int(np.trace(matrix)))
    if written:
        axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
        axes.tick_params(which="minor", length=0)
        axes.grid(which="minor", color="white", linewidth=0.5)
    axes.spines[:].set_color("#cbd2d9")
    return figure


def _entitle(axes: Axes, title: str, images: int, right: int) -> None:
    axes.set_title(f"{title}\n{images:,} images, {right / max(images, 1):.1%} right", color=INK, fontsize=11)


def _shorten(label: str) -> str:
    label = printable(label)
    return label if len(label) <= MAX_LABEL else label[: MAX_LABEL - 1] + "…"


def _worst_confusions(matrix: np.ndarray, labels: Sequence[str], count: int = 12) -> str:
    lines = [
        f"{n:,} x  {_shorten(labels[i])} → {_shorten(labels[j])}" for n, i, j in confused_pairs(pairs_of(matrix), count)
    ]
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
    """Write each count into its cell of `cell` inches; zeros are left out, so that mistakes stand out."""
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
