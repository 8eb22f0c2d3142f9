"""An evaluation as a page, or as part of a longer one: metrics, classes, confusions, mistakes, calibration.

Shapes: N examples, C classes.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..common.claims import STAMP
from ..common.environment import versions
from ..common.json_files import json_safe
from ..data.examples import Examples
from ..data.names import in_order
from ..reporting import page
from ..reporting.charts import Series, line_chart
from ..reporting.confused import confused_pairs
from ..reporting.formatting import SHARES, duration, number, title, wilson_interval
from ..tasks.task import Mistake
from .illustrations import Illustrate, Illustration, Illustrations
from .result import Evaluation

MAX_ROWS = 200  # classes in the table: the ones with the worst results
MAX_MATRIX = 30  # classes; more are shown as pairs only
MAX_PAIRS, BESIDE_MATRIX = 20, 10
MAX_MISTAKES = 24  # thumbnails
MAX_RIGHT = 4  # right answers that are shown, if they can be illustrated
BETWEEN_0_AND_1 = ("precision", "recall", "f1", "average_precision")
COLUMNS = {"f1": "F1", "average_precision": "AP", "mae": "MAE", "rmse": "RMSE", "r2": "R²"}
UNKNOWN = {  # figure on a page → its key in an evaluation's "unknown"
    "recognised as unknown": "recognised",
    "AUROC": "auroc",
    "false alarms with 95% recognised": "false_alarms_at_95_recognised",
}
QUALITY = ("average_precision", "f1")  # a long table is cut by the first of these that it has, else by MAE


def write_page(
    path: str | Path,
    result: Evaluation,
    examples: Examples,
    context: Mapping[str, Any],
    illustrate: Illustrate | None = None,
) -> Path:
    """Write the page of `vit-custom evaluate`.   context: model, data, device, seconds and, if known, weights.

    illustrate: see `sections`.
    """
    content = {
        "context": context,
        "weights": context.get(STAMP),
        "versions": versions(),
        "tiles": tiles(json_safe(result.metrics), len(result.names)),
        "n": len(result.names),
        "baseline": result.task.comparison(json_safe(result.per_label)),
        "time": duration(context["seconds"]),
        "result": sections(result, examples, illustrate),
        "unknown": _unknown(context.get("unknown")),
    }
    return page.write_page(path, "evaluation/page.html.j2", content | {"scripted": True})


def _unknown(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the page shows of `measure_unknown`."""
    if found is None:
        return None
    answered, wrong = zip(*found["risk_coverage"], strict=True)
    of_others = [(name, found[key]) for name, key in UNKNOWN.items() if found.get(key) is not None]
    curve = Series("error", list(answered), list(wrong), "validation")
    marked = None if found["level"] is None else (found["answered"], "answered")
    return {
        "answered": None if found["level"] is None else f"{found['answered']:.1%}",
        "error": None if found["error_of_answers"] is None else f"{found['error_of_answers']:.1%}",
        "images": f"{found['n_unknown']:,}" if "n_unknown" in found else "",
        "figures": [(name, f"{value:.1%}") for name, value in of_others],
        "chart": line_chart(
            f"Error of the answers, if images of less {found['by']} are not answered",
            [curve],
            "share answered",
            marked=marked,
            x_limits=(0, 1),
        ),
    }


def tiles(metrics: Mapping[str, Any], n: int) -> list[tuple[str, str, str]]:
    """Return (name, value, addition) of each metric; a share of n images gets its 95% interval as addition."""
    found = []
    for name, value in metrics.items():
        if name in SHARES and value is not None:
            low, high = wilson_interval(value, n)
            found.append((title(name), f"{value:.1%}", f"95% interval {low:.1%} to {high:.1%}"))
        else:
            found.append((title(name), number(value), ""))
    return found


