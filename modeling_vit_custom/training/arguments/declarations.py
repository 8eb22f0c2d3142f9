"""How a flag is declared, once; `tables` derives tables of flags from the declarations."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ...common.errors import UsageError

TRAIN, PRETRAIN = "train", "pretrain"
MANY = 1_000_000_000


@dataclass(frozen=True)
class Facts:
    """The facts of a flag, in addition to its name, type, default and help.

    group: its heading in --help.   range: lowest and highest value; for a list, of each element.
    commands: those that have the flag.
    needs: what a task must support for it, such as ONE_LABEL; None: nothing.
    recorded: whether training_args.json keeps it; a run goes on with another value only if `changes.CHANGEABLE` has it.
    idle_for: methods that do not use it, because they make no steps or choose them.
    says_how: whether giving it means a training in steps, see `choose_method`.
    rare: whether only --help_all shows it.
    """

    group: str = ""
    range: tuple[float, float] | None = None
    commands: tuple[str, ...] = (TRAIN, PRETRAIN)
    needs: str | None = None
    recorded: bool = False
    idle_for: tuple[str, ...] = ()
    says_how: bool = False
    rare: bool = False


def flag(default: Any = None, help: str = "", *, choices: Any = None, aliases: Any = None, **facts: Any) -> Any:
    """Return a dataclass field for a flag, to be parsed by `FlagParser`; `facts` are the fields of `Facts`."""
    given = {"choices": choices, "aliases": aliases}
    words = {name: value for name, value in given.items() if value is not None}
    return field(default=default, metadata={"help": help, "facts": Facts(**facts), **words})


def facts_in(group: type) -> dict[str, Facts]:
    """Return the facts of the flags that a dataclass declares with `flag`, by name."""
    return {each.name: each.metadata["facts"] for each in fields(group) if "facts" in each.metadata}


def check_ranges(group: Any, table: Mapping[str, Facts]) -> None:
    """Raise UsageError for a number in a dataclass of flags that is outside its flag's range; NaN is too."""
    for name, facts in table.items():
        value = getattr(group, name, None)
        if facts.range is None or value in (None, getattr(type(group), name, None)):
            continue
        low, high = facts.range
        for each in value if isinstance(value, list) else [value]:
            if not low <= each <= high:
                raise UsageError(f"--{name} {each}: give a number from {low:.10g} to {high:.10g}.")


# Methods that make no training steps; these and the methods that choose their steps.
FITTED, IN_STEPS = ("fitted_head",), ("fitted_head", "search")
