"""Strict, readable JSON: no NaN, no half-written file, one line per table row. Reading is as strict as writing."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..weight_files_vit_custom import parse_strict_json
from .outputs import write_whole

MAX_JSON_BYTES = 16 * 1024**2


def json_safe(value: Any) -> Any:
    """Return `value` with numpy converted to Python, and NaN and infinity to None."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return json_safe(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [json_safe(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def readable_json(value: Any, pad: str = "") -> str:
    """Return indented JSON in which a list or dict of plain values stays on one line.

    Raises ValueError for NaN and infinity, which are not JSON.
    """
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    if not any(isinstance(item, dict | list) for item in items):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    inner = pad + "  "
    if isinstance(value, dict):
        lines = [f"{json.dumps(key, ensure_ascii=False)}: {readable_json(v, inner)}" for key, v in value.items()]
    else:
        lines = [readable_json(item, inner) for item in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{inner}" + f",\n{inner}".join(lines) + f"\n{pad}{closing}"


def write_json(path: str | os.PathLike, value: Any) -> Path:
    """Write `readable_json(json_safe(value))` with `write_whole`; return the path."""
    return write_whole(path, readable_json(json_safe(value)) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file. Raises ValueError for NaN, repeated keys, other content, and a huge file."""
    if (size := path.stat().st_size) > MAX_JSON_BYTES:
        raise ValueError(f"{path.name} has {size:,} bytes: JSON of more than {MAX_JSON_BYTES:,} is not read.")
    return parse_strict_json(path.read_bytes(), path.name)
