"""The tasks by name, and the one that a configuration is for."""

from typing import Any

from .multi_label import MULTI_LABEL
from .regression import REGRESSION
from .single_label import SINGLE_LABEL
from .task import ONE_LABEL, Task

TASKS = {task.name: task for task in (SINGLE_LABEL, MULTI_LABEL, REGRESSION)}
PROBLEM_TYPES = tuple(TASKS)


def task_named(problem_type: str | None, num_labels: int = 0) -> Task:
    """Return the task of a problem_type; where it is unset, as transformers trains: regression for one label.

    Raises ValueError for a problem_type that there is none of.
    """
    if not problem_type:
        return REGRESSION if num_labels == 1 else SINGLE_LABEL
    if problem_type not in TASKS:
        raise ValueError(f"config.problem_type is {problem_type!r}; use one of {', '.join(TASKS)}.")
    return TASKS[problem_type]


def task_of(config: Any) -> Task:
    """Return the task that a configuration, of this package or another, is for. Raises ValueError as `task_named`."""
    return task_named(config.problem_type, config.num_labels)


def one_label() -> str:
    """Return the names of the tasks that have one label an image."""
    return ", ".join(task.name for task in TASKS.values() if ONE_LABEL in task.supports)
