"""What a user says of data: where its splits come from, and which columns of a table hold what."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Columns:
    """Which columns of a table, or of a dataset, hold what.

    image: that of images, or of paths to them.   label: that of labels; several names with commas between.
    separator: what stands between several labels in one cell.   problem_type: the task; None: read off the labels.
    """

    image: str = "image"
    label: str = "label"
    separator: str = "|"
    problem_type: str | None = None


@dataclass(frozen=True)
class Source:
    """Where the splits come from.

    train, validation, test: folders or tables; see `read_splits`.   dataset_name: stands in the place of `train`, with
    its configuration, revision and `cache_dir`, where it is kept; see `open_dataset`.   follow_links: whether links,
    and paths in tables and datasets, may lead outside.
    """

    train: str | Path | None = None
    validation: str | Path | None = None
    test: str | Path | None = None
    dataset_name: str | None = None
    dataset_config_name: str | None = None
    dataset_revision: str | None = None
    cache_dir: str | None = None
    follow_links: bool = False

    def held_out(self) -> dict[str, str | Path]:
        """{"validation": …, "test": …}, those that are named by themselves."""
        named = {"validation": self.validation, "test": self.test}
        return {split: path for split, path in named.items() if path is not None}
