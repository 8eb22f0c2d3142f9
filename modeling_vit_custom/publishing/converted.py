"""Facts for the card from conversion.json: source of the weights, assumptions, comparison with the original."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..common.claims import BEFORE
from ..common.json_files import read_json
from ..common.model_files import CONVERSION


def conversion_facts(folder: Path) -> dict[str, Any] | None:
    """Return {"source", "family", "parameters", "notes", "check", "before", "earlier"} of conversion.json, or None.

    "before": SHA-256 of the weights of ours that were converted for another library, else None.   "earlier": source and
    family of the conversion that those came from, else None.   "check" is None or {"passed", "by", "tolerance",
    "notes", "columns", "rows"}.   columns: names of all figures. rows: (input of both models, {column:
    figure}).   Raises ValueError for a file of another form.
    """
    if not (folder / CONVERSION).is_file():
        return None
    report = read_json(folder / CONVERSION)
    try:
        check = report.get("check")
        return {
            "source": str(report["source"]),
            "family": str(report["family"]),
            "parameters": report.get("parameters"),
            "notes": [str(note) for note in report["notes"]],
            "check": check and _check_facts(check),
            "before": (report.get(BEFORE) or {}).get("sha256"),
            "earlier": report.get("converted_before"),
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{CONVERSION} is not as `convert` leaves it, convert again ({error!r}).") from error


def _check_facts(check: Mapping[str, Any]) -> dict[str, Any]:
    rows = [(f"random images, {_pixels(row)}", dict(_figures(row))) for row in check["from_tensors"]]
    if row := check.get("from_pixels"):
        rows.append(("pictures, each prepared by its own library", dict(_figures(row))))
    return {
        "passed": check["passed"] is True,
        "by": check.get("reference"),
        "tolerance": check.get("tolerance"),
        "notes": [str(note) for note in check.get("notes", [])],
        "columns": list(dict.fromkeys(name for _, figures in rows for name in figures)),
        "rows": rows,
    }


def _pixels(row: Mapping[str, Any]) -> str:
    height, width = row["size"]
    return f"{width} × {height} pixels"


def _figures(row: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, Any]]:
    """(name, figure) for each number in a row, in a group ("group name", figure); other values are skipped."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _figures(value, f"{group}{name} ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{group}{name}".replace("_", " "), value
