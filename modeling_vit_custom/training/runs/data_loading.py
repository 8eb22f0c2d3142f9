"""The data that flags name, as splits."""

from glob import has_magic
from pathlib import Path

import numpy as np

from ...audit.gate import audit_before_training
from ...common.errors import DataError
from ...data.examples import Splits
from ...data.mnist5k import write_mnist5k
from ...data.source import Columns, Source
from ...data.sources import assemble, read_split, read_splits
from ...data.streamed_splits import held_in_memory, hold_out_fronts, read_streamed_splits
from ...tasks.registry import task_named
from ...tasks.task import ONE_LABEL
from ..arguments.data_arguments import DataArguments
from ..arguments.training_arguments import ViTTrainingArguments


def load_data(data_args: DataArguments, training_args: ViTTrainingArguments) -> Splits:
    """Loads the splits the flags name, audited; a built-in dataset is written first. Raises DataError."""
    source, columns = named_data(data_args, training_args)
    if data_args.streaming:
        return load_streamed(source, columns, data_args, training_args.seed)
    raw = read_splits(source, columns)
    splits = assemble(
        raw,
        data_args.train_val_split,
        data_args.max_train_samples,
        data_args.max_eval_samples,
        training_args.seed,
        data_args.shots,
    )
    splits.findings.extend(audit_before_training(raw, data_args.audit))
    return splits


def named_data(data_args: DataArguments, training_args: ViTTrainingArguments) -> tuple[Source, Columns]:
    """Makes of the flags what readers of data take; a built-in dataset is written now, by one process."""
    train = data_args.train_dir
    if data_args.dataset == "mnist5k":
        with training_args.main_process_first(desc="writing MNIST 5k"):
            train = str(write_mnist5k(Path(data_args.data_root) / "mnist5k"))
    source = Source(
        train,
        data_args.validation_dir,
        data_args.test_dir,
        data_args.dataset_name,
        data_args.dataset_config_name,
        data_args.dataset_revision,
        follow_links=data_args.follow_links,
    )
    columns = Columns(
        data_args.image_column_name,
        data_args.label_column_name,
        data_args.label_separator,
        data_args.problem_type,
    )
    return source, columns


def load_streamed(source: Source, columns: Columns, data_args: DataArguments, seed: int) -> Splits:
    """Loads a stream: training images stay where they are, the others are held in memory. Raises DataError."""
    folder = source.train
    if folder is not None and not has_magic(str(folder)) and not Path(folder).exists():
        raise DataError(f"--train_dir {folder} is not there: name a folder of shards, or a pattern in quotes.")
    raw = read_streamed_splits(source, columns)
    for split, path in source.held_out().items():
        raw[split] = read_split(path, split, columns, source.follow_links)
    limit = data_args.max_eval_samples
    if "validation" not in raw:
        assert data_args.train_val_split is not None  # complete_arguments has set it
        raw["train"], raw["validation"] = hold_out_fronts(raw["train"], data_args.train_val_split, limit)
    splits = held_in_memory(assemble(raw, data_args.train_val_split, data_args.max_train_samples, limit, seed))
    splits.notes.append("the images of a stream are not audited: nobody looked for repeated or mislabelled ones")
    if ONE_LABEL in task_named(splits.problem_type).supports:
        splits.notes.extend(order_notes(np.asarray(splits.train.labels), data_args.shuffle_buffer))
    return splits


def order_notes(labels: np.ndarray, shuffle_buffer: int) -> list[str]:
    """A warning where the classes, [N] int64 in the order they are read, lie in runs that no buffer will mix."""
    same = float(np.mean(labels[1:] == labels[:-1]))
    by_chance = float(np.sum((np.bincount(labels) / len(labels)) ** 2))
    if same < (1 + by_chance) / 2:
        return []
    return [
        f"WARNING: {same:.0%} of neighbours in the shards are of one class (by chance {by_chance:.0%}): these are "
        f"sorted, and a buffer of {shuffle_buffer:,} may not mix them. Write them in random order, or raise "
        "--shuffle_buffer"
    ]
