"""Tables of flags, each derived from what is declared of them: in the dataclasses, and in `trainer_fields.FIELDS`."""

from typing import Any

from ...tasks.task import Task
from .data_arguments import DataArguments
from .declarations import PRETRAIN, Facts, facts_in
from .model_arguments import ModelArguments
from .trainer_fields import FIELDS, Refused
from .training_arguments import ViTTrainingArguments

MODEL, DATA = facts_in(ModelArguments), facts_in(DataArguments)
TRAINING = {name: field.facts for name, field in FIELDS.items() if not isinstance(field, Refused)}
TRAINING |= {name: facts for name, facts in facts_in(ViTTrainingArguments).items() if name not in FIELDS}
FLAGS: dict[str, Facts] = TRAINING | MODEL | DATA
GROUPS = {
    **{name: facts.group or "model" for name, facts in MODEL.items()},
    **{name: facts.group or "data" for name, facts in DATA.items()},
    **{name: facts.group for name, facts in TRAINING.items()},
}

RANGES = {name: facts.range for name, facts in FLAGS.items() if facts.range is not None}
# What of TrainingArguments, and of DataArguments where it is not the default, describes a run and may be published:
# no paths, names or tokens.
PUBLISHED = tuple(name for name, facts in TRAINING.items() if facts.recorded)
RECORDED = tuple(name for name, facts in DATA.items() if facts.recorded)
ONLY_IN_TRAIN = tuple(name for name, facts in FLAGS.items() if PRETRAIN not in facts.commands)
SAY_HOW = tuple(name for name, facts in FLAGS.items() if facts.says_how or "search" in facts.idle_for)


def idle_for(method: str) -> tuple[str, ...]:
    """Return the flags that a method has no use for."""
    return tuple(name for name, facts in FLAGS.items() if method in facts.idle_for)


def given(names: Any, *groups: Any) -> list[str]:
    """Return the flags of these that have another value than their default."""
    found = []
    for name in names:
        group = next(group for group in groups if hasattr(group, name))
        if getattr(group, name) != group.__dataclass_fields__[name].default:
            found.append(name)
    return found


def not_for(task: Task, *groups: Any) -> list[str]:
    """Return the flags that were given and are not for a task."""
    return given([name for name, facts in FLAGS.items() if facts.needs and facts.needs not in task.supports], *groups)
