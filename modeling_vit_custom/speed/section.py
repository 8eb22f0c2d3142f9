"""The speed table as Markdown: on the screen, and as a section of a model card."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.outputs import write_whole
from ..reporting.markdown import markdown_table

BEGIN, END = "<!-- speeds -->", "<!-- /speeds -->"


def table(report: Mapping[str, Any]) -> str:
    """Return the table as Markdown, from slow to fast.

    It has the exact row, the Pareto front, the named speeds and, marked as such, the rows slower than the exact one.
    """
    names = {row["name"]: f"`{name}`" for name, row in report["speeds"].items()}
    columns, cells = ["speed", "settings", "images/s", "ratio", "accuracy", "lost, points (95 %)"], []
    exact, *others = report["rows"]
    shown = [exact] + [row for row in others if row["name"] in {*report["front"], *names} or row["ratio"] < 1]
    for row in sorted(shown, key=lambda row: row["ratio"]):
        lost, least, most = points_lost(row)
        slower = " (slower: not offered)" if row["ratio"] < 1 else ""
        cells.append([
            names.get(row["name"], ""), f"{row['name']}{slower}", f"{row['images_per_second']:.1f}",
            f"{row['ratio']:.2f}", f"{row['accuracy']:.2%}", f"{lost:.2f} ({least:.2f} to {most:.2f})",
        ])  # fmt: skip
    return markdown_table(columns, cells)


def points_lost(row: Mapping[str, Any]) -> list[float]:
    """Return the points of accuracy lost and the ends of their 95 % interval; never -0.0."""
    return [0.0 - 100 * row[name] for name in ("difference", "high", "low")]


def section(report: Mapping[str, Any]) -> str:
    """Return the section as Markdown: the table and how to read it."""
    how = f"{report['device']}, {report['cpu_cores']} cores, batches of {report['batch_size']}"
    n = report["rows"][0]["n"]
    use = ""
    if name := next(iter(report["speeds"]), None):
        use = f' `from_pretrained(…, speed="{name}")` takes the row of that name,'
        use += f' for `pipeline` `model_kwargs={{"speed": "{name}"}}`.'
    return (
        f"## Speeds\n\n{table(report)}\n\nMeasured on {n:,} images ({how}); other machines have other ratios. Losses "
        f"are paired with the exact row.{use}"
    )


def marked_section(report: Mapping[str, Any]) -> str:
    """Return the section between the marks that `write_section` looks for."""
    return f"{BEGIN}\n{section(report)}\n{END}"


def write_section(card: Path, report: Mapping[str, Any]) -> None:
    """Write the section into a model card, in place of an older one; do nothing if there is no card."""
    if not card.is_file():
        return
    text = card.read_text(encoding="utf-8")
    new = marked_section(report)
    old = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    text = old.sub(lambda _: new, text) if old.search(text) else f"{text.rstrip()}\n\n{new}\n"
    write_whole(card, text)  # replaces a link: a cache of the Hub links each file to one that others share
