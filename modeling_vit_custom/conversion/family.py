"""Descriptions of a source checkpoint, of a family of checkpoints, and of the settings that convert one to ours."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from .engine import ConversionError, State, Table


@dataclass(frozen=True)
class Source:
    """A checkpoint as it was read.

    state: its tensors under their canonical names.   config, processor: its own settings, empty if it has none.
    flags: configuration fields that the user gave because the source does not state them.
    """

    origin: str
    state: State
    config: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """Settings that tensors do not show: configuration fields, image processor settings, and a note for each guess."""

    fields: dict[str, Any]
    processor: dict[str, Any]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Family:
    """A family of checkpoints, recognised by its tensors' names.

    present: patterns that must all match a name.   absent: patterns that must not match any name.
    settings: (source, its tensors under our names) → the settings that do not follow from the tensors.
    """

    name: str
    present: tuple[str, ...]
    absent: tuple[str, ...]
    table: Table
    settings: Callable[[Source, State], Settings]

    def matches(self, state: State) -> bool:
        return not self.lacks(state)

    def lacks(self, state: State) -> str:
        """Return in words which patterns rule these names out; "" if none does."""

        def occurs(pattern: str) -> bool:
            return any(fnmatchcase(name, pattern) for name in state)

        missing = [f"no {pattern!r}" for pattern in self.present if not occurs(pattern)]
        return ", ".join(missing + [f"there is {pattern!r}" for pattern in self.absent if occurs(pattern)])


def detect(families: list[Family], state: State) -> Family:
    """Return the one family that matches these names. Raises ConversionError if none or several match."""
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
    """Return (our fields, notes) from a source's config.

    names: our field → the name there.   defaults: documented values for fields that are not there; each one used gets a
    note.
    """
    fields = {ours: config[theirs] for ours, theirs in names.items() if config.get(theirs) is not None}
    assumed = {ours: value for ours, value in defaults.items() if ours not in fields}
    notes = [f"{name}={value}: the default of {whose}, the source does not say" for name, value in assumed.items()]
    return fields | assumed, notes
