"""`datasets` datasets: by name from the Hub, from `save_to_disk`, or from a folder of data files.

Shapes: N examples.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .columns import label_columns_of, read_label_columns
from .folders import SPLIT_FOLDERS
from .raw import DataError, RawSplit, listed
from .tables import image_source

DATA_SUFFIXES = {".parquet", ".arrow", ".csv", ".json", ".jsonl", ".tar"}


def load_dataset_splits(
    name: str,
    config_name: str | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    **columns: Any,
) -> dict[str, RawSplit]:
    """{"train": …, "validation": …, "test": …}, those that the dataset has.

    columns: image_column, label_column, problem_type, label_separator. For the rest see `open_dataset`.
    """
    opened, notes = open_dataset(name, config_name, revision, cache_dir)
    splits = {split: read_dataset(dataset, split, name, **columns) for split, dataset in opened.items()}
    splits["train"].notes.extend(notes)
    return splits


def open_dataset(
    name: str, config_name: str | None = None, revision: str | None = None, cache_dir: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """({"train": a `datasets.Dataset`, …}, what of it is not used).

    name: a Hub dataset, a folder written by `save_to_disk`, or a folder of Parquet/CSV/JSON/Arrow files. No
    dataset script is ever run. Raises DataError if there is no train split.
    """
    from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

    folder = Path(name)
    if name == "imagefolder" or (folder.is_dir() and not has_data_files(folder)):
        raise DataError(
            f"dataset {name} is a folder of images: name it with --train_dir, which loses no file "
            "(`datasets` takes files called train.png or test.png for splits)."
        )
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        loaded = load_from_disk(name)
    else:
        loaded = load_dataset(name, config_name, revision=revision, cache_dir=cache_dir)
    if isinstance(loaded, Dataset):
        loaded = DatasetDict(train=loaded)
    named = {SPLIT_FOLDERS[split.lower()]: split for split in loaded if split.lower() in SPLIT_FOLDERS}
    if "train" not in named:
        raise DataError(f"dataset {name} has no train split, only {listed(list(loaded))}.")
    unused = [split for split in loaded if split not in named.values()]
    notes = [f"split(s) of {name} that are NOT USED: {listed(unused)}"] if unused else []
    return {split: loaded[own] for split, own in named.items()}, notes


def has_data_files(folder: Path) -> bool:
    return any(path.suffix in DATA_SUFFIXES for path in folder.rglob("*"))


def read_dataset(
    dataset: Any,
    split: str,
    name: str,
    image_column: str = "image",
    label_column: str = "label",
    problem_type: str | None = None,
    label_separator: str = "|",
) -> RawSplit:
    """One `datasets.Dataset` as a split; its images stay encoded until they are asked for."""
    from datasets import ClassLabel, List

    label_columns = label_columns_of(dataset.column_names, image_column, label_column, f"{split}: dataset {name}")
    if len(dataset) == 0:
        raise DataError(f"{split}: dataset {name} has no examples.")
    feature = dataset.features[label_columns[0]]
    feature = feature.feature if isinstance(feature, List) else feature
    declared = list(feature.names) if isinstance(feature, ClassLabel) else None
    sources, names = dataset_images(dataset, split, name, image_column)
    labels = read_label_columns(
        {column: list(dataset[column]) for column in label_columns},
        names,
        problem_type,
        label_separator,
        declared,
    )
    notes = [
        f"{split}: {len(names):,} rows in {name}, each an example",
        *(f"{split}: {n}" for n in labels.notes),
    ]
    return RawSplit(sources, names, labels.problem_type, labels.labels, labels.class_names, notes)


def dataset_images(dataset: Any, split: str, name: str, image_column: str) -> tuple["DatasetImages", list[str]]:
    """(the encoded images of a `datasets.Dataset`, what errors call each)."""
    from datasets import Image

    images = dataset.select_columns([image_column])
    if isinstance(dataset.features[image_column], Image):
        images = images.cast_column(image_column, Image(decode=False))
    return DatasetImages(images, image_column), [
        f"row {i + 1} of the {split} split of {name}" for i in range(len(dataset))
    ]


class DatasetImages(Sequence):
    """The image column of a `datasets.Dataset`, one encoded image read at a time."""

    def __init__(self, dataset: Any, column: str):
        self.dataset, self.column = dataset, column

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index):
        return image_source(self.dataset[int(index)][self.column], Path())
