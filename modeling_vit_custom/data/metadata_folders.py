"""Image folders with their labels in a metadata.csv or metadata.jsonl, as `datasets`' imagefolder takes them."""

import os
from dataclasses import replace
from pathlib import Path

from ..common.errors import DataError
from ..weight_files_vit_custom import shorten_list
from .folders import SPLIT_FOLDERS, metadata_files, sort_files
from .hub_datasets import FILE_NAME
from .raw import FolderContents, RawSplit
from .source import Columns
from .tables import Table, open_table, read_tables


def read_metadata_folder(
    root: str | Path, split: str, columns: Columns, follow_links: bool = False, refuse_links: bool = True
) -> RawSplit | None:
    """Read one split from the rows of the folder's metadata file, whose column file_name names images.

    The result is None if there is no such file, or if it has no labels but there are class folders. Raises DataError
    for several such files, for one that names images of several splits, for what `read_tables` refuses and, unless
    `refuse_links` is off, for links that are not followed.
    """
    root = Path(root)
    if not (files := metadata_files(root)):
        return None
    contents = sort_files(root, follow_links)
    if not (tables := _naming_images(files, split, tolerant=bool(contents.images))):
        return None
    if len(tables) > 1:
        raise DataError(
            f"{split}: {shorten_list([str(table.path) for table in tables])} both name images: keep one of them."
        )
    (table,) = tables
    labelled = all(name.strip() in table.columns for name in columns.label.split(","))
    if contents.images and not labelled:
        return None
    if refuse_links and contents.refused:
        raise DataError(shorten_list(contents.refused, 3))
    if columns.image not in table.columns:
        columns = replace(columns, image=FILE_NAME)
    raw = read_tables([table], split, str(table.path), root, columns, follow_links)
    named = {os.path.normpath(name) for name in raw.names}
    _check_one_split(table.path, [Path(name).relative_to(root).parts[0] for name in named if _lies_in(name, root)])
    images = [*contents.images, *contents.classless]
    unnamed = [path for path in images if str(path) not in named]
    skipped = [path for path in contents.skipped if path != table.path]
    notes = [f"{split}: labels are those of {table.path}, whatever folders are called"] if contents.images else []
    for paths, what in ((unnamed, "image(s) in no row"), (skipped, "other file(s)")):
        if paths:
            names = [path.relative_to(root).as_posix() for path in paths]
            notes.append(f"{split}: NOT USED, {len(names)} {what} of {table.path.name}: {shorten_list(names)}")
    found = FolderContents(root, [p for p in images if str(p) in named], unnamed, skipped, [], contents.refused)
    return replace(raw, notes=[*raw.notes, *notes], contents=found)


def _naming_images(files: list[Path], split: str, tolerant: bool) -> list[Table]:
    """The tables that have a column file_name.   tolerant: whether to skip a table that cannot be read."""
    tables = []
    for file in files:
        try:
            tables.append(open_table(file, split))
        except DataError:
            if not tolerant:
                raise
    return [table for table in tables if FILE_NAME in table.columns]


def _lies_in(name: str, root: Path) -> bool:
    return Path(name).is_relative_to(root)


def _check_one_split(file: Path, folders: list[str]) -> None:
    splits = sorted({folder for folder in folders if folder.lower() in SPLIT_FOLDERS})
    if len({SPLIT_FOLDERS[folder.lower()] for folder in splits}) > 1:
        raise DataError(
            f"{file} names images of several splits ({shorten_list(splits)}): put a metadata file of its own into "
            "each of these folders."
        )
