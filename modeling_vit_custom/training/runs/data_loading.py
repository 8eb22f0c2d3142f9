"""Loading of the data that the flags name, as splits."""

from pathlib import Path

import numpy as np

from ...audit.gate import audit_before_training
from ...common.errors import DataError
from ...data.examples import Splits
from ...data.mnist5k import write_mnist5k
from ...data.source import Columns, Source
from ...data.sources import assemble, read_split, read_splits
from ...data.streamed_splits import held_in_memory, hold_out_fronts, is_pattern, read_streamed_splits
from ...data.unlabelled import read_unlabelled
from ...tasks.registry import task_named
from ..arguments.data_arguments import DataArguments
from ..arguments.training_arguments import ViTTrainingArguments


def load_data(data_args: DataArguments, training_args: ViTTrainingArguments, labelled: bool = True) -> Splits:
    """Load the splits that the flags name; audit them unless they are streamed. Raises DataError.

    A built-in dataset is written to disk first.
    labelled: False in pre-training. A copy of a training image in validation is then only a warning, since it makes the
    validation loss just a little too low.
    """
    source, columns = named_data(data_args, training_args)
    if data_args.streaming:
        return load_streamed(source, columns, data_args, training_args.seed)
    raw = read_splits(source, columns) if labelled else read_unlabelled(source, columns)
    splits = assemble(
        raw,
        data_args.train_val_split,
        data_args.max_train_samples,
        data_args.max_eval_samples,
        training_args.seed,
        data_args.shots,
    )
    splits.findings.extend(audit_before_training(raw, data_args.audit, () if labelled else ("leak",)))
    return splits


def named_data(data_args: DataArguments, training_args: ViTTrainingArguments) -> tuple[Source, Columns]:
    """Return the flags as the (source, columns) that data readers take; one process writes a built-in dataset now."""
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
    """Load a stream: training images stay in their shards, the others are held in memory. Raises DataError."""
    folder = source.train
    if folder is not None and not is_pattern(folder) and not Path(folder).exists():
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
    if task_named(splits.problem_type).one_label:
        splits.notes.extend(order_notes(splits.train.targets.values, data_args.shuffle_buffer))
    return splits


def order_notes(labels: np.ndarray, shuffle_buffer: int) -> list[str]:
    """Return a warning if the shards look sorted by class, so that a shuffle buffer may not mix them; else nothing.

    labels: class ids, int64 [N], in the order in which they are read.
    """
    same = float(np.mean(labels[1:] == labels[:-1]))
    by_chance = float(np.sum((np.bincount(labels) / len(labels)) ** 2))
    if same < (1 + by_chance) / 2:
        return []
    return [
        f"WARNING: {same:.0%} of neighbours in the shards are of one class (by chance {by_chance:.0%}): these are "
        f"sorted, and a buffer of {shuffle_buffer:,} may not mix them. Write them in random order, or raise "
        "--shuffle_buffer"
    ]
