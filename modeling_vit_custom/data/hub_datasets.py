"""`datasets` datasets: by name from the Hub, from `save_to_disk`, or from a folder of data files.

Text tables are read by `tables`, because `datasets` would turn the label 001 into 1, and NA into nothing.

Shapes: N examples.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from glob import escape
from pathlib import Path
from typing import Any

from ..common.errors import DataError
from ..weight_files_vit_custom import shorten_list
from .columns import declared_names, label_columns_of, read_label_columns
from .folders import SHARDS, SPLIT_FOLDERS, walk_files
from .raw import RawSplit
from .source import Columns, Source
from .tables import TEXT_SUFFIXES, Table, checked_paths, image_paths, image_source, is_text, open_table, read_tables

DATA_SUFFIXES = TEXT_SUFFIXES | SHARDS
FILE_NAME = "file_name"  # the image column of an imagefolder's metadata, which `datasets` calls "image"


def load_dataset_splits(source: Source, columns: Columns) -> dict[str, RawSplit]:
    """Read those of {"train": …, "validation": …, "test": …} that the dataset has; see `open_dataset`."""
    opened, notes = open_dataset(source)
    splits = {split: read_opened(part, split, source, columns) for split, part in opened.items()}
    splits["train"].notes.extend(notes)
    return splits


def read_opened(part: Any, split: str, source: Source, columns: Columns) -> RawSplit:
    """Read one of the splits that `open_dataset` returns."""
    name, homes = str(source.dataset_name), dataset_homes(source)
    if isinstance(part, list):
        return read_tables(part, split, name, homes[0], columns, source.follow_links)
    return read_dataset(part, split, name, homes, columns, source.follow_links)


def open_dataset(source: Source, needs_train: bool = True) -> tuple[dict[str, Any], list[str]]:
    """Open a dataset; return ({"train": a `datasets.Dataset`, or a list of `Table`, …}, notes on unused splits).

    source.dataset_name: a Hub dataset, a folder written by `save_to_disk`, or a folder of Parquet/CSV/JSON/Arrow files.
    No dataset script is ever run. Raises DataError for a folder of images, for a missing train split if it
    `needs_train`, for no known split at all and, unless `source.follow_links`, for links that lead out of a folder.
    """
    from datasets import Dataset, load_dataset_builder, load_from_disk

    name = str(source.dataset_name)
    folder = Path(name)
    if name == "imagefolder" or (folder.is_dir() and not has_data_files(folder)):
        raise DataError(
            f"dataset {name} is a folder of images: name it with --train_dir, which loses no file "
            "(`datasets` takes files called train.png or test.png for splits)."
        )
    if folder.is_dir():
        walk_files(folder, source.follow_links)
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        loaded = load_from_disk(name)
        loaded = {"train": loaded} if isinstance(loaded, Dataset) else loaded
    else:
        with folders_as_named():
            builder = load_dataset_builder(
                name, source.dataset_config_name, revision=source.dataset_revision, cache_dir=source.cache_dir
            )
        loaded = _text_tables(builder)
        if loaded is None:
            builder.download_and_prepare()
            loaded = builder.as_dataset()
    named = {SPLIT_FOLDERS[str(split).lower()]: split for split in loaded if str(split).lower() in SPLIT_FOLDERS}
    if "train" not in named and (needs_train or not named):
        missing = "train split" if needs_train else f"split called {shorten_list(list(SPLIT_FOLDERS))}"
        raise DataError(f"dataset {name} has no {missing}, only {shorten_list(list(loaded))}.")
    unused = [split for split in loaded if split not in named.values()]
    notes = [f"split(s) of {name} that are NOT USED: {shorten_list(unused)}"] if unused else []
    return {split: loaded[own] for split, own in named.items()}, notes


@contextmanager
def folders_as_named() -> Iterator[None]:
    """Make `datasets` find files in a folder whose own name holds [, * or ?, which it would take for a pattern."""
    from datasets import data_files

    resolve = data_files.resolve_pattern

    def resolve_below(pattern: str, base_path: str, *args: Any, **options: Any) -> list[str]:
        return resolve(pattern, escape(base_path) if Path(base_path).is_dir() else base_path, *args, **options)

    data_files.resolve_pattern = resolve_below
    try:
        yield
    finally:
        data_files.resolve_pattern = resolve


def _text_tables(builder: Any) -> dict[str, list[Table]] | None:
    """The tables of each split, downloaded if they are remote; None if the data is not text tables.

    The metadata of an imagefolder is such a table, unless its images lie in archives.
    """
    files = {str(split): [str(file) for file in found] for split, found in builder.config.data_files.items()}
    named = [file for found in files.values() for file in found]
    metadata = builder.name == "imagefolder" and any(map(is_metadata, named))
    if not (metadata or builder.name in ("csv", "json")) or any(file.lower().endswith(".zip") for file in named):
        return None
    tables = {}
    for split, found in files.items():
        there = zip(found, downloaded(builder, found), strict=True)  # also downloads the images that the metadata names
        opened = [open_table(file, split) for name, file in there if not metadata or is_metadata(name)]
        tables[split] = [_with_image(table) for table in opened] if metadata else opened
    return tables


def downloaded(builder: Any, files: Sequence[str]) -> list[str]:
    """Return the local paths of the data files of a `datasets` builder; download them if needed."""
    from datasets import DownloadConfig, DownloadManager

    options = DownloadConfig(cache_dir=builder._cache_downloaded_dir, token=builder.token)
    return DownloadManager(builder.dataset_name, download_config=options).download(list(files))


def is_metadata(file: str) -> bool:
    """Return whether a file is an imagefolder's metadata table, by its name."""
    return Path(file).stem == "metadata" and Path(file).suffix.lower() in TEXT_SUFFIXES


def _with_image(table: Table) -> Table:
    """The metadata of an imagefolder, with its image column renamed as `datasets` names it."""
    columns = {"image" if name == FILE_NAME else name: cells for name, cells in table.columns.items()}
    return replace(table, columns=columns)


def has_data_files(folder: Path) -> bool:
    return any(path.suffix.lower() in DATA_SUFFIXES for path in folder.rglob("*"))


def dataset_homes(source: Source) -> list[Path]:
    """Return the folders in which a dataset's files may lie: its own, or those that a Hub dataset is downloaded to."""
    name, cache_dir = str(source.dataset_name), source.cache_dir
    if Path(name).is_dir():
        return [Path(name)]
    from datasets import config
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    downloads = Path(config.DOWNLOADED_DATASETS_PATH) if cache_dir is None else Path(cache_dir) / "downloads"
    return [Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="dataset"), downloads]


