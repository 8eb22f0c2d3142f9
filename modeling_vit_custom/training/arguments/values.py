"""Values of flags: given as Python values, or listed inside one flag's text."""

import os
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from numbers import Number
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import yaml

from ...common.errors import UsageError


def flag_value(value: Any, flag: Any, hint: Any) -> Any:
    """Return the value of a flag, given in Python, as the command line would read it. Raises UsageError.

    flag: argparse's action.   hint: the type of its field.
    None and mappings, which no command line can express, are accepted if the hint allows them. A single value is
    accepted as a list of one. Numbers, bools, paths and texts are read as their text on a command line: valid values do
    not change, and values that the command line would refuse are refused.
    """
    name = f"--{flag.dest}"
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = {get_origin(part) or part for part in parts}
    if value is None and NoneType in kinds:
        return None
    if isinstance(value, Mapping) and dict in kinds:
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes) and (list in kinds or flag.nargs == "+"):
        return [_one(name, each, flag) for each in value]
    one = _one(name, value, flag)
    return [one] if flag.nargs == "+" else one


def _one(name: str, value: Any, flag: Any) -> Any:
    plain = value.value if isinstance(value, Enum) else os.fspath(value) if isinstance(value, os.PathLike) else value
    wanted = f"give one of {', '.join(map(str, flag.choices))}" if flag.choices else "give another value"
    if not isinstance(plain, str | Number):  # a bool is a number
        raise UsageError(f"{name} {value} is of type {type(value).__name__}: {wanted}, or leave it out.")
    try:
        read = (flag.type or str)(str(plain))
    except Exception as error:  # argparse raises a class of its own
        raise UsageError(f"{name} {value}: {error}; {wanted}.") from error
    if flag.choices and read not in flag.choices:
        raise UsageError(f"{name} {value}: {wanted}.")
    return read


def field_values(text: str | None, flag: str) -> dict[str, Any]:
    """Return {"pooling": "map", "image_size": [32, 48]} for "pooling=map,image_size=[32,48]". Raises UsageError."""
    values = {}
    for part in re.split(r",(?![^\[]*\])", text) if text else []:
        name, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"{flag}: {part!r} is not name=value.")
        values[name.strip()] = yaml.safe_load(value)
    return values
