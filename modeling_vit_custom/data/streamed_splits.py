"""Splits from shards: labels are read in one pass, and a missing validation comes from the fronts of the shards.

Shapes: N examples, K shards.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from glob import escape, glob, has_magic
from pathlib import Path
from typing import Any

import numpy as np

from ..common.errors import DataError
from ..weight_files_vit_custom import shorten_list
from .columns import LabelColumn, declared_names, label_columns_of, read_label_columns
from .examples import Examples, LazySelection, Splits
from .folders import SPLIT_FOLDERS, leads_out, named_files, walk_files
from .hub_datasets import FILE_NAME, downloaded, folders_as_named, has_data_files, is_metadata
from .raw import RawSplit
from .source import Columns, Source
from .stream import MAX_PARTS, READ_ERRORS, RowNames, ShardedImages, Shards, stream_of
from .tables import open_table

READERS = {".parquet": "parquet", ".tar": "webdataset", ".arrow": "arrow"}
HELD_OUT = 1000  # examples for validation, unless --max_eval_samples says otherwise
LABELS_AT_ONCE = 1000


def read_streamed_splits(source: Source, columns: Columns = Columns()) -> dict[str, RawSplit]:
    """Read those of {"train": …, "validation": …, "test": …} that the data has, with all their labels.

    source: its train is a folder of shards (Parquet, WebDataset, Arrow), one shard, or a pattern such as
    "shards/train-*.parquet" (the latter two are training data alone); else its dataset_name is a Hub dataset. Its
    validation and test are no streams and are left to `read_split`.
    Raises DataError for data that `datasets` cannot stream, for files that it would leave out, for bad labels, and,
    unless `source.follow_links`, for files and links that lead out of the folder.
    """
    place = str(source.train or source.dataset_name)
    opened = partial(_opened, place, source)
    try:
        builder = opened()
        streams = builder.as_streaming_dataset()
        named = {SPLIT_FOLDERS[str(own).lower()]: own for own in streams if str(own).lower() in SPLIT_FOLDERS}
        if "train" not in named:
            raise DataError(f"{place} has no train split, only {shorten_list(list(streams))}.")
        label_columns = _checked_columns(streams[named["train"]], columns, place)
        label_streams, image_streams = opened(label_columns), opened([columns.image])
        raw = {}
        for split, own in named.items():
            files = builder.config.data_files[own]
            shards, cells = _read_labels(label_streams.as_streaming_dataset()[own], label_columns, files, place)
            names = RowNames(shards)
            feature = streams[own].features[label_columns[0]]
            images = _images(image_streams, own, columns.image, shards, [str(file) for file in files])
            if images.opens_files:
                paths = _named_images(images, builder, place, source.follow_links)
                cells |= _metadata_cells(builder, own, paths, label_columns)
            labels = read_label_columns(cells, names, columns, declared_names(feature))
            raw[split] = _raw_split(split, place, images, names, labels)
    except DataError:
        raise
    except READ_ERRORS as error:
        raise DataError(f"{place} cannot be read as a stream: {error}") from error
    if unused := [str(split) for split in streams if split not in named.values()]:
        raw["train"].notes.append(f"split(s) of {place} that are NOT USED: {shorten_list(unused)}")
    return raw


def _opened(place: str, source: Source, names: list[str] | None = None) -> Any:
    """A builder of `datasets` that has looked up the files but read nothing.

    names: the only columns that Parquet shall read.
    """
    from datasets import load_dataset_builder

    path, only = Path(place), {} if names is None else {"columns": names}
    if is_pattern(place) or path.is_file():
        if path.suffix not in READERS or not (files := _matching(path)):
            raise DataError(f"{place} names no shards: they end in {' or '.join(READERS)}.")
        linked = [file for file in files if is_pattern(place) and leads_out(Path(file), Path(file).parent)]
        if linked and not source.follow_links:
            raise DataError(f"{linked[0]} is a link that leads out of its folder: pass --follow_links to read it.")
        kind = READERS[path.suffix]
        only = only if kind == "parquet" else {}
        data_files = {"train": [escape(os.path.abspath(file)) for file in files]}
        return load_dataset_builder(kind, data_files=data_files, cache_dir=source.cache_dir, **only)
    if path.is_dir() and not has_data_files(path):
        raise DataError(
            f"{place} holds no shards. Images that are files of their own are read one at a time anyway: name their "
            "folder with --train_dir, without --streaming."
        )
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        raise DataError(f"{place} is of save_to_disk, which is read row by row anyway: leave --streaming out.")
    if path.is_dir():
        walk_files(path, source.follow_links)
    build = partial(
        load_dataset_builder,
        place,
        source.dataset_config_name,
        revision=source.dataset_revision,
        cache_dir=source.cache_dir,
    )
    with folders_as_named():
        builder = build()
        if path.is_dir():
            _check_nothing_is_lost(path, builder)
        return build(**only) if builder.name == "parquet" and names is not None else builder


def is_pattern(place: str | Path) -> bool:
    """Return whether `place` is a pattern that stands for several files; an existing path of this name is not."""
    return has_magic(str(place)) and not Path(place).exists()


def _matching(pattern: Path) -> list[str]:
    """The files that a pattern names; folders that exist under exactly their names in it are no patterns."""
    if pattern.exists():
        return [str(pattern)]
    there = next(path for path in pattern.parents if path.exists())
    return sorted(glob(os.path.join(escape(str(there)), pattern.relative_to(there)), recursive=True))


def _check_nothing_is_lost(folder: Path, builder: Any) -> None:
    """Raise DataError if `datasets` would skip shards because others have names such as train-0.parquet."""
    used = {os.path.abspath(file) for files in builder.config.data_files.values() for file in files}
    suffixes = {Path(file).suffix for file in used}
    on_disk = (path for path in folder.rglob("*") if path.suffix in suffixes and path.is_file())
    if lost := sorted(str(path) for path in on_disk if os.path.abspath(path) not in used):
        raise DataError(
            f"{len(lost)} file(s) of {folder} would be left out, not being named as the others are: "
            f"{shorten_list(lost, 5)}. "
            f'Name the training shards by a pattern, --train_dir "{folder}/*{Path(lost[0]).suffix}".'
        )


def _checked_columns(stream: Any, columns: Columns, place: str) -> list[str]:
    """The label columns; raises DataError if one is missing, or if images are not in the shards."""
    from datasets import Image, Value

    if stream.features is None:
        raise DataError(f"{place} does not say its columns: write it as Parquet to stream it.")
    label_columns = label_columns_of(list(stream.features), columns, place)
    feature = stream.features[columns.image]
    if not isinstance(feature, Image) and feature not in (Value("binary"), Value("large_binary")):
        raise DataError(f"column {columns.image!r} of {place} holds {feature}: a stream's images are bytes, in it.")
    return label_columns


def _read_labels(
    stream: Any, columns: list[str], files: Sequence[str], place: str
) -> tuple[Shards, dict[str, list[Any]]]:
    """(the shards and their sizes, [N] cells of each label column), from a pass that decodes no image."""
    parts = min(stream.num_shards, MAX_PARTS)
    labels = stream.select_columns(columns)
    cells: dict[str, list[Any]] = {column: [] for column in columns}
    ends = []
    for part in range(parts):
        for batch in labels.shard(parts, part).iter(LABELS_AT_ONCE):
            for column in columns:
                cells[column].extend(batch[column])
        ends.append(len(cells[columns[0]]))
    if not ends or ends[-1] == 0:
        raise DataError(f"{place} has no examples.")
    names = list(files) if parts == len(files) else [f"part {part + 1} of {parts} of {place}" for part in range(parts)]
    return Shards(names, np.diff(np.array([0, *ends]))), cells


def _images(builder: Any, own: Any, column: str, shards: Shards, files: Sequence[str]) -> ShardedImages:
    from datasets import Image

    stream = builder.as_streaming_dataset()[own].select_columns([column])
    if isinstance(stream.features[column], Image):
        stream = stream.cast_column(column, Image(decode=False))
    return ShardedImages(stream, column, shards, files, opens_files=builder.name == "imagefolder")


def _named_images(images: ShardedImages, builder: Any, place: str, follow_links: bool) -> list[str]:
    """The paths that a stream's cells name; raises DataError unless they are files of the data itself."""
    paths = [str(cell[images.column]["path"]) for cell in images.dataset]
    if Path(place).is_dir():
        return named_files(paths, Path(place), place, images.column, follow_links)
    own = f"{builder.base_path}/"  # on the Hub; an archive there is the last of several addresses
    if outside := [path for path in paths if not path.split("::")[-1].startswith(own) or ".." in path.split("/")]:
        raise DataError(
            f"{place}: {len(outside)} images lie elsewhere, and are not fetched: {shorten_list(outside, 5)}."
        )
    return paths


