"""The table of `benchmark few`."""

import statistics
from collections.abc import Sequence
from typing import Any

from ..reporting.formatting import wilson_interval
from ..reporting.markdown import markdown_table

Rows = Sequence[dict[str, Any]]


def table(rows: Rows, methods: Sequence[str]) -> str:
    """Return a Markdown table with one line for each data set and number of images a class.

    For each method: the mean accuracy over the draws in %, its Wilson interval for the test images of one draw, and CPU
    seconds. The last columns compare two methods over the draws that both have: difference in points of accuracy, and
    ratio of CPU seconds.
    """
    shown = [method for method in methods if any(row["method"] == method for row in rows)]
    verdicts = [
        "features_once − logistic_regression, points", "features_once ÷ logistic_regression, CPU",
        "default − features_once, points",
    ]  # fmt: skip
    lines = []
    for data, images in dict.fromkeys((row["data"], row["images"]) for row in rows):
        cell = [row for row in rows if (row["data"], row["images"]) == (data, images)]
        by_method = {method: [row for row in cell if row["method"] == method] for method in shown}
        lines.append([data, images, *(figures(own) for own in by_method.values()), *_verdicts(by_method)])
    return markdown_table(["data", "images a class", *shown, *verdicts], lines)


def figures(rows: Rows) -> str:
    """Return accuracy, its interval and CPU seconds of one method as text; "failed" if every draw failed."""
    done = [row for row in rows if "failed" not in row]
    if not done:
        return "failed" if rows else "–"
    accuracy, cpu = (statistics.mean(row[name] for row in done) for name in ("accuracy", "cpu_seconds"))
    low, high = wilson_interval(accuracy, done[0]["test_images"])
    failed = f", {len(rows) - len(done)} failed" if len(done) < len(rows) else ""
    return f"{100 * accuracy:.1f} ({100 * low:.1f}–{100 * high:.1f}), {cpu:,.0f} s{failed}"


def _verdicts(by_method: dict[str, list[dict[str, Any]]]) -> list[str]:
    once = "features_once"
    theirs = _paired(by_method, once, "logistic_regression")
    more = _paired(by_method, "default", once)
    ratio = [statistics.mean(row["cpu_seconds"] for row in side) for side in zip(*theirs, strict=True)]
    return [_points(theirs), f"{ratio[0] / ratio[1]:.2f}" if ratio else "–", _points(more)]


def _paired(by_method: dict[str, list[dict[str, Any]]], one: str, other: str) -> list[tuple[dict, dict]]:
    """Pairs of rows of two methods that both finished on the same draw."""
    first, second = (
        {row["draw"]: row for row in by_method.get(name, []) if "failed" not in row} for name in (one, other)
    )
    return [(first[draw], second[draw]) for draw in sorted(first.keys() & second.keys())]


def _points(pairs: list[tuple[dict, dict]]) -> str:
    differences = [100 * (one["accuracy"] - other["accuracy"]) for one, other in pairs]
    return f"{statistics.mean(differences):+.1f}" if differences else "–"
