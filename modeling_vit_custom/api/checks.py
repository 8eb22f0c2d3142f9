"""Argument checks that run before any work; the commands make the same ones."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..common.errors import UsageError
from ..common.outputs import check_replaceable, is_stream
from ..data.source import MEASURED_ON, Columns, Source
from ..tasks.registry import PROBLEM_TYPES


def one_of(flag: str, value: Any, known: Collection[Any]) -> None:
    """Check that `value` is among `known`. Raises UsageError otherwise."""
    if value not in known:
        raise UsageError(f"--{flag} {value}: give one of {', '.join(map(str, known))}.")


def named_once(**names: str | Path | None) -> str | Path:
    """Return the one value given for a parameter with several names. Raises UsageError if none is given, or two are."""
    given = {name: value for name, value in names.items() if value is not None}
    flag = f"--{next(iter(names))}"
    if not given:
        raise UsageError(f"{flag} is missing: name one.")
    if len(given) > 1:
        raise UsageError(f"{flag} is given twice, {' and '.join(map(str, given.values()))}: give it once.")
    return next(iter(given.values()))


def measured_source(
    data_dir: str | Path | None,
    dataset_name: str | None,
    dataset_config_name: str | None,
    dataset_revision: str | None,
    split: str | None,
    follow_links: bool,
) -> Source:
    """Return the `Source` that these flags name. Raises UsageError for a split of another name than the three."""
    one_of("split", split, (None, *MEASURED_ON))
    return Source(
        data_dir,
        dataset_name=dataset_name,
        dataset_config_name=dataset_config_name,
        dataset_revision=dataset_revision,
        split=split,
        follow_links=follow_links,
    )


def named_columns(image: str, label: str, separator: str, problem_type: str | None) -> Columns:
    """Return the `Columns` that these flags name. Raises UsageError for a problem_type that is no task's."""
    one_of("problem_type", problem_type, (None, *PROBLEM_TYPES))
    return Columns(image, label, separator, problem_type)


def at_least_one(flag: str, value: int) -> None:
    """Check that `value` is 1 or more. Raises UsageError otherwise."""
    if value < 1:
        raise UsageError(f"--{flag} is {value}; give 1 or more.")


def check_report(path: str | Path) -> None:
    """Check that a report can be written to `path`. Raises OutputError otherwise."""
    if not is_stream(path):
        check_replaceable(path)
