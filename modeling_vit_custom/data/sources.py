"""Reads what the user names (a folder, a table, a dataset) into checked `Splits`.

Shapes: N examples, C classes, T regression targets.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..common.errors import DataError
from ..weight_files_vit_custom import shorten_list
from .examples import Examples, Splits
from .folders import find_split_folders, read_class_folder
from .hub_datasets import load_dataset_splits
from .labels import compare_class_sets, distinct_names, label_map
from .metadata_folders import read_metadata_folder
from .names import check_class_names, in_order
from .raw import RawSplit
from .source import Columns, Source
from .splits import draw_of_each, draw_subset, draw_validation
from .tables import is_table, read_table
from .targets import ClassIds


def read_splits(source: Source, columns: Columns = Columns(), refuse_links: bool = True) -> dict[str, RawSplit]:
    """Read the splits as they are found, not yet compared with one another.

    source: its train, validation and test are each a folder DIR/<class>/…, a folder of images with a metadata.csv or
    metadata.jsonl, or a CSV, TSV, JSON or Parquet file; train may also be a folder DIR/{train,validation,test} of such
    folders. For its dataset_name see `load_dataset_splits`.
    refuse_links: whether a link that is not followed is an error; if not, `RawSplit.contents` names it.
    Raises DataError that says what is wrong and how to fix it.
    """
    if (source.train is None) == (source.dataset_name is None):
        raise DataError("name the training data once: by --train_dir, or by --dataset_name.")

    def read(split: str, path: str | Path) -> RawSplit:
        return read_split(path, split, columns, source.follow_links, refuse_links)

    if source.dataset_name is not None:
        raw = load_dataset_splits(source, columns)
    else:
        root = Path(str(source.train))
        folders = find_split_folders(root, source.follow_links) if root.is_dir() else {}
        raw = {split: read(split, path) for split, path in (folders or {"train": root}).items()}
    return raw | {split: read(split, path) for split, path in source.held_out().items()}


def read_split(
    path: str | Path, split: str, columns: Columns, follow_links: bool = False, refuse_links: bool = True
) -> RawSplit:
    """Read a folder of classes, a folder with a metadata file, or a table as one split; see `read_splits`."""
    if is_table(path):
        return read_table(path, split, columns, follow_links)
    if (raw := read_metadata_folder(path, split, columns, follow_links, refuse_links)) is not None:
        return raw
    if columns.problem_type not in (None, ClassIds.problem_type):
        raise DataError(
            f"{split}: a folder of classes is single-label, not {columns.problem_type}. "
            "Give a CSV or Parquet file with an image and a label column instead."
        )
    return read_class_folder(path, split, follow_links, refuse_links)


def assemble(
    raw: Mapping[str, RawSplit],
    train_val_split: float | None,
    max_train_samples: int | None,
    max_eval_samples: int | None,
    seed: int,
    shots: int | None = None,
) -> Splits:
    """Build one dataset from raw splits: one task, one label map, labels as numbers, a missing validation drawn.

    train_val_split: the fraction of train that becomes validation (seeded, stratified) if there is none; None: no
    validation.
    max_eval_samples: caps validation and test each.   shots: caps each class of train.
    Raises DataError for splits that do not go together.
    """
    raw = {split: raw[split] for split in ("train", "validation", "test") if split in raw}
    kind = raw["train"].targets
    for split, part in raw.items():
        check_class_names(distinct_names(part))
        if part.targets is not kind:
            raise DataError(
                f"train is {kind.problem_type} but {split} is {part.targets.problem_type}: --problem_type settles it."
            )
    id2label = label_map(raw["train"])
    notes = [note for part in raw.values() for note in part.notes] + compare_class_sets(raw, id2label)
    splits = {
        split: Examples(part.images, part.names, part.targets.encode(part.labels, id2label))
        for split, part in raw.items()
    }
    notes += kind.check_together({split: examples.targets for split, examples in splits.items()}, id2label)
    if "validation" not in splits and train_val_split is not None:
        splits["train"], splits["validation"], note = _hold_out(splits["train"], id2label, train_val_split, seed)
        notes.append(note)
    for split, limit in {
        "train": shots or max_train_samples,
        "validation": max_eval_samples,
        "test": max_eval_samples,
    }.items():
        if limit is not None and split in splits and limit < len(splits[split]):
            by_class = split == "train" and shots is not None
            groups = splits[split].targets.strata()
            chosen = draw_of_each(groups, limit, seed) if by_class else draw_subset(groups, limit, seed)
            notes.append(f"{split}: {len(chosen):,} of {len(splits[split]):,} examples, drawn with seed {seed}")
            splits[split] = splits[split].select(chosen.tolist())
    return Splits(splits["train"], splits.get("validation"), splits.get("test"), id2label, notes)


def _hold_out(
    train: Examples, id2label: Mapping[int, str], fraction: float, seed: int
) -> tuple[Examples, Examples, str]:
    groups = train.targets.strata()
    kept, held_out, uncovered = draw_validation(groups, fraction, seed)
    note = f"validation: {len(held_out):,} of {len(train):,} training examples, drawn with seed {seed}"
    if uncovered and train.targets.named:
        single = [id2label.get(group, "no label") for group in uncovered]
        note += f"; no validation image for {shorten_list(single)}, of which there is only one"
    return train.select(kept.tolist()), train.select(held_out.tolist()), note


def with_label_ids(splits: Splits, id2label: Mapping[int, str]) -> Splits:
    """Return the splits with labels renumbered to another order of the same names (a checkpoint's)."""
    if splits.id2label == dict(id2label):
        return splits
    new_id = {name: i for i, name in id2label.items()}
    moved = np.array([new_id[name] for name in in_order(splits.id2label)])

    def renumber(examples: Examples) -> Examples:
        return replace(examples, targets=examples.targets.renumbered(moved))

    return replace(
        splits,
        train=renumber(splits.train),
        validation=splits.validation and renumber(splits.validation),
        test=splits.test and renumber(splits.test),
        id2label=dict(id2label),
    )
