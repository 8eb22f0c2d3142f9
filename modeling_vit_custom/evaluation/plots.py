"""Pictures: the confusion matrix, the course of a training, reconstructed images. Drawn off screen, no global state."""

import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from ..data.raw import printable
from ..inference.outputs import write_whole
from .history import BETWEEN_0_AND_1, LEARNING_RATE, LOSS, OTHER, VALIDATION, Curve, panels
from .mistakes import confused_pairs

INK, ACCENT, MUTED = "#1f2933", "#d1495b", "#2e6f9e"
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
    return _save(figure, path)


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


def plot_training_history(log_history: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> Path:
    """Draws `TrainerState.log_history` as a PNG: loss, validation metrics, learning rate; returns its path.

    Panels without data are left out; raises ValueError when nothing is left.
    """
    x_name = "epoch" if all("epoch" in entry for entry in log_history) else "step"
    shown = list({panel.kind: panel for panel in reversed(panels(log_history)) if panel.kind != OTHER}.values())[::-1]
    if not shown:
        raise ValueError("log_history holds no loss, validation metric or learning rate; nothing to plot.")
    figure = Figure(figsize=(4.6 * len(shown), 3.6), dpi=150, layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        DRAW[panel.kind](axes, panel.curves, x_name)
        _dress(axes, x_name, panel.kind)
    return _save(figure, path)


def plot_reconstructions(images: np.ndarray, path: str | os.PathLike) -> Path:
    """Draws a row for each image as a PNG: original, masked, reconstructed; returns its path.

    images: [n, 3, h, w, C] in 0..1, of C = 3 in colour, else the first channel in grey.
    """
    height, width = images.shape[2:4]
    figure = Figure(figsize=(4.8, 1.6 * len(images) * height / width + 0.3), dpi=150, layout="constrained")
    rows = figure.subplots(len(images), 3, squeeze=False)
    for axes, title in zip(rows[0], ("original", "masked", "reconstructed"), strict=True):
        axes.set_title(title, fontsize=9, color=INK)
    for axes, image in zip(rows.flat, images.reshape(-1, *images.shape[2:]), strict=True):
        axes.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=1)
        axes.set_axis_off()
    return _save(figure, path)


def plot_speeds(report: Mapping[str, Any], path: str | os.PathLike) -> Path:
    """Draws a speed table as a PNG, accuracy against images a second, the rows worth having joined; returns its path.

    report: {"rows": [{"images_per_second", "accuracy", "name"}, …], "front": names from slow to fast}
    """
    rows = {row["name"]: row for row in report["rows"]}
    figure = Figure(figsize=(6.4, 4), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.scatter(
        [row["images_per_second"] for row in rows.values()],
        [100 * row["accuracy"] for row in rows.values()],
        color="#9aa5b1",
        s=14,
    )
    best = [rows[name] for name in report["front"]]
    speeds, right = [row["images_per_second"] for row in best], [100 * row["accuracy"] for row in best]
    axes.plot(speeds, right, color=ACCENT, marker="o", markersize=4, linewidth=1.4)
    for name, x, y in zip(report["front"], speeds, right, strict=True):
        axes.annotate(name, (x, y), textcoords="offset points", xytext=(5, 5), fontsize=7, color=INK)
    _dress(axes, "images a second", "accuracy, %")
    return _save(figure, path)


def plot_lines(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], x_name: str, path: str | os.PathLike
) -> Path:
    """Draws panels side by side as a PNG, both axes logarithmic; returns its path.

    panels: title -> name of a line -> (x, y)
    """
    figure = Figure(figsize=(4.6 * len(panels), 3.6), dpi=150, layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, (x, y) in lines.items():
            axes.loglog(x, y, marker="o", markersize=3.5, linewidth=1.4, label=name)
        ticks = sorted({value for x, _ in lines.values() for value in x})
        axes.set_xticks(ticks, [f"{value:g}" for value in ticks])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        _dress(axes, x_name, title)
        axes.legend(frameon=False)
    return _save(figure, path)


def _dress(axes: Any, x_name: str, y_name: str) -> None:
    axes.set_xlabel(x_name)
    axes.set_ylabel(y_name)
    axes.grid(color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _x(curve: Curve, x_name: str) -> list[float]:
    return curve.epochs if x_name == "epoch" else curve.steps


def _draw_loss(axes: Axes, curves: Sequence[Curve], x_name: str) -> None:
    for curve in curves:
        colour = ACCENT if curve.validation else MUTED
        marker = "o" if curve.validation or len(curve.values) == 1 else None
        axes.plot(
            _x(curve, x_name),
            curve.values,
            label=curve.name,
            color=colour,
            marker=marker,
            markersize=3.5,
            linewidth=1.4,
        )
    axes.legend(frameon=False)


def _draw_metrics(axes: Axes, curves: Sequence[Curve], x_name: str) -> None:
    for curve in curves:
        best = f" (best {max(curve.values):.4g})" if curve.key in BETWEEN_0_AND_1 else ""
        axes.plot(_x(curve, x_name), curve.values, marker="o", markersize=3.5, linewidth=1.4, label=curve.name + best)
    axes.legend(frameon=False)


def _draw_learning_rate(axes: Axes, curves: Sequence[Curve], x_name: str) -> None:
    for curve in curves:
        marker = "o" if len(curve.values) == 1 else None
        axes.plot(_x(curve, x_name), curve.values, color=INK, linewidth=1.4, marker=marker)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))


DRAW = {LOSS: _draw_loss, VALIDATION: _draw_metrics, LEARNING_RATE: _draw_learning_rate}


def _save(figure: Figure, path: str | os.PathLike) -> Path:
    FigureCanvasAgg(figure)
    drawn = BytesIO()
    figure.savefig(drawn, format="png", bbox_inches="tight", pad_inches=0.15)
    return write_whole(path, drawn.getvalue())