def _metadata_cells(builder: Any, own: Any, paths: Sequence[str], columns: Sequence[str]) -> dict[str, list[Any]]:
    """The labels in an imagefolder's metadata, with cells as `tables` reads them; {} without such a file."""
    files = [str(file) for file in builder.config.data_files[own] if is_metadata(str(file))]
    rows: dict[str, list[list[Any]]] = {}
    for file, there in zip(files, downloaded(builder, files), strict=True):
        table = open_table(there, str(own))
        for name, *cells in zip(*map(table.cells, (FILE_NAME, *columns)), strict=True):
            rows.setdefault(os.path.normpath(os.path.join(os.path.dirname(file), name)), []).append(cells)
    if not files:
        return {}
    found = [rows[os.path.normpath(path)].pop(0) for path in paths]
    return {column: [cells[i] for cells in found] for i, column in enumerate(columns)}


def _raw_split(split: str, place: str, images: ShardedImages, names: RowNames, labels: LabelColumn) -> RawSplit:
    notes = [
        f"{split}: {len(names):,} examples in {len(images.shards)} shards of {place}, all labels read",
        *(f"{split}: {note}" for note in labels.notes),
    ]
    return RawSplit(images, names, labels.targets, labels.labels, labels.class_names, notes)


# ---------- validation


