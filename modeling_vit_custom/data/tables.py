"""CSV, TSV, JSON and Parquet tables with an image column: paths relative to the table's folder, or bytes.

Such a file is read here, whether --train_dir or --dataset_name names it, so that its cells mean the same.

Shapes: N rows, T regression targets.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from ..common.errors import DataError
from ..weight_files_vit_custom import shorten_list
from .columns import declared_names, label_columns_of, read_label_columns
from .folders import named_files
from .raw import RawSplit
from .source import Columns

JSON_SUFFIXES = frozenset({".json", ".jsonl", ".ndjson"})
TEXT_SUFFIXES = frozenset({".csv", ".tsv"}) | JSON_SUFFIXES
TABLE_SUFFIXES = TEXT_SUFFIXES | {".parquet"}


@dataclass(frozen=True)
class Table:
    """The contents of one file.

    columns: name -> [N] cells, a list or an Arrow column.
    class_names: column -> the names that its integers index, if the file declares them.
    """

    path: Path
    columns: dict[str, Any]
    class_names: Mapping[str, list[str]] = field(default_factory=dict)

    def cells(self, column: str) -> list[Any]:
        """Return the [N] cells of a column as Python values."""
        found = self.columns[column]
        return found if isinstance(found, list) else found.to_pylist()


def is_table(path: str | Path) -> bool:
    return Path(path).suffix.lower() in TABLE_SUFFIXES


def read_table(path: str | Path, split: str, columns: Columns, follow_links: bool = False) -> RawSplit:
    """Read one split from a table, one example a row; images lie in its folder or below it. See `read_tables`."""
    table = open_table(path, split)
    return read_tables([table], split, str(path), table.path.parent, columns, follow_links)


def read_tables(
    tables: Sequence[Table],
    split: str,
    source: str,
    home: Path,
    columns: Columns,
    follow_links: bool = False,
) -> RawSplit:
    """Read one split from the rows of all `tables`, which messages call `source`.

    Images lie in `home` or below it; with `follow_links` anywhere. `columns.label` may name several columns, separated
    by commas: 0/1 columns for multi-label, numbers for several regression targets. Raises DataError for missing
    columns, files and labels, naming rows.
    """
    cells: dict[str, list[Any]] = {}
    for table in tables:
        for name in label_columns_of(list(table.columns), columns, f"{split}: {table.path}"):
            cells.setdefault(name, []).extend(table.cells(name))
    images, names = table_images(tables, split, columns.image, home, follow_links)
    declared = tables[0].class_names.get(next(iter(cells)))
    labels = read_label_columns(cells, names, columns, declared)
    notes = [
        f"{split}: {len(names):,} rows in {source}, each an example",
        *(f"{split}: {n}" for n in labels.notes),
    ]
    if repeated := len(names) - len(set(names)):
        notes.append(f"{split}: {repeated:,} row(s) name an image that another row names too")
    return RawSplit(images, names, labels.targets, labels.labels, labels.class_names, notes)


def open_table(path: str | Path, split: str) -> Table:
    """Read the table in a file; raise DataError for a file that is no table."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{split}: {path} is not a file.")
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return _parquet_table(path)
        return Table(path, _json_columns(path) if suffix in JSON_SUFFIXES else _csv_columns(path))
    except DataError:
        raise
    except (csv.Error, OSError, ValueError) as error:  # Arrow's errors, wrong UTF-8 and wrong JSON are ValueErrors
        raise DataError(f"{split}: {path} cannot be read as a table: {error}") from error


def _csv_columns(path: Path) -> dict[str, list[str]]:
    """Every cell as text: "NA" stays a class name and "007" keeps its zeros."""
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
        raise DataError(f"{path} names a column twice: {shorten_list(names)}.")
    ragged = [i for i, row in enumerate(rows[1:], start=1) if len(row) != len(names)]
    if ragged:
        raise DataError(
            f"{path} has {len(names)} columns, but row(s) {shorten_list(ragged, 5)} have another number of cells."
        )
    return {name: [row[i] for row in rows[1:]] for i, name in enumerate(names)}


def _json_columns(path: Path) -> dict[str, list[Any]]:
    """Columns of JSON Lines, or of one list of objects: values keep their JSON type, and a missing one is None."""
    text = path.read_text(encoding="utf-8-sig")
    rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(t) for t in text.split("\n") if t.strip()]
    if odd := [i for i, row in enumerate(rows, start=1) if not isinstance(row, dict)]:
        raise DataError(f"{path}: row(s) {shorten_list(odd, 5)} are no JSON objects such as {{…}}.")
    names = dict.fromkeys(chain.from_iterable(rows))
    return {name: [row.get(name) for row in rows] for name in names}


