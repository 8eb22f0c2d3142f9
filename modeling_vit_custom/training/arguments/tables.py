"""Tables of flags, derived from their declarations in the dataclasses and in `trainer_fields.FIELDS`."""

from typing import Any

from ...tasks.task import Task
from .data_arguments import DataArguments
from .declarations import PRETRAIN, Facts, facts_in
from .model_arguments import ModelArguments
from .trainer_fields import FIELDS, Refused
from .training_arguments import training_facts

MODEL, DATA = facts_in(ModelArguments), facts_in(DataArguments)
TRAINING = training_facts()
FLAGS: dict[str, Facts] = TRAINING | MODEL | DATA
GROUPS = {
    **{name: facts.group or "model" for name, facts in MODEL.items()},
    **{name: facts.group or "data" for name, facts in DATA.items()},
    **{name: facts.group for name, facts in TRAINING.items()},
}

# Flags that describe a run and may be published, those of data only if not the default: no paths, names or tokens.
PUBLISHED = tuple(name for name, facts in TRAINING.items() if facts.recorded)
RECORDED = tuple(name for name, facts in DATA.items() if facts.recorded)
ONLY_IN_TRAIN = tuple(name for name, facts in FLAGS.items() if PRETRAIN not in facts.commands)
REFUSED = tuple(name for name, field in FIELDS.items() if isinstance(field, Refused))
RARE = tuple(name for name, facts in FLAGS.items() if facts.rare)
SAY_HOW = tuple(name for name, facts in FLAGS.items() if facts.says_how or "search" in facts.idle_for)


def idle_for(method: str) -> tuple[str, ...]:
    """Return the flags that a method does not use."""
    return tuple(name for name, facts in FLAGS.items() if method in facts.idle_for)


def given(names: Any, *groups: Any) -> list[str]:
    """Return the named flags whose values in `groups` are not their defaults."""
    found = []
    for name in names:
        group = next(group for group in groups if hasattr(group, name))
        if getattr(group, name) != group.__dataclass_fields__[name].default:
            found.append(name)
    return found


def not_for(task: Task, *groups: Any) -> list[str]:
    """Return the flags that were given although the task does not support them."""
    return given([name for name, facts in FLAGS.items() if facts.needs and facts.needs not in task.supports], *groups)
