"""Values inside one flag's text."""

import re
from typing import Any

import yaml

from ...common.errors import UsageError


def field_values(text: str | None, flag: str) -> dict[str, Any]:
    """{"pooling": "map", "image_size": [32, 48]} from "pooling=map,image_size=[32,48]"; raises UsageError."""
    values = {}
    for part in re.split(r",(?![^\[]*\])", text) if text else []:
        name, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"{flag}: {part!r} is not name=value.")
        values[name.strip()] = yaml.safe_load(value)
    return values
