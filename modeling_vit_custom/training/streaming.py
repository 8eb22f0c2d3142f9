"""What --streaming true changes before training: how the data is read, and what cannot be had."""

from glob import has_magic
from pathlib import Path
from typing import Any

import numpy as np

from ..data.examples import SINGLE_LABEL, Splits
from ..data.raw import DataError
from ..data.sources import assemble, read_split
from ..data.streamed_splits import held_in_memory, hold_out_fronts, read_streamed_splits
from .flags import DataArguments, UsageError, ViTTrainingArguments


def check_streaming(method: str, data_args: DataArguments, training_args: ViTTrainingArguments) -> None:
    """Raises UsageError for what a stream, which is read from front to back, cannot do."""
    if not data_args.streaming:
        return
    if data_args.dataset is not None:
        raise UsageError(f"--streaming reads --train_dir or --dataset_name: --dataset {data_args.dataset} is small.")
    if data_args.balanced_sampling:
        raise UsageError(
            "--balanced_sampling needs all images at hand, which --streaming has not: --class_weights balanced weighs "
            "the classes instead."
        )
    if method in ("head_then_full", "fitted_head", "search"):
        raise UsageError(
            f"--method {method} fits the head to all images at once, which --streaming has not: train with "
            "--method linear_probe first, then start from its output."
        )
    if data_args.shots is not None:
        raise UsageError("--shots draws of all images, which --streaming has not: --max_train_samples takes the first.")
    if training_args.teacher is not None:
        raise UsageError("--teacher looks at all images first, which --streaming has not: leave one of them out.")
    if data_args.shuffle_buffer < 1:
        raise UsageError(f"--shuffle_buffer {data_args.shuffle_buffer}: give 1 (order of the files) or more.")


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
    if splits.problem_type == SINGLE_LABEL:
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
