"""PNG pictures: training history, reconstructed images, speeds, lines. Drawn off screen, without global state."""

import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ..common.outputs import write_whole
from .history import BETWEEN_0_AND_1, LEARNING_RATE, LOSS, OTHER, VALIDATION, Curve, panels

INK, ACCENT, MUTED = "#1f2933", "#d1495b", "#2e6f9e"


class Picture(Figure):
    """A figure that a notebook shows if it is the value of a cell, whether pyplot was imported or not."""

    def _repr_png_(self) -> bytes:
        return png_of(self)


def plot_training_history(log_history: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> Path:
    """Draw `TrainerState.log_history` as a PNG, as `draw_training_history` does; return its path."""
    return save_figure(draw_training_history(log_history), path)


def draw_training_history(log_history: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw `TrainerState.log_history`: loss, validation metrics, learning rate.

    Panels without data are left out. Raises ValueError if no panel is left.
    """
    x_name = "epoch" if all("epoch" in entry for entry in log_history) else "step"
    shown = list({panel.kind: panel for panel in reversed(panels(log_history)) if panel.kind != OTHER}.values())[::-1]
    if not shown:
        raise ValueError("log_history holds no loss, validation metric or learning rate; nothing to plot.")
    figure = Picture(figsize=(4.6 * len(shown), 3.6), dpi=150, layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        DRAW[panel.kind](axes, panel.curves, x_name)
        _dress(axes, x_name, panel.kind)
    return figure


def plot_reconstructions(images: np.ndarray, path: str | os.PathLike) -> Path:
    """Draw a row for each image as a PNG: original, masked, reconstructed; return its path.

    images: [n, 3, h, w, C] in 0..1. The first three channels are shown in colour; with fewer than three, the first in
    grey.
    """
    height, width = images.shape[2:4]
    figure = Picture(figsize=(4.8, 1.6 * len(images) * height / width + 0.3), dpi=150, layout="constrained")
    rows = figure.subplots(len(images), 3, squeeze=False)
    for axes, title in zip(rows[0], ("original", "masked", "reconstructed"), strict=True):
        axes.set_title(title, fontsize=9, color=INK)
    for axes, image in zip(rows.flat, images.reshape(-1, *images.shape[2:]), strict=True):
        axes.imshow(image[..., :3] if image.shape[-1] >= 3 else image[..., 0], cmap="gray", vmin=0, vmax=1)
        axes.set_axis_off()
    return save_figure(figure, path)


def plot_speeds(report: Mapping[str, Any], path: str | os.PathLike) -> Path:
    """Draw a speed table as a PNG, accuracy against images a second, with the Pareto front joined; return its path.

    report: {"rows": [{"images_per_second", "accuracy", "name"}, …], "front": names from slow to fast}
    """
    rows = {row["name"]: row for row in report["rows"]}
    figure = Picture(figsize=(6.4, 4), dpi=150, layout="constrained")
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
    return save_figure(figure, path)


def plot_lines(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], x_name: str, path: str | os.PathLike
) -> Path:
    """Draw panels side by side as a PNG, both axes logarithmic; return its path.

    panels: {title: {name of a line: (x, y)}}
    """
    figure = Picture(figsize=(4.6 * len(panels), 3.6), dpi=150, layout="constrained")
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
    return save_figure(figure, path)


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


def save_figure(figure: Figure, path: str | os.PathLike) -> Path:
    return write_whole(path, png_of(figure))


def png_of(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    drawn = BytesIO()
    figure.savefig(drawn, format="png", bbox_inches="tight", pad_inches=0.15)
    return drawn.getvalue()