def hold_out_fronts(train: RawSplit, fraction: float, limit: int | None) -> tuple[RawSplit, RawSplit]:
    """Return (train, validation): the first rows of every shard are held out, about the same number of each.

    Only these fronts are read for it. The last image of a class stays in train.

    fraction: the most of train to hold out.   limit: the most examples to hold out, by default HELD_OUT.
    Raises DataError unless 0 < fraction < 1, and if no example can be held out.
    """
    if not 0 < fraction < 1:
        raise DataError(f"train_val_split is {fraction}: give a fraction between 0 and 1, such as 0.15.")
    images: Any = train.images
    shards, total = images.shards, len(train)
    wanted = min(HELD_OUT if limit is None else limit, round(total * fraction))
    each = -(-wanted // len(shards))
    fronts = [start + row for row in range(each) for start in shards.starts[shards.counts > row]][:wanted]
    left = Counter(name for index in range(total) for name in train.class_names_of(index))
    chosen = []
    for index in fronts:
        classes = train.class_names_of(index)
        if all(left[name] > 1 for name in classes):
            left.subtract(classes)
            chosen.append(index)
    if not chosen:
        raise DataError(f"none of the {total:,} examples can be held out for validation: give --validation_dir.")
    kept = np.ones(total, bool)
    kept[chosen] = False
    held_out = _select(train, np.sort(chosen))
    held_out.notes.append(
        f"validation: {len(chosen):,} of {total:,} training examples, from the front of every shard (--validation_dir "
        "names others, --max_eval_samples how many)"
    )
    return replace(_select(train, np.flatnonzero(kept)), notes=train.notes), held_out


def _select(raw: RawSplit, indices: np.ndarray) -> RawSplit:
    labels: Any = raw.labels
    labels = labels[indices] if isinstance(labels, np.ndarray) else [labels[i] for i in indices]
    images, names = LazySelection(raw.images, indices), LazySelection(raw.names, indices)
    return replace(raw, images=images, names=names, labels=labels, notes=[])


def fetched(raw: RawSplit) -> RawSplit:
    """Return the same split with its encoded images in memory."""
    images: Any = raw.images
    return replace(raw, images=images.fetched(np.arange(len(raw))), names=list(raw.names))


def held_in_memory(splits: Splits) -> Splits:
    """Return the splits with the encoded images of validation and test in memory: these are read again and again."""

    def held(split: str, examples: Examples | None) -> Examples | None:
        if examples is None or (found := stream_of(examples)) is None:
            return examples
        images = found[0].fetched(found[1])
        size = sum(map(len, images)) / 1e6
        splits.notes.append(f"{split}: {len(images):,} encoded images, {size:.1f} MB, are held in memory")
        return replace(examples, images=images, names=list(examples.names))

    return replace(
        splits, validation=held("validation", splits.validation), test=held("test", splits.test), notes=splits.notes
    )
