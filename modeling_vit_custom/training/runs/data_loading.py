"""The data that flags name, as splits."""

from glob import has_magic
from pathlib import Path
from typing import Any

import numpy as np

from ...audit.gate import audit_before_training
from ...common.errors import DataError
from ...data.examples import Splits
from ...data.mnist5k import write_mnist5k
from ...data.sources import assemble, read_split, read_splits
from ...data.streamed_splits import held_in_memory, hold_out_fronts, read_streamed_splits
from ...tasks.registry import task_named
from ...tasks.task import ONE_LABEL
from ..arguments.data_arguments import DataArguments
from ..arguments.training_arguments import ViTTrainingArguments


def load_data(data_args: DataArguments, training_args: ViTTrainingArguments) -> Splits:
    """The splits the flags name, audited; a built-in dataset is written first, by one process. Raises DataError."""
    if data_args.streaming:
        return load_streamed(data_args, training_args.seed)
    raw = read_splits(
        training_source(data_args, training_args),
        data_args.validation_dir,
        data_args.test_dir,
        data_args.dataset_name,
        dataset_config_name=data_args.dataset_config_name,
        dataset_revision=data_args.dataset_revision,
        image_column=data_args.image_column_name,
        label_column=data_args.label_column_name,
        problem_type=data_args.problem_type,
        label_separator=data_args.label_separator,
        follow_links=data_args.follow_links,
    )
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


def training_source(data_args: DataArguments, training_args: ViTTrainingArguments) -> str | None:
    """The folder or table of --train_dir, or the folder of a built-in dataset, which is written now."""
    if data_args.dataset != "mnist5k":
        return data_args.train_dir
    with training_args.main_process_first(desc="writing MNIST 5k"):
        return str(write_mnist5k(Path(data_args.data_root) / "mnist5k"))


def load_streamed(data_args: DataArguments, seed: int) -> Splits:
    """The splits of a stream: training images stay where they are, the others are held in memory. Raises DataError."""
    columns: dict[str, Any] = {
        "image_column": data_args.image_column_name,
        "label_column": data_args.label_column_name,
        "problem_type": data_args.problem_type,
        "label_separator": data_args.label_separator,
    }
    folder = data_args.train_dir
    if folder is not None and not has_magic(folder) and not Path(folder).exists():
        raise DataError(f"--train_dir {folder} is not there: name a folder of shards, or a pattern in quotes.")
    raw = read_streamed_splits(
        str(folder or data_args.dataset_name),
        data_args.dataset_config_name,
        data_args.dataset_revision,
        follow_links=data_args.follow_links,
        **columns,
    )
    for split, path in (("validation", data_args.validation_dir), ("test", data_args.test_dir)):
        if path is not None:
            raw[split] = read_split(path, split, data_args.follow_links, columns)
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
