"""The answer to one image as text: a JSON line, a row of CSV, a short line for a screen.

A record is {"path": …, "predictions": [{"label": …, "score": …}, …]} or {"path": …, "error": …}; see `predict`. That of
a model that answers "unknown" also has "unknown" and "typicality".
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..common.text import printable, steers
from ..labels_vit_custom import JOINERS

JSONL, CSV = "jsonl", "csv"
PREDICTIONS = "predictions.jsonl"  # the default output, see `default_output`
WRITTEN = (JSONL, CSV)  # values of --format
FEW = 10  # so many answers, or errors, are shown on the screen
UNKNOWN = ("unknown", "typicality")  # fields of a record whose model answers "unknown"
SHORT = 3  # entries of one answer on a line of several images

Record = Mapping[str, Any]


def default_output(format_name: str) -> str:
    """Return the name of the default output in a format of WRITTEN."""
    return f"{PREDICTIONS.rpartition('.')[0]}.{format_name}"


def json_line(record: Record) -> str:
    r"""Return a record as a line of JSON; letters of any language stay readable.

    What would steer a terminal or is no text, such as the bytes of an undecodable file name, is escaped as \uXXXX.
    """
    text = json.dumps(record, ensure_ascii=False)
    return "".join(json.dumps(c)[1:-1] if c not in JOINERS and steers(c) else c for c in text) + "\n"


# ---------- CSV


def csv_columns(entries: Sequence[Mapping[str, Any]], unknown: bool = False) -> list[str]:
    """Return the names of the columns.   entries: the answer to any image.   unknown: whether the model answers that.

    Scores are in pairs, best first: path, label, score, label_2, score_2, …, error. Numbers have a column for each
    target: path, age, height, …, error. "unknown" (true or false) and "typicality" stand before error.
    """
    if entries and "value" in entries[0]:
        return ["path", *(_cell(entry["label"]) for entry in entries), "error"]
    ends = ["", *(f"_{rank}" for rank in range(2, len(entries) + 1))]
    more = UNKNOWN if unknown else ()
    return ["path", *(f"{what}{end}" for end in ends for what in ("label", "score")), *more, "error"]


def csv_row(record: Record, columns: Sequence[str]) -> str:
    """Return a record as a row of the columns; an image without an answer has its error and empty cells."""
    cells, more = [], [json.dumps(record[name]) for name in UNKNOWN if name in record]
    for entry in record.get("predictions", ()):
        cells += [entry["value"]] if "value" in entry else [_cell(entry["label"]), entry["score"]]
    empty = [""] * (len(columns) - 2 - len(cells) - len(more))
    return csv_line([_cell(record["path"]), *cells, *empty, *more, _cell(record.get("error", ""))])


def csv_line(cells: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _cell(text: str) -> str:
    """Text of a cell on one line, in which only what steers a terminal or is no text is spelt out."""
    return printable(text, keep=JOINERS)


# ---------- the screen


def shown(records: Sequence[Record]) -> Iterator[str]:
    """Yield the answers to a few images: a line for each entry of a single image, otherwise one for each image."""
    answered = [record for record in records if "predictions" in record]
    if len(records) == 1:
        for record in answered:
            yield from [_unknown(record)] if record.get("unknown") else []
            wide = max(len(_cell(entry["label"])) for entry in record["predictions"])
            yield from (f"{_cell(entry['label']):<{wide}}  {_figure(entry)}" for entry in record["predictions"])
        return
    wide = max((len(_cell(record["path"])) for record in answered), default=0)
    for record in answered:
        entries = [f"{_cell(entry['label'])} {_figure(entry)}" for entry in record["predictions"][:SHORT]]
        if record.get("unknown"):
            entries.insert(0, _unknown(record))
        yield f"{_cell(record['path']):<{wide}}  {', '.join(entries)}"


def reason(record: Record) -> str:
    """Return why an image has no answer, with its path."""
    path, error = _cell(record["path"]), _cell(record["error"])
    return error if error.startswith(path) else f"{path}: {error}"


def _unknown(record: Record) -> str:
    return f"unknown (typicality {record['typicality']:.2g})"


def _figure(entry: Mapping[str, Any]) -> str:
    return f"{entry['score']:.2f}" if "score" in entry else f"{entry['value']:.4g}"
