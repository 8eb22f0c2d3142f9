"""Labelled images to measure a checkpoint on, from every source that training reads.

Shapes: N examples.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..common.errors import DataError
from ..common.text import printable
from ..weight_files_vit_custom import shorten_list
from .examples import Examples
from .folders import find_split_folders
from .hub_datasets import open_dataset, read_opened
from .labels import distinct_names
from .names import check_class_names
from .raw import RawSplit
from .source import MEASURED_ON, Columns, Source
from .sources import read_split
from .streamed_splits import READERS, fetched, is_pattern, read_streamed_splits
from .tables import is_table
from .targets import Targets

logger = logging.getLogger(__name__)


def load_eval_examples(
    source: Source | str | Path, id2label: Mapping[int, str], targets: type[Targets], columns: Columns = Columns()
) -> tuple[Examples, str | None]:
    """Return (examples to measure a checkpoint on, labelled with *its* ids, the split they are or None).

    Notes on the data are logged as warnings.

    source: its train, or a path alone, is anything that training takes: class folders, split folders, a folder with a
    metadata file, a table, shards or a pattern of them. Or its dataset_name is given. Of several splits, its `split` is
    taken, else the first of MEASURED_ON that exists.   targets: the checkpoint's kind of targets, whatever `columns`
    says.
    Raises DataError for another `problem_type` than the checkpoint's, for classes it does not know, naming them, for a
    missing split and for what cannot be read.
    """
    source = source if isinstance(source, Source) else Source(source)
    if (source.train is None) == (source.dataset_name is None):
        raise DataError("name the images once: by --data_dir, or by --dataset_name.")
    if columns.problem_type not in (None, targets.problem_type):
        raise DataError(f"--problem_type {columns.problem_type}: the model is one of {targets.problem_type}.")
    raw, split = _read(source, replace(columns, problem_type=targets.problem_type))
    check_class_names(distinct_names(raw))
    targets.check_count(None if raw.class_names is None else len(raw.class_names), id2label, source.place)
    for note in raw.notes:
        logger.warning(printable(note))
    return Examples(raw.images, list(raw.names), targets.encode(raw.labels, id2label)), split


def named(source: Source | str) -> dict[str, str]:
    """Return the entries by which a record names the measured data."""
    if not isinstance(source, Source):
        return {"data": source}
    said = {"dataset_config_name": source.dataset_config_name, "dataset_revision": source.dataset_revision}
    return {"data": source.place} | {name: value for name, value in said.items() if value is not None}


def _read(source: Source, columns: Columns) -> tuple[RawSplit, str | None]:
    place = source.place
    if source.dataset_name is not None:
        opened, _ = open_dataset(source, needs_train=False)
        split = _chosen(source, opened)
        return read_opened(opened[split], split, source, columns), split
    if is_pattern(place) or (Path(place).is_file() and Path(place).suffix in READERS and not is_table(place)):
        source.check_split(())
        return fetched(read_streamed_splits(source, columns)["train"]), None
    folders = find_split_folders(place, source.follow_links) if Path(place).is_dir() else {}
    if folders:
        split = _chosen(source, folders)
        return read_split(folders[split], split, columns, source.follow_links), split
    source.check_split(())
    return read_split(place, "evaluation", columns, source.follow_links), None


def _chosen(source: Source, splits: Mapping[str, Any]) -> str:
    """The split to read; a warning names it if the user did not, and it is one of several or train."""
    place = source.place
    source.check_split(splits)
    if source.split is not None:
        return source.split
    split = next(split for split in MEASURED_ON if split in splits)
    if len(splits) > 1:
        logger.warning(
            printable(f"{place} has {shorten_list(list(splits))}: measured on {split} (--split names another)")
        )
    elif split == "train":
        logger.warning(printable(f"{place}: measured on train, its only split"))
    return split
