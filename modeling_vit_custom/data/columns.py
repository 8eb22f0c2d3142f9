"""Label columns of tables and of `datasets`: which task they describe, and their values for it.

Shapes: N rows, T regression targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..common.errors import DataError
from ..common.text import listed
from .examples import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from .labels import check_targets
from .source import Columns

PROBLEM_TYPES = (SINGLE_LABEL, MULTI_LABEL, REGRESSION)


@dataclass(frozen=True)
class LabelColumn:
    """Labels as `RawSplit` holds them, with the task they were read for and how that was decided."""

    problem_type: str
    labels: list[str] | list[list[str]] | np.ndarray
    class_names: list[str] | None = None
    notes: list[str] = field(default_factory=list)


def declared_names(feature: Any) -> list[str] | None:
    """The class names of a feature of `datasets`, a ClassLabel or a list of them; None for any other."""
    from datasets import ClassLabel, List

    feature = feature.feature if isinstance(feature, List) else feature
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def label_columns_of(available: Sequence[str], columns: Columns, source: str) -> list[str]:
    """Splits `columns.label` into the names that it holds.

    Raises DataError, calling the table `source`, unless these and the image column are `available`.
    """
    label_columns = [name.strip() for name in columns.label.split(",")]
    for flag, name in [("image", columns.image), *(("label", name) for name in label_columns)]:
        if name not in available:
            raise DataError(
                f"{source} has no column {name!r}, its columns are {listed(available)}. "
                f"Name the {flag} column with --{flag}_column_name."
            )
    return label_columns


def read_label_columns(
    cells_of: dict[str, list[Any]],
    names: Sequence[str],
    columns: Columns,
    class_names: list[str] | None = None,
) -> LabelColumn:
    """Reads labels from one column, or from several that stand for one label or target each.

    cells_of: column -> [N] cells (str, int, float, bool or lists of these).   names: [N], what errors call the rows.
    columns: the task, if it was named, and what separates labels in a cell.
    class_names: for one column of integers (or lists of them), the names these integers index.
    Raises DataError for missing or unfitting cells, naming rows.
    """
    problem_type, separator = columns.problem_type, columns.separator
    if problem_type not in (None, *PROBLEM_TYPES):
        raise DataError(f"problem_type is {problem_type!r}: give one of {listed(PROBLEM_TYPES)}.")
    if len(cells_of) > 1:
        return _several_columns(cells_of, names, problem_type)
    (column, cells), notes = next(iter(cells_of.items())), []
    if problem_type is None:
        problem_type, reason = infer_problem_type(cells, separator, class_names is not None)
        notes = [f"column {column!r} {reason}: {problem_type}. --problem_type says otherwise"] if reason else []
    if problem_type == REGRESSION:
        labels, target_names = _targets(cells, names, column)
        return LabelColumn(REGRESSION, labels, target_names, notes)
    if class_names is not None:
        cells = [_named(cell, class_names, names[i], column) for i, cell in enumerate(cells)]
    if problem_type == SINGLE_LABEL:
        return LabelColumn(SINGLE_LABEL, _single(cells, names, column), class_names, notes)
    return LabelColumn(MULTI_LABEL, _sets(cells, names, column, separator), class_names, notes)


def infer_problem_type(cells: Sequence[Any], separator: str, indexed: bool = False) -> tuple[str, str]:
    """(problem type, why; empty where it needs no explanation) of one label column."""
    present = [cell for cell in cells if cell is not None and cell != ""]
    if any(isinstance(cell, (list, tuple, np.ndarray)) for cell in present):
        items = [item for cell in present for item in cell]
        if items and not indexed and all(isinstance(item, (float, np.floating)) for item in items):
            return REGRESSION, "holds lists of decimal numbers"
        return MULTI_LABEL, "holds lists"
    if any(isinstance(cell, (float, np.floating)) for cell in present):
        return REGRESSION, "holds decimal numbers"
    texts = [cell for cell in present if isinstance(cell, str)]
    if separator and any(separator in text for text in texts):
        return MULTI_LABEL, f"holds {separator!r} between names"
    if texts and len(texts) == len(present) and _all_numbers(texts) and not all(_is_integer(t) for t in texts):
        return REGRESSION, "holds decimal numbers"
    return SINGLE_LABEL, ""


def _all_numbers(texts: Sequence[str]) -> bool:
    try:
        return bool(np.isfinite([float(text) for text in texts]).all())
    except ValueError:
        return False


def _is_integer(text: str) -> bool:
    return text.strip().lstrip("+-").isdigit()


def _named(cell: Any, class_names: list[str], row: str, column: str) -> Any:
    """A class index (or a list of them) as names."""
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
        raise DataError(f"column {column!r} has no label for {len(missing)} example(s): {listed(missing, 5)}.")
    if isinstance(cells[0], (list, tuple, np.ndarray)):
        raise DataError(f"column {column!r} holds lists: that is {MULTI_LABEL}, not {SINGLE_LABEL}.")
    return [str(cell) for cell in cells]


def _is_missing(cell: Any) -> bool:
    """Whether a cell holds nothing: NaN is how pandas writes that."""
    return cell is None or (isinstance(cell, float) and cell != cell) or str(cell).strip() == ""


def _sets(cells: Sequence[Any], names: Sequence[str], column: str, separator: str) -> list[list[str]]:
    """One list of names a row; an empty cell or list means that no label applies."""
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


def _targets(cells: Sequence[Any], names: Sequence[str], column: str) -> tuple[np.ndarray, list[str]]:
    """([N] or [N, T] float64, T target names) from numbers or from lists of equal length."""
    if not isinstance(cells[0], (list, tuple, np.ndarray)):
        return check_targets(cells, names, column), [column]
    width = len(cells[0])
    if odd := [names[i] for i, cell in enumerate(cells) if cell is None or len(cell) != width]:
        raise DataError(
            f"column {column!r} holds {width} target(s) in the first row, another number at {listed(odd, 5)}."
        )
    targets = np.stack([check_targets([cell[t] for cell in cells], names, column) for t in range(width)], axis=1)
    return targets, [f"{column}_{t}" for t in range(width)]


def _several_columns(columns: dict[str, list[Any]], names: Sequence[str], problem_type: str | None) -> LabelColumn:
    """0/1 columns are labels, other numbers are targets."""
    if problem_type == SINGLE_LABEL:
        raise DataError(f"{SINGLE_LABEL} takes one label column, got {listed(list(columns))}.")
    on, off = {"1", "1.0", "true"}, {"0", "0.0", "false"}
    texts = {name: [str(cell).strip().lower() for cell in cells] for name, cells in columns.items()}
    odd = {name: [text for text in cells if text not in on | off] for name, cells in texts.items()}
    if problem_type is None:
        problem_type = REGRESSION if any(odd.values()) else MULTI_LABEL
    note = f"columns {listed(list(columns))} are read as {problem_type}. --problem_type says otherwise"
    if problem_type == REGRESSION:
        targets = np.stack([check_targets(cells, names, name) for name, cells in columns.items()], axis=1)
        return LabelColumn(REGRESSION, targets, list(columns), [note])
    if wrong := next((name for name, cells in odd.items() if cells), None):
        raise DataError(f"column {wrong!r} holds {odd[wrong][0]!r}: label columns hold 0 or 1 (false or true).")
    groups = [[name for name in columns if texts[name][row] in on] for row in range(len(names))]
    return LabelColumn(MULTI_LABEL, groups, list(columns), [note])
