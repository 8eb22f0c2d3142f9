"""Label columns of tables and of `datasets`: which task they describe, and their values for it.

Shapes: N rows, T regression targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..common.errors import DataError
from ..weight_files_vit_custom import shorten_list
from .source import Columns
from .targets import LABELLED, ClassIds, MultiHot, Targets, Values


@dataclass(frozen=True)
class LabelColumn:
    """Labels as `RawSplit` holds them, the task they were read for, and notes on how the task was chosen."""

    targets: type[Targets]
    labels: list[str] | list[list[str]] | np.ndarray
    class_names: list[str] | None = None
    notes: list[str] = field(default_factory=list)


def declared_names(feature: Any) -> list[str] | None:
    """Return the class names of a `datasets` feature, a ClassLabel or a list of them; None for any other."""
    from datasets import ClassLabel, List

    feature = feature.feature if isinstance(feature, List) else feature
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def label_columns_of(available: Sequence[str], columns: Columns, source: str) -> list[str]:
    """Return the column names in `columns.label`, which commas separate.

    Raises DataError, calling the table `source`, unless these and the image column are `available`.
    """
    label_columns = [name.strip() for name in columns.label.split(",")]
    for flag, name in [("image", columns.image), *(("label", name) for name in label_columns)]:
        if name not in available:
            raise DataError(
                f"{source} has no column {name!r}, its columns are {shorten_list(available)}. "
                f"Name the {flag} column with --{flag}_column_name."
            )
    return label_columns


def read_label_columns(
    cells_of: dict[str, list[Any]],
    names: Sequence[str],
    columns: Columns,
    class_names: list[str] | None = None,
) -> LabelColumn:
    """Read labels from one column, or from several that hold one label or target each.

    cells_of: column -> [N] cells (str, int, float, bool or lists of these).   names: [N], the names of rows in errors.
    columns: the task, if the user named it, and the separator of labels in a cell.
    class_names: for one column of integers (or lists of them), the names that these integers index.
    Raises DataError for missing or unfitting cells, naming rows.
    """
    separator = columns.separator
    if columns.problem_type not in (None, *LABELLED):
        raise DataError(f"problem_type is {columns.problem_type!r}: give one of {shorten_list(list(LABELLED))}.")
    asked = None if columns.problem_type is None else LABELLED[columns.problem_type]
    if len(cells_of) > 1:
        return _several_columns(cells_of, names, asked)
    (column, cells), notes = next(iter(cells_of.items())), []
    if asked is None:
        asked, reason = infer_targets(cells, separator, class_names is not None)
        notes = [f"column {column!r} {reason}: {asked.problem_type}. --problem_type says otherwise"] if reason else []
    if not asked.named:
        labels, target_names = _numbers(cells, names, column)
        return LabelColumn(asked, labels, target_names, notes)
    if class_names is not None:
        cells = [_named(cell, class_names, names[i], column) for i, cell in enumerate(cells)]
    found = _single(cells, names, column) if asked.single else _sets(cells, names, column, separator)
    return LabelColumn(asked, found, class_names, notes)


def infer_targets(cells: Sequence[Any], separator: str, indexed: bool = False) -> tuple[type[Targets], str]:
    """Return (the kind of targets, the reason) for one label column; the reason is "" if none is needed."""
    present = [cell for cell in cells if cell is not None and cell != ""]
    if any(isinstance(cell, (list, tuple, np.ndarray)) for cell in present):
        items = [item for cell in present for item in cell]
        if items and not indexed and all(isinstance(item, (float, np.floating)) for item in items):
            return Values, "holds lists of decimal numbers"
        return MultiHot, "holds lists"
    if any(isinstance(cell, (float, np.floating)) for cell in present):
        return Values, "holds decimal numbers"
    texts = [cell for cell in present if isinstance(cell, str)]
    if separator and any(separator in text for text in texts):
        return MultiHot, f"holds {separator!r} between names"
    if texts and len(texts) == len(present) and _all_numbers(texts) and not all(_is_integer(t) for t in texts):
        return Values, "holds decimal numbers"
    return ClassIds, ""


def _all_numbers(texts: Sequence[str]) -> bool:
    try:
        return bool(np.isfinite([float(text) for text in texts]).all())
    except ValueError:
        return False


def _is_integer(text: str) -> bool:
    return text.strip().lstrip("+-").isdigit()


def _named(cell: Any, class_names: list[str], row: str, column: str) -> Any:
    """The class name of a class index, or the names of a list of them."""
    if cell is None:
        return None
    indices = list(cell) if isinstance(cell, (list, tuple, np.ndarray)) else [cell]
    if bad := [i for i in indices if i is None or not 0 <= i < len(class_names)]:
        raise DataError(
            f"column {column!r} holds class id {bad[0]} at {row}; ids 0 to {len(class_names) - 1} have names "
            "(-1 usually marks an unlabelled example: leave those out)."
        )
    found = [class_names[i] for i in indices]
    return found if isinstance(cell, (list, tuple, np.ndarray)) else found[0]


def _single(cells: Sequence[Any], names: Sequence[str], column: str) -> list[str]:
    if missing := [names[i] for i, cell in enumerate(cells) if _is_missing(cell)]:
        raise DataError(f"column {column!r} has no label for {len(missing)} example(s): {shorten_list(missing, 5)}.")
    if isinstance(cells[0], (list, tuple, np.ndarray)):
        raise DataError(f"column {column!r} holds lists: that is {MultiHot.problem_type}, not {ClassIds.problem_type}.")
    return [str(cell) for cell in cells]


def _is_missing(cell: Any) -> bool:
    """Whether a cell is empty; pandas writes NaN for that."""
    return cell is None or (isinstance(cell, float) and cell != cell) or str(cell).strip() == ""


def _sets(cells: Sequence[Any], names: Sequence[str], column: str, separator: str) -> list[list[str]]:
    """One list of names per row; an empty cell or list means that no label applies."""
    groups = []
    for i, cell in enumerate(cells):
        if cell is None:
            raise DataError(f"column {column!r} has no label for {names[i]} (an empty list means: no label applies).")
        if isinstance(cell, str):
            cell = [part.strip() for part in cell.split(separator)] if separator else [cell.strip()]
            cell = [part for part in cell if part]
        elif not isinstance(cell, (list, tuple, np.ndarray)):
            cell = [cell]
        groups.append([str(name) for name in cell])
    return groups


def _numbers(cells: Sequence[Any], names: Sequence[str], column: str) -> tuple[np.ndarray, list[str]]:
    """([N] or [N, T] float64, T target names) from numbers or from lists of equal length."""
    if not isinstance(cells[0], (list, tuple, np.ndarray)):
        return _finite(cells, names, column), [column]
    width = len(cells[0])
    if odd := [names[i] for i, cell in enumerate(cells) if cell is None or len(cell) != width]:
        raise DataError(
            f"column {column!r} holds {width} target(s) in the first row, another number at {shorten_list(odd, 5)}."
        )
    targets = np.stack([_finite([cell[t] for cell in cells], names, column) for t in range(width)], axis=1)
    return targets, [f"{column}_{t}" for t in range(width)]


def _several_columns(columns: dict[str, list[Any]], names: Sequence[str], asked: type[Targets] | None) -> LabelColumn:
    """Columns of 0 and 1 are read as labels, other numbers as targets."""
    if asked is not None and asked.single:
        raise DataError(f"{asked.problem_type} takes one label column, got {shorten_list(list(columns))}.")
    on, off = {"1", "1.0", "true"}, {"0", "0.0", "false"}
    texts = {name: [str(cell).strip().lower() for cell in cells] for name, cells in columns.items()}
    odd = {name: [text for text in cells if text not in on | off] for name, cells in texts.items()}
    kind = asked or (Values if any(odd.values()) else MultiHot)
    note = f"columns {shorten_list(list(columns))} are read as {kind.problem_type}. --problem_type says otherwise"
    if not kind.named:
        targets = np.stack([_finite(cells, names, name) for name, cells in columns.items()], axis=1)
        return LabelColumn(kind, targets, list(columns), [note])
    if wrong := next((name for name, cells in odd.items() if cells), None):
        raise DataError(f"column {wrong!r} holds {odd[wrong][0]!r}: label columns hold 0 or 1 (false or true).")
    groups = [[name for name in columns if texts[name][row] in on] for row in range(len(names))]
    return LabelColumn(kind, groups, list(columns), [note])


def _finite(values: Sequence, names: Sequence[str], column: str) -> np.ndarray:
    """Return [N] finite float64; raise DataError naming the first rows that are not finite numbers."""
    targets = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        try:
            targets[i] = float(value)
        except (TypeError, ValueError):
            continue
    if bad := [f"{names[i]} ({values[i]!r})" for i in np.flatnonzero(~np.isfinite(targets)).tolist()]:
        raise DataError(f"column {column!r} is not a finite number in {len(bad)} row(s): {shorten_list(bad, 5)}.")
    return targets