def _parquet_table(path: Path) -> Table:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    columns = {name: table.column(name) for name in table.column_names}
    if b"huggingface" not in (table.schema.metadata or {}):
        return Table(path, columns)
    from datasets import Features  # which wrote the file

    features = Features.from_arrow_schema(table.schema)
    declared = {name: names for name in columns if (names := declared_names(features[name])) is not None}
    return Table(path, columns, declared)


class ParquetImages(Sequence):
    """An Arrow column of bytes or {"bytes", "path"}; one cell at a time is turned into Python bytes."""

    def __init__(self, column: Any, path: Path, column_name: str):
        self.column, self.path, self.column_name = column, path, column_name

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index):
        return image_source(self.column[index].as_py(), self.path.parent)


def image_source(cell: Any, folder: Path) -> Any:
    """Return what `decode_image` takes, for a path, bytes or the {"bytes", "path"} of a `datasets` image."""
    if isinstance(cell, dict):
        cell = cell["bytes"] if cell.get("bytes") is not None else cell.get("path")
    return str(folder / cell.strip()) if isinstance(cell, str) else cell


def table_images(
    tables: Sequence[Table], split: str, column_name: str, home: Path, follow_links: bool
) -> tuple[Sequence[Any], list[str]]:
    """Return (sources, names) of the image columns of `tables`, whose files lie in `home`.

    Raises DataError for no rows, for empty cells, for paths to missing files and, unless `follow_links`, for files that
    lie elsewhere.
    """
    found = [_images(table, split, column_name, home, follow_links) for table in tables]
    images = found[0][0] if len(found) == 1 else list(chain.from_iterable(images for images, _ in found))
    return images, list(chain.from_iterable(names for _, names in found))


def _images(
    table: Table, split: str, column_name: str, home: Path, follow_links: bool
) -> tuple[Sequence[Any], list[str]]:
    column, path = table.columns[column_name], table.path
    if len(column) == 0:
        raise DataError(f"{split}: {path} has no rows.")
    cells = image_paths(column)
    files = checked_paths(cells, path.parent, str(path), column_name, follow_links, [home])
    if len(files) == len(cells) and (isinstance(column, list) or is_text(column.type)):
        return files, files
    if isinstance(column, list):
        odd = next(row for row, cell in enumerate(cells) if cell == HELD)
        raise DataError(f"{path}: column {column_name!r} holds {column[odd]!r} in row {odd + 1}, which is no path.")
    return ParquetImages(column, path, column_name), [f"row {i + 1} of {path}" for i in range(len(column))]


def checked_paths(
    cells: Sequence[Any], home: Path, source: str, column_name: str, follow_links: bool, others: Sequence[Path] = ()
) -> list[str]:
    """Return the files that `image_paths` found, see `named_files`; raise DataError for empty cells too."""
    if empty := [row for row, cell in enumerate(cells, start=1) if cell is None]:
        raise DataError(f"{source}: column {column_name!r} is empty in row(s) {shorten_list(empty)}.")
    return named_files([cell for cell in cells if cell != HELD], home, source, column_name, follow_links, others)


HELD = b""  # stands for an image that a cell holds itself


def image_paths(column: Any) -> list[Any]:
    """Return [N], for each cell of an image column: its path, HELD if it holds the image itself, None if it is empty.

    column: a list or an Arrow column, of which no image is read.
    """
    if isinstance(column, list):
        return [_path(cell) for cell in column]
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_struct(kind) and {"bytes", "path"} <= {kind.field(i).name for i in range(kind.num_fields)}:
        held = pc.is_valid(pc.struct_field(column, "bytes")).to_pylist()
        paths = pc.struct_field(column, "path").to_pylist()
        return [HELD if inside else _path(path) for inside, path in zip(held, paths, strict=True)]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return [HELD if there else None for there in pc.is_valid(column).to_pylist()]
    return [_path(cell) for cell in column.to_pylist()]


def is_text(kind: Any) -> bool:
    """Return whether an Arrow type is a type of text."""
    return str(kind) in ("string", "large_string", "string_view")


def _path(cell: Any) -> Any:
    if isinstance(cell, dict):
        cell = cell.get("path") if cell.get("bytes") is None else HELD
    if isinstance(cell, str):
        return cell.strip() or None
    return None if cell is None else HELD
