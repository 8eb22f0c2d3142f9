"""CSV, TSV and Parquet tables with an image column: paths relative to the table's folder, or bytes.

Shapes: N rows, T regression targets.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .columns import label_columns_of, read_label_columns
from .raw import DataError, RawSplit, listed

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".parquet"})


def is_table(path: str | Path) -> bool:
    return Path(path).suffix.lower() in TABLE_SUFFIXES


def read_table(
    path: str | Path,
    split: str,
    image_column: str = "image",
    label_column: str = "label",
    problem_type: str | None = None,
    label_separator: str = "|",
    follow_links: bool = False,
) -> RawSplit:
    """One split from a table, a row an example.

    Images lie in the table's folder or below it; with `follow_links` anywhere. `label_column` may name several
    columns, separated by commas: 0/1 columns for multi-label, numbers for several regression targets. Raises
    DataError for missing columns, files and labels, naming rows, and for a file that is no table.
    """
    path = Path(path)
    columns = table_columns(path, split)
    label_columns = label_columns_of(list(columns), image_column, label_column, f"{split}: {path}")
    images, names = table_images(columns[image_column], path, split, image_column, follow_links)
    labels = read_label_columns(
        {name: list(_values(columns[name])) for name in label_columns}, names, problem_type, label_separator
    )
    notes = [
        f"{split}: {len(names):,} rows in {path}, each an example",
        *(f"{split}: {n}" for n in labels.notes),
    ]
    if repeated := len(names) - len(set(names)):
        notes.append(f"{split}: {repeated:,} row(s) name an image that another row names too")
    return RawSplit(images, names, labels.problem_type, labels.labels, labels.class_names, notes)


def table_columns(path: Path, split: str) -> dict[str, Any]:
    """Name -> column, a list of texts or an Arrow column; raises DataError for a file that is no table."""
    if not path.is_file():
        raise DataError(f"{split}: {path} is not a file.")
    try:
        return _parquet_columns(path) if path.suffix.lower() == ".parquet" else _csv_columns(path)
    except DataError:
        raise
    except (csv.Error, OSError, ValueError) as error:  # Arrow's errors and wrong UTF-8 are ValueErrors
        raise DataError(f"{split}: {path} cannot be read as a table: {error}") from error


def _csv_columns(path: Path) -> dict[str, list[str]]:
    """Every cell as the text it is: "NA" stays a class name and "007" keeps its zeros."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
        rows = list(csv.reader(file, delimiter=delimiter))
    rows = [row for row in rows if row]
    if not rows:
        raise DataError(f"{path} is empty: its first line must name the columns.")
    names = [name.strip() for name in rows[0]]
    if len(set(names)) < len(names):
        raise DataError(f"{path} names a column twice: {listed(names)}.")
    ragged = [i for i, row in enumerate(rows[1:], start=1) if len(row) != len(names)]
    if ragged:
        raise DataError(
            f"{path} has {len(names)} columns, but row(s) {listed(ragged, 5)} have another number of cells."
        )
    return {name: [row[i] for row in rows[1:]] for i, name in enumerate(names)}


def _parquet_columns(path: Path) -> dict[str, Any]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    return {name: table.column(name) for name in table.column_names}


def _values(column: Any) -> Sequence[Any]:
    return column if isinstance(column, list) else column.to_pylist()


class ParquetImages(Sequence):
    """An Arrow column of bytes or {"bytes", "path"}, one cell turned into Python bytes at a time."""

    def __init__(self, column: Any, path: Path, column_name: str):
        self.column, self.path, self.column_name = column, path, column_name

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index):
        return image_source(self.column[index].as_py(), self.path.parent)


def image_source(cell: Any, folder: Path) -> Any:
    """What `decode_image` takes, from a path, bytes or the {"bytes", "path"} of a `datasets` image."""
    if isinstance(cell, dict):
        cell = cell["bytes"] if cell.get("bytes") is not None else cell.get("path")
    return str(folder / cell) if isinstance(cell, str) else cell


def table_images(
    column: Any, path: Path, split: str, column_name: str, follow_links: bool
) -> tuple[Sequence[Any], list[str]]:
    """(sources, names) of one image column.

    Raises DataError for no rows, for empty cells and for paths where no file lies, or none may lie.
    """
    if len(column) == 0:
        raise DataError(f"{split}: {path} has no rows.")
    is_text = isinstance(column, list) or str(column.type) in ("string", "large_string", "string_view")
    cells = [cell and cell.strip() for cell in _values(column)] if is_text else (cell.as_py() for cell in column)
    empty, files = [], []
    for row, cell in enumerate(cells, start=1):
        if not _holds_image(cell):
            empty.append(row)
        elif isinstance(source := image_source(cell, path.parent), str):
            files.append(source)
    if empty:
        raise DataError(f"{path}: column {column_name!r} is empty in row(s) {listed(empty)}.")
    if missing := [file for file in files if not Path(file).is_file()]:
        raise DataError(
            f"{path}: {len(missing)} of {len(files)} files of column {column_name!r} do not exist: "
            f"{listed(missing, 5)}. Paths are read relative to the table's folder."
        )
    home = path.parent.resolve()
    if outside := [f for f in files if not follow_links and not Path(f).resolve().is_relative_to(home)]:
        raise DataError(
            f"{path}: {len(outside)} of {len(files)} files of column {column_name!r} lie outside the table's folder: "
            f"{listed(outside, 5)}. Pass --follow_links if you trust this table to name files of yours."
        )
    if is_text:
        return files, files
    return ParquetImages(column, path, column_name), [f"row {i + 1} of {path}" for i in range(len(column))]


def _holds_image(cell: Any) -> bool:
    if isinstance(cell, dict):
        return cell.get("bytes") is not None or bool(cell.get("path"))
    return cell is not None and cell != ""