def read_dataset(
    dataset: Any,
    split: str,
    name: str,
    homes: Sequence[Path],
    columns: Columns,
    follow_links: bool = False,
) -> RawSplit:
    """Read a `datasets.Dataset` as a split; images stay encoded until they are asked for, see `dataset_images`."""
    label_columns = label_columns_of(dataset.column_names, columns, f"{split}: dataset {name}")
    sources, names = dataset_images(dataset, split, name, columns.image, homes, follow_links)
    labels = read_label_columns(
        {column: list(dataset[column]) for column in label_columns},
        names,
        columns,
        declared_names(dataset.features[label_columns[0]]),
    )
    notes = [
        f"{split}: {len(names):,} rows in {name}, each an example",
        *(f"{split}: {n}" for n in labels.notes),
    ]
    return RawSplit(sources, names, labels.targets, labels.labels, labels.class_names, notes)


def dataset_images(
    dataset: Any, split: str, name: str, image_column: str, homes: Sequence[Path], follow_links: bool
) -> tuple[Sequence[Any], list[str]]:
    """Return (the encoded images of a `datasets.Dataset`, their names in errors).

    homes: folders in which the files that its cells name may lie; paths are relative to the first.
    Raises DataError for no rows, for empty cells, for paths to missing files and, unless `follow_links`, for files
    outside `homes`.
    """
    from datasets import Image

    if len(dataset) == 0:
        raise DataError(f"{split}: dataset {name} has no examples.")
    images = dataset.select_columns([image_column])
    if isinstance(dataset.features[image_column], Image):
        images = images.cast_column(image_column, Image(decode=False))
    column = images.with_format("arrow")[:][image_column]
    source = f"{split}: dataset {name}"
    files = checked_paths(image_paths(column), homes[0], source, image_column, follow_links, homes[1:])
    if is_text(column.type):
        return files, files
    rows = [f"row {i + 1} of the {split} split of {name}" for i in range(len(dataset))]
    return DatasetImages(images, image_column, homes[0]), rows


class DatasetImages(Sequence):
    """The image column of a `datasets.Dataset`; one encoded image is read at a time. Paths are relative to `home`."""

    def __init__(self, dataset: Any, column: str, home: Path = Path()):
        self.dataset, self.column, self.home = dataset, column, home

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index):
        return image_source(self.dataset[int(index)][self.column], self.home)
