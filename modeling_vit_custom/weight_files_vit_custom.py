"""The header of a safetensors file, checked before it is trusted.

A file is 8 bytes n (little-endian), n bytes of JSON `{name: {"dtype", "shape", "data_offsets"}}`, then the tensors
without gaps. Only that JSON is read here.
"""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

Header = dict[str, tuple[str, tuple[int, ...]]]

# The largest model that the configuration allows has 512 blocks of 18 tensors; its header is 1.2 MB.
MAX_TENSORS = 10_000
MAX_HEADER_BYTES = 2_000_000
_MAX_DIMENSIONS = 16
_MAX_SIDE = 2**48
_NAME = re.compile(r"[!-~]{1,256}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")
BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E4M3FNUZ": 8, "F8_E5M2": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


class WeightFileError(ValueError):
    """A weight file that must not be read; the message names the file, the error and the fix."""


def read_header(path: str | os.PathLike) -> Header:
    """Read {tensor name: (dtype, shape)} of a safetensors file, in the order of its data, but no tensor.

    Raises WeightFileError unless the header is small, strict JSON in which each name occurs once and the tensors
    fill the file exactly. Raises OSError if the file cannot be opened.
    """
    path = Path(path)
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            _refuse(path, f"its header claims {length:,} bytes of a file of {size:,}")
        if length > MAX_HEADER_BYTES:
            _refuse(path, f"its header has {length:,} bytes, more than {MAX_HEADER_BYTES:,}")
        header = parse_strict_json(file.read(length), path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse(path, "its __metadata__ must map strings to strings")
    if len(header) > MAX_TENSORS:
        _refuse(path, f"it names {len(header):,} tensors, more than {MAX_TENSORS:,}")
    entries = sorted((_entry(path, name, fields) for name, fields in header.items()), key=lambda entry: entry[0])
    end = 0
    for (start, stop), name, _, _ in entries:
        if start != end:
            _refuse(path, f"tensor {name!r} begins at byte {start:,}, the one before ends at {end:,}")
        end = stop
    if end != size - 8 - length:
        _refuse(path, f"its tensors end at byte {end:,} of {size - 8 - length:,}")
    return {name: (dtype, shape) for _, name, dtype, shape in entries}


def read_headers(paths: list[str] | list[Path]) -> Header:
    """Read the headers of all files of one checkpoint and merge them.

    Raises WeightFileError also for a tensor that two files hold, and for a file that is a link out of its folder.
    """
    merged: Header = {}
    for path in map(Path, paths):
        _check_within(path.parent, path)
        header = read_header(path)
        if twice := sorted(merged.keys() & header.keys()):
            _refuse(path, f"tensor {twice[0]!r} is in another file of the checkpoint as well")
        merged |= header
        if len(merged) > MAX_TENSORS:
            _refuse(path, f"with the files before, it makes more than {MAX_TENSORS:,} tensors")
    return merged


def check_weight_map(weight_map: Any, source: str | os.PathLike) -> None:
    """Raise WeightFileError unless an index, {tensor name: file name}, names only safetensors files of its folder."""
    if not isinstance(weight_map, dict):
        _refuse(source, "the weight_map of its index is no object")
    for name, file in weight_map.items():
        if not isinstance(file, str) or not _FILE_NAME.fullmatch(file):
            _refuse(source, f"its index says that {name!r} is in {file!r}, which is no safetensors file of its folder")


def check_shapes(header: Header | str | os.PathLike, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise WeightFileError, naming tensors, unless a file or header has exactly the expected names and shapes."""
    stored = header if isinstance(header, dict) else read_header(header)
    source = "the checkpoint" if isinstance(header, dict) else header
    differences = {
        "missing": sorted(expected.keys() - stored.keys()),
        "not of this model": sorted(stored.keys() - expected.keys()),
        "of another shape": [
            f"{name} stored {stored[name][1]}, needed {tuple(shape)}"
            for name, shape in expected.items()
            if name in stored and stored[name][1] != tuple(shape)
        ],
    }
    if any(differences.values()):
        _refuse(source, "; ".join(f"{what}: {shorten_list(names)}" for what, names in differences.items() if names))


def _check_within(folder: Path, path: Path) -> None:
    """Raise WeightFileError if `path` is a link that leads out of `folder`.

    In the cache of the Hub, the files of a snapshot are links to blobs of the same repository, which count as inside.
    """
    home = folder.resolve()
    home = next((parent.parent for parent in home.parents if parent.name == "snapshots"), home)
    if not path.resolve().is_relative_to(home):
        _refuse(path, f"it is a link that leads out of {folder}; put the file itself there")


def parse_strict_json(data: bytes, path: str | os.PathLike) -> dict[str, Any]:
    """Return the JSON object `data`. Raises WeightFileError for repeated keys, NaN, deep nesting and any non-object."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        _refuse(path, f"it is no strict JSON ({error})")
    if not isinstance(value, dict):
        _refuse(path, "its JSON is no object")
    return value


def shorten_list(items: Sequence[Any], limit: int = 10, separator: str = ", ") -> str:
    """Return the first items as text, and how many more there are."""
    rest = f" and {len(items) - limit:,} more" if len(items) > limit else ""
    return separator.join(map(str, items[:limit])) + rest


def _entry(path: Path, name: str, fields: Any) -> tuple[tuple[int, int], str, str, tuple[int, ...]]:
    """((first byte, end), name, dtype, shape) of one tensor."""
    if not _NAME.fullmatch(name):
        _refuse(path, f"tensor name {name[:64]!r} is not made of 1 to 256 printable characters")
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"tensor {name!r} must have dtype, shape and data_offsets, nothing else")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        _refuse(path, f"tensor {name!r} has the unknown dtype {dtype!r}")
    if not _sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        _refuse(path, f"tensor {name!r} has the impossible shape {str(shape)[:64]}")
    if not _sizes(offsets) or len(offsets) != 2:
        _refuse(path, f"tensor {name!r} has the impossible data_offsets {str(offsets)[:64]}")
    if math.prod(shape) * BITS[dtype] != (offsets[1] - offsets[0]) * 8:
        _refuse(path, f"tensor {name!r}, {dtype} {shape}, does not fill its bytes {offsets[0]:,} to {offsets[1]:,}")
    return (offsets[0], offsets[1]), name, dtype, tuple(shape)


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= _MAX_SIDE for n in value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        name, count = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {name[:64]!r} occurs {count} times")
    return fields


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _refuse(path: Any, what: str) -> NoReturn:
    raise WeightFileError(f"{path}: {what}. Do not use this file: get it again from its author.")
