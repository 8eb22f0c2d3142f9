"""What is known of a source, of a family of models, and of the plan that leads from one to ours."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from .engine import ConversionError, State, Table


@dataclass(frozen=True)
class Source:
    """A checkpoint as it was found.

    state: its tensors under their canonical names.   config, processor: its own settings, empty where it has none.
    flags: configuration fields the user gave, for what a source cannot say.
    """

    origin: str
    state: State
    config: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """What tensors do not tell: configuration fields, image processor settings, and a sentence for each guess."""

    fields: dict[str, Any]
    processor: dict[str, Any]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Family:
    """A family of checkpoints, known by its tensors' names.

    present: patterns that all occur in it.   absent: patterns of which none does.
    settings: from the source, and its tensors under our names, to what the tensors do not tell.
    """

    name: str
    present: tuple[str, ...]
    absent: tuple[str, ...]
    table: Table
    settings: Callable[[Source, State], Settings]

    def matches(self, state: State) -> bool:
        return not self.lacks(state)

    def lacks(self, state: State) -> str:
        """Which patterns rule these names out, in words; "" where none does."""

        def occurs(pattern: str) -> bool:
            return any(fnmatchcase(name, pattern) for name in state)

        missing = [f"no {pattern!r}" for pattern in self.present if not occurs(pattern)]
        return ", ".join(missing + [f"there is {pattern!r}" for pattern in self.absent if occurs(pattern)])


def detect(families: list[Family], state: State) -> Family:
    """The one family these names belong to. Raises ConversionError where it is none or several."""
    found = [family for family in families if family.matches(state)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(family.name for family in found or families)
    what = "belong to several families" if found else "belong to no known family"
    raise ConversionError(
        f"the tensors' names {what}: {names}. They begin with {', '.join(sorted(state)[:5])}. --family names one."
    )


def resolve(
    config: Mapping[str, Any], names: Mapping[str, str], defaults: Mapping[str, Any], whose: str
) -> tuple[dict[str, Any], list[str]]:
    """(our fields, notes): each from the source's config under `names`, else the documented default, which is said."""
    fields = {ours: config[theirs] for ours, theirs in names.items() if config.get(theirs) is not None}
    assumed = {ours: value for ours, value in defaults.items() if ours not in fields}
    notes = [f"{name}={value}: the default of {whose}, the source does not say" for name, value in assumed.items()]
    return fields | assumed, notes
