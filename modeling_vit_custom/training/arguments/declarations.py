"""What is declared of a flag, once; tables of flags are derived from it in `tables`."""

from dataclasses import dataclass, field, fields
from typing import Any

TRAIN, PRETRAIN = "train", "pretrain"
MANY = 1_000_000_000


@dataclass(frozen=True)
class Facts:
    """What is known of a flag beside its name, type, default and help.

    group: its heading in --help.   range: lowest and highest value.   commands: that have it.
    needs: what a task has to support for it, such as ONE_LABEL; None where it is for all.
    recorded: whether training_args.json keeps it, and another value refuses to go on with a run.
    idle_for: methods that have no use for it, because they make or choose the steps.
    says_how: whether who gives it has a training in steps in mind, see `choose_method`.
    """

    group: str = ""
    range: tuple[float, float] | None = None
    commands: tuple[str, ...] = (TRAIN, PRETRAIN)
    needs: str | None = None
    recorded: bool = False
    idle_for: tuple[str, ...] = ()
    says_how: bool = False


def flag(default: Any = None, help: str = "", *, choices: Any = None, aliases: Any = None, **facts: Any) -> Any:
    """Return a dataclass field for a flag, to be parsed by `FlagParser`; `facts` are those of `Facts`."""
    given = {"choices": choices, "aliases": aliases}
    words = {name: value for name, value in given.items() if value is not None}
    return field(default=default, metadata={"help": help, "facts": Facts(**facts), **words})


def facts_in(group: type) -> dict[str, Facts]:
    """Return the facts of each flag that a dataclass itself declares, by name."""
    return {each.name: each.metadata["facts"] for each in fields(group) if "facts" in each.metadata}


FITTED, IN_STEPS = ("fitted_head",), ("fitted_head", "search")  # methods that make no steps; or choose them