def sections(result: Evaluation, examples: Examples, illustrate: Illustrate | None = None) -> dict[str, Any]:
    """Return the variables of result.html.j2.   examples: the evaluated ones, for the thumbnails.

    illustrate: makes what is shown beside each mistake, and beside a few right answers.
    """
    calibration = result.details.calibration
    return {
        "words": result.task.words,
        "table": _table(result),
        "matrix": _matrix(result),
        "pairs": _pairs(result),
        **_answers(result, examples, illustrate),
        "calibration": calibration and {name: number(value) for name, value in calibration.items()},
        "charts": result.task.charts(result.outputs, result.values, result.id2label),
        "notes": result.notes,
        "left_out": result.details.left_out,
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
    """One cell: text to read, the exact value to sort by and, for a share, the length of its bar in percent."""
    share = name in BETWEEN_0_AND_1 and value is not None
    text = "–" if value is None else f"{value:.3f}" if share else number(value)
    return {"text": text, "value": "" if value is None else repr(value), "bar": f"{100 * (value or 0):.1f}" * share}


def _matrix(result: Evaluation) -> dict[str, Any] | None:
    """The confusion matrix: counts, each with the square root of its share of the true class. None for many classes."""
    counts = result.confusion
    if counts is None or len(counts) > MAX_MATRIX:
        return None
    names = in_order(result.id2label)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # the square root makes rare mistakes visible against the background
    rows = [
        (names[i], [(int(counts[i, j]), f"{math.sqrt(shares[i, j]):.2f}", i == j) for j in range(len(names))])
        for i in range(len(names))
    ]
    return {"names": names, "rows": rows, "upright": max(map(len, names)) > 3}


def _pairs(result: Evaluation) -> list[dict[str, Any]]:
    pairs, names = result.details.confused, result.id2label
    if pairs is None:
        return []
    totals = np.bincount(pairs[:, 1], pairs[:, 0])
    return [
        {"times": times, "true": names[i], "predicted": names[j], "share": f"{times / totals[i]:.1%}"}
        for times, i, j in confused_pairs(pairs, MAX_PAIRS if len(names) > MAX_MATRIX else BESIDE_MATRIX)
    ]


def _answers(result: Evaluation, examples: Examples, illustrate: Illustrate | None) -> dict[str, Any]:
    """The worst mistakes and, if they are illustrated, the surest right answers."""
    answers = (result.outputs, result.values, result.id2label)
    worst, total = result.task.mistakes(*answers, MAX_MISTAKES)
    right = [] if illustrate is None else result.task.surest(*answers, MAX_RIGHT)
    names = [result.names[one.index] for one in worst + right]
    folder = _folder(names)
    wanted = set(names)
    sources = {name: i for i, name in enumerate(examples.names) if name in wanted}
    images = [examples.images[sources[name]] for name in names]
    more = _illustrated(illustrate, images, names, worst + right)
    shown: list[dict[str, Any]] = [
        {
            "true": one.true,
            "predicted": one.predicted,
            "score": one.shown,
            "name": name.removeprefix(folder),
            "picture": page.thumbnail(image),
            "more": beside,
        }
        for one, name, image, beside in zip(worst + right, names, images, more.each, strict=True)
    ]
    return {
        "mistakes": {"shown": shown[: len(worst)], "total": total, "folder": folder.rstrip(os.sep)},
        "right": [one for one in shown[len(worst) :] if one["more"].map or one["more"].nearest],
        "illustrated": more.notes,
    }


def _illustrated(
    illustrate: Illustrate | None, images: Sequence[Any], names: Sequence[str], answers: Sequence[Mistake]
) -> Illustrations:
    """What is shown beside the answers. What fails costs no page: the reason stands in its place."""
    why = []
    if illustrate is not None and answers:
        try:
            return illustrate(images, names, answers)
        except Exception as error:
            why = [f"No maps and no nearest images: {error}"]
    return Illustrations([Illustration() for _ in answers], why)


def _folder(names: Sequence[str]) -> str:
    """The folder that contains all of these files, with its slash; nothing if they are not files."""
    if not names or not all(os.path.isfile(name) for name in names):
        return ""
    common = os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in names]) + os.sep
    return common if all(name.startswith(common) for name in names) else ""
