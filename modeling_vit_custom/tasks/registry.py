"""The tasks by name, and the task of a configuration."""

import copyreg
from collections.abc import Mapping
from typing import Any

from .encoder_features import ENCODER_FEATURES
from .features import FEATURES
from .hub import CLASSIFICATION, listing_of, segments
from .masked_images import MASKED_IMAGES
from .multi_label import MULTI_LABEL
from .regression import REGRESSION
from .segmentation import SEGMENTATION
from .single_label import SINGLE_LABEL
from .task import Task

TASKS = {
    task.name: task
    for task in (SINGLE_LABEL, MULTI_LABEL, REGRESSION, FEATURES, MASKED_IMAGES, ENCODER_FEATURES, SEGMENTATION)
}
PROBLEM_TYPES = tuple(task.name for task in TASKS.values() if task.listing is CLASSIFICATION)


def task_named(name: str | None, num_labels: int = 0) -> Task:
    """Return the task of a problem_type; if unset, as transformers trains: regression for one label, else single-label.

    Raises ValueError for an unknown name.
    """
    if not name:
        return REGRESSION if num_labels == 1 else SINGLE_LABEL
    if name not in TASKS:
        raise ValueError(f"config.problem_type is {name!r}; use one of {', '.join(PROBLEM_TYPES)}.")
    return TASKS[name]


copyreg.pickle(Task, lambda task: (task_named, (task.name,)))  # a task is pickled by its name


def task_of(config: Any) -> Task:
    """Return the task of a configuration, of this package or another. Raises ValueError as `task_named`."""
    if segments(getattr(config, "heads", None)):
        return SEGMENTATION
    return task_named(config.problem_type, config.num_labels) if config.num_labels else FEATURES


def task_stored(config: Mapping[str, Any], num_labels: int) -> Task:
    """Return the task of a stored configuration; without labels, the encoder's. Raises ValueError as `task_named`.

    num_labels: number of labels, which the configuration may leave out.
    """
    if (listing := listing_of(config)) is SEGMENTATION.listing:
        return SEGMENTATION
    return task_named(config.get("problem_type"), num_labels) if listing is CLASSIFICATION else FEATURES


def one_label() -> str:
    """Return the names of the tasks with one label an image, separated by commas."""
    return ", ".join(task.name for task in TASKS.values() if task.one_label)
