"""Images without labels, from a folder of any shape, a table or a dataset: what pre-training reads."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..common.errors import DataError
from ..weight_files_vit_custom import shorten_list
from .examples import Joined, LazySelection
from .folders import find_split_folders, is_hidden, readable_suffixes, skipped_notes, walk_tree
from .hub_datasets import dataset_homes, dataset_images, open_dataset
from .raw import FolderContents, RawSplit
from .source import Columns, Source
from .tables import Table, is_table, open_table, table_images
from .targets import NoTargets


def read_unlabelled(source: Source, columns: Columns = Columns()) -> dict[str, RawSplit]:
    """Read {"train": …, "validation": …}, the second only if there is one.

    A test split is left for tests, and a note says so.

    source: its train is a folder (every image in it is read, however deep it lies), a folder
    DIR/{train,validation,test}/<any>/…, or a CSV, TSV, JSON or Parquet file with an image column. For its dataset_name
    see `open_dataset`. Its test is not looked at.   columns: only the image column is used.
    Raises DataError that says what is wrong and how to fix it.
    """
    image_column, follow_links = columns.image, source.follow_links
    if source.dataset_name is not None:
        opened, notes = open_dataset(source)
        raw = {split: _read_dataset(part, split, source, image_column) for split, part in opened.items()}
    else:
        root, notes = Path(str(source.train)), []
        parts = (find_split_folders(root, follow_links) if root.is_dir() else {}) or {"train": root}
        raw = {split: _read(path, split, image_column, follow_links) for split, path in parts.items()}
    if (test := raw.pop("test", None)) is not None:
        notes.append(f"test: {len(test):,} images NOT USED, so that they can still measure a fine-tuned model")
    if source.validation is not None:
        raw["validation"] = _read(source.validation, "validation", image_column, follow_links)
    raw["train"].notes.extend(notes)
    return raw


def read_rows(source: Source, columns: Columns = Columns()) -> RawSplit:
    """Read the images of a table or a dataset, each once; of a dataset all splits, or `source.split`.

    Raises DataError that says what is wrong and how to fix it.
    """
    place, wanted = source.place, source.split
    if source.dataset_name is not None:
        opened, _ = open_dataset(source, needs_train=False)
        source.check_split(opened)
        chosen = opened if wanted is None else {wanted: opened[wanted]}
        parts = [_read_dataset(part, split, source, columns.image) for split, part in chosen.items()]
    elif not is_table(place):
        raise DataError(f"{place} is no folder and no table: name single image files without --data_dir.")
    else:
        source.check_split(())
        parts = [_read(place, "table", columns.image, source.follow_links)]
    notes = [note for part in parts for note in part.notes]
    names = [name for part in parts for name in part.names]
    images = Joined([part.images for part in parts])
    first = {name: index for index, name in reversed(list(enumerate(names)))}
    if len(first) == len(names):
        return _raw(images, names, notes)
    notes.append(f"{len(names) - len(first)} rows name an image that another names too, and which is predicted once")
    once = sorted(first.values())
    return _raw(LazySelection(images, once), [names[index] for index in once], notes)


def _read(path: str | Path, split: str, image_column: str, follow_links: bool) -> RawSplit:
    path = Path(path)
    if not is_table(path):
        return _read_folder(path, split, follow_links)
    return _read_tables([open_table(path, split)], split, str(path), image_column, path.parent, follow_links)


def _read_tables(
    tables: Sequence[Table], split: str, source: str, image_column: str, home: Path, follow_links: bool
) -> RawSplit:
    for table in tables:
        _require_column(list(table.columns), image_column, f"{split}: {table.path}")
    images, names = table_images(tables, split, image_column, home, follow_links)
    return _raw(images, names, [f"{split}: {len(names):,} rows in {source}, each an image"])


def _read_dataset(part: Any, split: str, source: Source, image_column: str) -> RawSplit:
    name, homes = str(source.dataset_name), dataset_homes(source)
    if isinstance(part, list):
        return _read_tables(part, split, name, image_column, homes[0], source.follow_links)
    _require_column(part.column_names, image_column, f"{split}: dataset {name}")
    images, names = dataset_images(part, split, name, image_column, homes, source.follow_links)
    return _raw(images, names, [f"{split}: {len(names):,} rows in {name}, each an image"])


def _read_folder(root: Path, split: str, follow_links: bool) -> RawSplit:
    if not root.is_dir():
        raise DataError(
            f"{split}: {root} is not a folder. Give a folder of images or a .csv, .tsv, .jsonl or .parquet file."
        )
    files, refused = walk_tree(root, follow_links)
    if refused:
        raise DataError(shorten_list(refused, 3))
    readable = readable_suffixes()
    images = [path for path in files if not is_hidden(path, root) and path.suffix.lower() in readable]
    if not images:
        raise DataError(f"{split}: no image among the {len(files):,} file(s) in {root}, such as .jpg or .png.")
    chosen = set(images)
    skipped = [path for path in files if path not in chosen]
    notes = [f"{split}: {len(files):,} files on disk, {len(images):,} images in {root}{_by_folder(root, images)}"]
    notes += [f"{split}: {note}" for note in skipped_notes(root, skipped)]
    contents = FolderContents(root, images, classless=[], skipped=skipped, classes=[], refused=[])
    names = [str(path) for path in images]
    return _raw(names, names, notes, contents)


def _by_folder(root: Path, images: Sequence[Path]) -> str:
    """How many images lie in each folder below `root`, if some do; a folder called test is read like any other."""
    counts = Counter(parts[0] for path in images if len(parts := path.relative_to(root).parts) > 1)
    return f" ({shorten_list([f'{folder} {count:,}' for folder, count in counts.items()])})" if counts else ""


def _raw(
    images: Sequence[Any], names: Sequence[str], notes: list[str], contents: FolderContents | None = None
) -> RawSplit:
    return RawSplit(images, names, NoTargets, [()] * len(names), [], notes, contents)


def _require_column(columns: Sequence[str], image_column: str, source: str) -> None:
    if image_column not in columns:
        raise DataError(
            f"{source} has no column {image_column!r}, its columns are {shorten_list(columns)}. Name the image "
            "column with --image_column_name."
        )
