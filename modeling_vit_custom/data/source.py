"""The user's description of the data: where its splits come from, and which columns of a table hold what."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ..common.errors import DataError
from ..weight_files_vit_custom import shorten_list

MEASURED_ON = ("test", "validation", "train")  # in this order, unless a split is named


@dataclass(frozen=True)
class Columns:
    """Which columns of a table, or of a dataset, hold what.

    image: column of images, or of paths to them.   label: column of labels; several names are separated by commas.
    separator: stands between several labels in one cell.   problem_type: the task; None: inferred from the labels.
    """

    image: str = "image"
    label: str = "label"
    separator: str = "|"
    problem_type: str | None = None


@dataclass(frozen=True)
class Source:
    """Where the splits come from.

    train, validation, test: folders or tables; see `read_splits`.   dataset_name: replaces `train`, with its
    configuration, revision and `cache_dir`, where it is kept; see `open_dataset`.   split: which of several splits to
    measure on.   follow_links: whether links, and paths in tables and datasets, may lead outside.
    """

    train: str | Path | None = None
    validation: str | Path | None = None
    test: str | Path | None = None
    dataset_name: str | None = None
    dataset_config_name: str | None = None
    dataset_revision: str | None = None
    cache_dir: str | None = None
    split: str | None = None
    follow_links: bool = False

    @property
    def place(self) -> str:
        """The folder, table or dataset of training data, as the user named it."""
        return str(self.train if self.dataset_name is None else self.dataset_name)

    def check_split(self, splits: Collection[str]) -> None:
        """Raise DataError if `split` is not among the `splits` that were found, none of them in an undivided source."""
        if self.split is None or self.split in splits:
            return
        found = f"has {shorten_list(list(splits))}" if splits else "is not divided into splits, leave it out"
        raise DataError(f"--split {self.split}: {self.place} {found}.")

    def held_out(self) -> dict[str, str | Path]:
        """Return those of {"validation": …, "test": …} that the user named separately."""
        named = {"validation": self.validation, "test": self.test}
        return {split: path for split, path in named.items() if path is not None}
