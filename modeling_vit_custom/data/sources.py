"""From what the user names (a folder, a table, a dataset) to `Splits` that have been checked.

Shapes: N examples, C classes, T regression targets.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..common.errors import DataError
from ..common.text import listed, printable
from .examples import REGRESSION, Examples, Splits
from .folders import find_split_folders, read_class_folder
from .hub_datasets import load_dataset_splits
from .labels import check_class_names, compare_class_sets, distinct_names, encode_labels, label_map, strata
from .raw import RawSplit
from .source import Columns, Source
from .splits import draw_of_each, draw_subset, draw_validation
from .tables import is_table, read_table

logger = logging.getLogger(__name__)


def read_splits(source: Source, columns: Columns = Columns(), refuse_links: bool = True) -> dict[str, RawSplit]:
    """Reads the splits as they are found, not yet compared with one another.

    source: its train, validation and test are a folder DIR/<class>/…, or a CSV, TSV, JSON or Parquet file; train may
        also be a folder DIR/{train,validation,test}/<class>/…. Its dataset_name: see `load_dataset_splits`.
    refuse_links: whether a link that is not followed is an error; else `RawSplit.contents` names it.
    Raises DataError with what is wrong and how to mend it.
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
    """Reads a folder of classes or a table as one split; see `read_splits`."""
    if is_table(path):
        return read_table(path, split, columns, follow_links)
    if columns.problem_type not in (None, "single_label_classification"):
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
    """One task and one label map over raw splits; labels become numbers, missing validation is drawn.

    train_val_split: the fraction of train that becomes validation (seeded, stratified) when there is none; None: no
        validation.
    max_eval_samples: caps validation and test each.   shots: caps each class of train.
    Raises DataError for splits that do not go together.
    """
    raw = {split: raw[split] for split in ("train", "validation", "test") if split in raw}
    problem_type = raw["train"].problem_type
    for split, part in raw.items():
        check_class_names(distinct_names(part))
        if part.problem_type != problem_type:
            raise DataError(f"train is {problem_type} but {split} is {part.problem_type}: --problem_type settles it.")
    id2label = label_map(raw["train"])
    notes = [note for part in raw.values() for note in part.notes] + compare_class_sets(raw, id2label)
    splits = {split: Examples(part.images, part.names, encode_labels(part, id2label)) for split, part in raw.items()}
    notes += _check_targets_fit(splits, id2label, problem_type)
    if "validation" not in splits and train_val_split is not None:
        splits["train"], splits["validation"], note = _hold_out(
            splits["train"], id2label, problem_type, train_val_split, seed
        )
        notes.append(note)
    for split, limit in {
        "train": shots or max_train_samples,
        "validation": max_eval_samples,
        "test": max_eval_samples,
    }.items():
        if limit is not None and split in splits and limit < len(splits[split]):
            by_class = split == "train" and shots is not None
            groups = strata(_labels(splits[split]), problem_type)
            chosen = draw_of_each(groups, limit, seed) if by_class else draw_subset(groups, limit, seed)
            notes.append(f"{split}: {len(chosen):,} of {len(splits[split]):,} examples, drawn with seed {seed}")
            splits[split] = splits[split].select(chosen.tolist())
    return Splits(splits["train"], splits.get("validation"), splits.get("test"), problem_type, id2label, notes)


def _labels(examples: Examples) -> np.ndarray:
    return np.asarray(examples.labels)


def _hold_out(
    train: Examples, id2label: Mapping[int, str], problem_type: str, fraction: float, seed: int
) -> tuple[Examples, Examples, str]:
    groups = strata(_labels(train), problem_type)
    kept, held_out, uncovered = draw_validation(groups, fraction, seed)
    note = f"validation: {len(held_out):,} of {len(train):,} training examples, drawn with seed {seed}"
    if uncovered and problem_type != REGRESSION:
        single = [id2label.get(group, "no label") for group in uncovered]
        note += f"; no validation image for {listed(single)}, of which there is only one"
    return train.select(kept.tolist()), train.select(held_out.tolist()), note


def _check_targets_fit(splits: Mapping[str, Examples], id2label: Mapping[int, str], problem_type: str) -> list[str]:
    """Regression only: equal numbers of targets, and a word on scale."""
    if problem_type != REGRESSION:
        return []
    for split, examples in splits.items():
        width = _labels(examples).reshape(len(examples), -1).shape[1]
        if width != len(id2label):
            raise DataError(f"{split} has {width} target(s), train has {len(id2label)}.")
    targets = _labels(splits["train"]).reshape(len(splits["train"]), -1)
    mean, std = targets.mean(axis=0), targets.std(axis=0)
    if np.any(std == 0):
        raise DataError(
            f"target(s) {listed([id2label[int(t)] for t in np.flatnonzero(std == 0)])} never vary in train."
        )
    if np.any(np.abs(mean) > 5) or np.any(std > 5) or np.any(std < 0.05):
        return [
            f"targets have mean {listed(mean.round(3).tolist())} and standard deviation "
            f"{listed(std.round(3).tolist())}: training goes better when they are scaled to about 0 and 1"
        ]
    return []


def load_eval_examples(
    data_dir: str | Path,
    id2label: Mapping[int, str],
    problem_type: str,
    columns: Columns = Columns(),
    follow_links: bool = False,
) -> Examples:
    """Reads examples to measure a checkpoint on, labelled with *its* ids; what was found is logged as warnings.

    data_dir: a folder DIR/<class>/…, or a CSV, TSV, JSON or Parquet file.   problem_type: the checkpoint's, whatever
    that of `columns` is.
    Raises DataError for classes the checkpoint does not know, naming them, and for a folder of splits.
    """
    if Path(data_dir).is_dir() and (folders := find_split_folders(data_dir, follow_links)):
        raise DataError(f"{data_dir} holds several splits: name one of {listed(list(folders.values()))}.")
    raw = read_split(data_dir, "evaluation", replace(columns, problem_type=problem_type), follow_links)
    check_class_names(distinct_names(raw))
    if problem_type == REGRESSION and raw.class_names is not None and len(raw.class_names) != len(id2label):
        raise DataError(f"{data_dir} has {len(raw.class_names)} target(s), the checkpoint {len(id2label)}.")
    for note in raw.notes:
        logger.warning(printable(note))
    return Examples(raw.images, list(raw.names), encode_labels(raw, id2label))


def with_label_ids(splits: Splits, id2label: Mapping[int, str]) -> Splits:
    """The same splits with labels renumbered after another order of the same names (a checkpoint's)."""
    if splits.id2label == dict(id2label):
        return splits
    new_id = {name: i for i, name in id2label.items()}
    moved = np.array([new_id[splits.id2label[i]] for i in range(len(splits.id2label))])

    def renumber(examples: Examples) -> Examples:
        labels = _labels(examples)
        return replace(examples, labels=moved[labels] if labels.ndim == 1 else labels[:, np.argsort(moved)])

    return replace(
        splits,
        train=renumber(splits.train),
        validation=splits.validation and renumber(splits.validation),
        test=splits.test and renumber(splits.test),
        id2label=dict(id2label),
    )
