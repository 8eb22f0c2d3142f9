"""An evaluation as a page, and as the part of a longer one: figures, classes, confusions, mistakes, calibration.

Shapes: N examples, C classes, T regression targets.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from ..common.claims import STAMP
from ..common.environment import versions
from ..common.json_files import json_safe
from ..data.examples import REGRESSION, SINGLE_LABEL, Examples
from ..reporting import page
from ..reporting.charts import Chart, Series, bar_chart, line_chart, span
from ..reporting.confusion import confused_pairs
from ..reporting.formatting import SHARES, duration, number, title, wilson_interval
from .calibration import reliability
from .mistakes import worst_mistakes
from .result import Evaluation

MAX_ROWS = 200  # classes in the table: those the model does worst on
MAX_MATRIX = 30  # classes: more are shown as pairs
MAX_PAIRS, BESIDE_MATRIX = 20, 10
MAX_MISTAKES = 24  # thumbnails
MAX_TARGETS = 6  # of a regression, each with a chart
MAX_POINTS = 1000  # of such a chart
BETWEEN_0_AND_1 = ("precision", "recall", "f1", "average_precision")
COLUMNS = {"f1": "F1", "average_precision": "AP", "mae": "MAE", "rmse": "RMSE", "r2": "R²"}
QUALITY = ("average_precision", "f1")  # what the table is cut by, the first that there is; without any, by MAE


def write_page(path: str | Path, result: Evaluation, examples: Examples, context: Mapping[str, Any]) -> Path:
    """The page of `vit-custom evaluate`.   context: model, data, device, seconds and, where known, weights."""
    content = {
        "context": context,
        "weights": context.get(STAMP),
        "versions": versions(),
        "tiles": tiles(json_safe(result.metrics), len(result.names)),
        "n": len(result.names),
        "time": duration(context["seconds"]),
        "result": sections(result, examples),
    }
    return page.write_page(path, "evaluation/page.html.j2", content | {"scripted": True})


def tiles(metrics: Mapping[str, Any], n: int) -> list[tuple[str, str, str]]:
    """(name, value, what to add) of each figure; to a share of n images its 95% interval is added."""
    found = []
    for name, value in metrics.items():
        if name in SHARES and value is not None:
            low, high = wilson_interval(value, n)
            found.append((title(name), f"{value:.1%}", f"95% interval {low:.1%} to {high:.1%}"))
        else:
            found.append((title(name), number(value), ""))
    return found


def sections(result: Evaluation, examples: Examples) -> dict[str, Any]:
    """What result.html.j2 shows.   examples: those that were evaluated, to take the thumbnails from."""
    return {
        "problem_type": result.problem_type,
        "table": _table(result),
        "matrix": _matrix(result),
        "pairs": _pairs(result),
        "mistakes": _mistakes(result, examples),
        "calibration": result.calibration and {name: number(value) for name, value in result.calibration.items()},
        "charts": [*_calibration_charts(result), *_target_charts(result)],
        "notes": result.notes,
        "targets_left_out": max(0, len(result.id2label) - MAX_TARGETS) if result.problem_type == REGRESSION else 0,
        "points_left_out": max(0, len(result.names) - MAX_POINTS) if result.problem_type == REGRESSION else 0,
    }


def _table(result: Evaluation) -> dict[str, Any]:
    rows = json_safe(result.per_label)
    names = [name for name in rows[0] if name not in ("id", "label")]
    by = next((name for name in QUALITY if name in names), "mae")
    if cut := len(rows) > MAX_ROWS:
        known = [row for row in rows if row[by] is not None]
        rows = sorted(known, key=lambda row: -row[by] if by == "mae" else row[by])[:MAX_ROWS]
    return {
        "columns": [COLUMNS.get(name, name) for name in names],
        "rows": [(row["label"], [_cell(name, row[name]) for name in names]) for row in rows],
        "of": len(result.per_label),
        "by": COLUMNS.get(by, by) if cut else "",
    }


def _cell(name: str, value: float | None) -> dict[str, Any]:
    """text to read, exact value to sort by, and the length of a bar in percent for a share."""
    share = name in BETWEEN_0_AND_1 and value is not None
    text = "–" if value is None else f"{value:.3f}" if share else number(value)
    return {"text": text, "value": "" if value is None else repr(value), "bar": f"{100 * (value or 0):.1f}" * share}


def _matrix(result: Evaluation) -> dict[str, Any] | None:
    """Counts, and the share of the true class that each is."""
    counts = result.confusion
    if counts is None or len(counts) > MAX_MATRIX:
        return None
    names = [result.id2label[c] for c in range(len(counts))]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # the square root lifts rare mistakes off the background
    rows = [
        (names[i], [(int(counts[i, j]), f"{math.sqrt(shares[i, j]):.2f}", i == j) for j in range(len(names))])
        for i in range(len(names))
    ]
    return {"names": names, "rows": rows, "upright": max(map(len, names)) > 3}


def _pairs(result: Evaluation) -> list[dict[str, Any]]:
    if result.confusion is None:
        return []
    totals, names = result.confusion.sum(axis=1), result.id2label
    return [
        {"times": times, "true": names[i], "predicted": names[j], "share": f"{times / totals[i]:.1%}"}
        for times, i, j in confused_pairs(result.confusion, MAX_PAIRS if len(names) > MAX_MATRIX else BESIDE_MATRIX)
    ]


def _mistakes(result: Evaluation, examples: Examples) -> dict[str, Any]:
    worst, total = worst_mistakes(result.logits, result.labels, result.problem_type, result.id2label, MAX_MISTAKES)
    names = [result.names[one.index] for one in worst]
    folder = _folder(names)
    wanted = set(names)
    sources = {name: i for i, name in enumerate(examples.names) if name in wanted}
    shown = [
        {
            "true": one.true,
            "predicted": one.predicted,
            "score": number(one.score) if result.problem_type == REGRESSION else f"{one.score:.1%}",
            "name": name.removeprefix(folder),
            "picture": page.thumbnail(examples.images[sources[name]]),
        }
        for one, name in zip(worst, names, strict=True)
    ]
    return {"shown": shown, "total": total, "folder": folder.rstrip(os.sep)}


def _folder(names: Sequence[str]) -> str:
    """The folder that all of these files lie in, with its slash, or nothing if they are no files."""
    if not names or not all(os.path.isfile(name) for name in names):
        return ""
    common = os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in names]) + os.sep
    return common if all(name.startswith(common) for name in names) else ""


def _calibration_charts(result: Evaluation) -> list[Chart]:
    if result.problem_type != SINGLE_LABEL:
        return []
    probabilities = softmax(result.logits, axis=1).max(axis=1)
    found = reliability(probabilities, result.logits.argmax(axis=1) == result.labels)
    filled = np.maximum(found.count, 1)
    accuracy, confidence = found.right / filled, found.confidence / filled
    edges = np.linspace(0, 1, len(filled) + 1)
    texts = [
        f"confidence {edges[b]:.2f} to {edges[b + 1]:.2f}: {int(found.count[b]):,} images"
        + (f", {accuracy[b]:.1%} right, mean confidence {confidence[b]:.1%}" if found.count[b] else "")
        for b in range(len(filled))
    ]
    counts = found.count.tolist()
    intervals = [wilson_interval(share, n) if n else None for share, n in zip(accuracy.tolist(), counts, strict=True)]
    labels = ["" if n == 0 else f"{n}" if n < 10_000 else f"{n / 1000:.0f}k" for n in counts]
    right, many = "Share right at each confidence, 95% interval", "Images at each confidence"
    return [
        bar_chart(right, accuracy.tolist(), texts, "confidence", intervals=intervals, y_limits=(0, 1), diagonal=True),
        bar_chart(many, counts, texts, "confidence", labels=labels),
    ]


def _target_charts(result: Evaluation) -> list[Chart]:
    """Predicted over true values of each target, evenly spread examples of a large set."""
    if result.problem_type != REGRESSION:
        return []
    chosen = np.unique(np.linspace(0, len(result.names) - 1, min(len(result.names), MAX_POINTS)).astype(int))
    charts = []
    for t in range(min(len(result.id2label), MAX_TARGETS)):
        true, predicted = result.labels[chosen, t].tolist(), result.logits[chosen, t].tolist()
        both = span([*true, *predicted])
        points = [Series(result.id2label[t], true, predicted, "test", dots=True, line=False)]
        name = f"{result.id2label[t]}: predicted"
        charts.append(line_chart(name, points, "true", x_limits=both, y_limits=both, diagonal=True))
    return [chart for chart in charts if chart is not None]
