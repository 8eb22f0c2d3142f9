"""`train` and `pretrain` as functions with keyword arguments; they fill the same dataclasses as a command line."""

from pathlib import Path
from typing import Any

from ..training.runs.groups import pretraining_groups, training_groups
from ..training.runs.pretrain import pretrain as run_pretraining
from ..training.runs.train import train as run_training
from .results import Trained


def train(
    *,
    output_dir: str | Path | None = None,
    train_dir: str | Path | None = None,
    dataset_name: str | Path | None = None,
    model_name_or_path: str | Path | None = None,
    variant: str | None = None,
    method: str | None = None,
    recipe: str | Path | None = None,
    max_minutes: float | None = None,
    num_train_epochs: float | None = None,
    seed: int | None = None,
    save_as: str | None = None,
    **flags: Any,
) -> Trained:
    """Train an image classifier and write a complete, loadable Hub repository to `output_dir`; returns its metrics.

    The result is a dict, its `.metrics`, with `.to_json()` and `.plot()`, the course of the training. It holds what
    metrics.json there holds: {"train": …, "validation": {"accuracy": …}, "test": …} and more. A
    second run with the same flags continues an interrupted run, or returns the metrics of a finished one again.

    output_dir: the folder of the run.   train_dir: class folders, or a table; dataset_name: a Hub dataset instead, or
    `dataset="mnist5k"`.   model_name_or_path: a checkpoint to start from; variant: a named size with random weights
    instead, such as "micro/4".   method: how to train; by default it follows from the others.   recipe: a YAML file,
    the name of one that comes with the package, or "auto", which chooses one; flags win over it.   max_minutes: limit
    of the whole run.   save_as: "hf" or "timm" also writes `output_dir`/hf or /timm, a model of transformers or timm
    that loads without remote code.   flags: all others that `vit-custom train --help` lists, by their names, as
    numbers, booleans, strings, lists (`image_size=(32, 48)`), mappings instead of JSON, or None for none. A parameter
    named in the signature that is None counts as not given.

    Raises, before any work is done, UsageError (a ValueError) for an unknown flag or a value that the command refuses,
    and DataError for data that cannot be used as they are. Raises CheckpointError (disk full) or FloatingPointError
    (diverged) if the training cannot go on; PublishError for a finished model that could not be pushed to the Hub.
    """
    groups = training_groups(*_given(**locals()))
    return Trained(run_training(*groups), Path(groups[-1].output_dir))


def pretrain(
    *,
    output_dir: str | Path | None = None,
    train_dir: str | Path | None = None,
    dataset_name: str | Path | None = None,
    model_name_or_path: str | Path | None = None,
    variant: str | None = None,
    recipe: str | Path | None = None,
    max_minutes: float | None = None,
    num_train_epochs: float | None = None,
    seed: int | None = None,
    **flags: Any,
) -> Trained:
    """Train an encoder on images without labels and save it in `output_dir`; returns its metrics, as in metrics.json.

    `train(model_name_or_path=output_dir)` starts from it. Flags are given as for `train`; `vit-custom pretrain --help`
    lists them: `mask_ratio`, `mask_patch_size` and others. With `teacher`, a checkpoint, its features are learnt
    instead.

    Raises what `train` raises except PublishError, and UsageError for a flag that only classifiers have.
    """
    groups = pretraining_groups(*_given(**locals()))
    return Trained(run_pretraining(*groups), Path(groups[-1].output_dir))


def _given(recipe: str | Path | None, flags: dict[str, Any], **named: Any) -> tuple[dict[str, Any], str | Path | None]:
    """Return the flags that were given, and the recipe.   named: parameters of the signature; None means not given."""
    return {name: value for name, value in named.items() if value is not None} | flags, recipe
