"""Images without labels, from a folder of any shape, a table or a dataset: what pre-training reads.

Such a split is a regression of no targets, T = 0, so that the audit looks at it like at any other.

Shapes: N examples, T regression targets.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..common.errors import DataError
from ..common.text import listed
from .examples import REGRESSION, Examples, Splits
from .folders import find_split_folders, is_hidden, readable_suffixes, walk_tree
from .hub_datasets import dataset_homes, dataset_images, open_dataset
from .raw import FolderContents, RawSplit
from .source import Columns, Source
from .splits import draw_subset, draw_validation
from .tables import Table, is_table, open_table, table_images


def read_unlabelled(source: Source, columns: Columns = Columns()) -> dict[str, RawSplit]:
    """Reads {"train": …, "validation": …}, the second only where there is one.

    A test split is left for tests, which is said.

    source: its train is a folder, of which every image is read however deep it lies, a folder
        DIR/{train,validation,test}/<any>/…, or a CSV, TSV, JSON or Parquet file with an image column; its dataset_name:
        see `open_dataset`; its test is not looked at.   columns: of them that of images alone.
    Raises DataError with what is wrong and how to mend it.
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


def assemble_unlabelled(
    raw: Mapping[str, RawSplit],
    train_val_split: float,
    max_train_samples: int | None,
    max_eval_samples: int | None,
    seed: int,
) -> Splits:
    """Examples without labels; where there is no validation set, that share of train is drawn for one.

    Raises DataError for a share or a number of examples that cannot be.
    """
    splits = {split: Examples(part.images, list(part.names)) for split, part in raw.items()}
    notes = [note for part in raw.values() for note in part.notes]
    if "validation" not in splits:
        whole = splits["train"]
        kept, held_out, _ = draw_validation(np.zeros(len(whole)), train_val_split, seed)
        splits["train"], splits["validation"] = whole.select(kept.tolist()), whole.select(held_out.tolist())
        notes.append(f"validation: {len(held_out):,} of {len(whole):,} images, drawn with seed {seed}")
    for split, limit in {"train": max_train_samples, "validation": max_eval_samples}.items():
        if limit is not None and limit < (count := len(splits[split])):
            splits[split] = splits[split].select(draw_subset(np.zeros(count), limit, seed).tolist())
            notes.append(f"{split}: {limit:,} of {count:,} images, drawn with seed {seed}")
    return Splits(splits["train"], splits["validation"], None, REGRESSION, {}, notes)


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
        raise DataError(listed(refused, 3))
    readable = readable_suffixes()
    images = [path for path in files if not is_hidden(path, root) and path.suffix.lower() in readable]
    if not images:
        raise DataError(f"{split}: no image among the {len(files):,} file(s) in {root}, such as .jpg or .png.")
    chosen = set(images)
    skipped = [path for path in files if path not in chosen]
    notes = [f"{split}: {len(files):,} files on disk, {len(images):,} images in {root}{_by_folder(root, images)}"]
    if skipped:
        notes.append(
            f"{split}: NOT USED, {len(skipped)} file(s): {listed([str(p.relative_to(root)) for p in skipped])}"
        )
    contents = FolderContents(root, images, classless=[], skipped=skipped, classes=[], refused=[])
    names = [str(path) for path in images]
    return _raw(names, names, notes, contents)


def _by_folder(root: Path, images: Sequence[Path]) -> str:
    """How many lie in each folder below `root`, where some do: a folder called test is read like any other."""
    counts = Counter(parts[0] for path in images if len(parts := path.relative_to(root).parts) > 1)
    return f" ({listed([f'{folder} {count:,}' for folder, count in counts.items()])})" if counts else ""


def _raw(
    images: Sequence[Any], names: Sequence[str], notes: list[str], contents: FolderContents | None = None
) -> RawSplit:
    return RawSplit(images, names, REGRESSION, np.zeros((len(names), 0)), [], notes, contents)


def _require_column(columns: Sequence[str], image_column: str, source: str) -> None:
    if image_column not in columns:
        raise DataError(
            f"{source} has no column {image_column!r}, its columns are {listed(columns)}. Name the image column with "
            "--image_column_name."
        )
