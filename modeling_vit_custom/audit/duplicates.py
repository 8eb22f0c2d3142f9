"""The same image more than once: under two labels, in two splits, or merely twice.

Shapes: N images of all splits, in the order train, validation, test.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from ..data.examples import REGRESSION
from .findings import ERROR, EXAMPLES, NOTE, SPLITS, WARNING, Catalogue, Example, Finding, finding

LEAK_SHARE = 0.01  # of a split: above, its figures are wrong in the digits that are usually given
ENDS = 4096  # bytes read of each end of a file before all of it is


def group_equal(numbers: Iterable[int], key: Callable[[int], Hashable]) -> list[list[int]]:
    """The numbers of equal key together, where there are two or more."""
    groups = defaultdict(list)
    for i in numbers:
        groups[key(i)].append(i)
    return [group for group in groups.values() if len(group) > 1]


def same_pixels(records: np.ndarray) -> list[list[int]]:
    """Groups of images that decode to the same pixels, whatever their files are."""
    return group_equal(np.flatnonzero(records["height"] > 0).tolist(), lambda i: records["pixels"][i].tobytes())


def same_bytes(images: Sequence[Any]) -> list[list[int]]:
    """Groups of equal files, without decoding: by size, then by both ends, then by all of it.

    Images that are neither files nor bytes are left out, and so are files that cannot be read.
    """
    groups = [list(range(len(images)))]
    for key in (_size, _ends, _whole):
        groups = [
            equal
            for group in groups
            for equal in group_equal(group, lambda i, key=key: _of_file(images[i], key, fallback=i))  # type: ignore[misc]
        ]
    return groups


def _of_file(source: Any, key: Callable[[Any], Hashable], fallback: int) -> Hashable:
    if not isinstance(source, str | os.PathLike | bytes):
        return ("no file", fallback)
    try:
        return key(source)
    except OSError:
        return ("unreadable", fallback)


def _size(source: Any) -> int:
    return len(source) if isinstance(source, bytes) else os.stat(source).st_size


def _ends(source: Any) -> bytes:
    if isinstance(source, bytes):
        return blake2b(source[:ENDS] + source[-ENDS:], digest_size=16).digest()
    with open(source, "rb") as file:
        start = file.read(ENDS)
        file.seek(max(0, os.fstat(file.fileno()).st_size - ENDS))
        return blake2b(start + file.read(ENDS), digest_size=16).digest()


def _whole(source: Any) -> bytes:
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    return blake2b(data, digest_size=16).digest()


def duplicate_findings(catalogue: Catalogue, groups: Sequence[Sequence[int]]) -> list[Finding]:
    """Label conflicts, leaks between splits and plain repetition among groups of identical images."""
    conflicts = [group for group in groups if len({catalogue.labels[i] for i in group}) > 1]
    several_ratings = catalogue.problem_type == REGRESSION
    found = finding(
        WARNING if several_ratings else ERROR,
        "label-conflict",
        "images that occur more than once, with different labels",
        "Decide which label is right and remove the other copies. If an image has several labels, list it once "
        "with all of them (multi-label).",
        [_group_example(catalogue, group) for group in conflicts],
    )
    leaked = {i for group in groups for i in group if any(catalogue.gives_away(i, j) for j in group)}
    for position, split in enumerate(SPLITS):
        inside = {i for i in leaked if catalogue.splits[i] == position}
        size = int((catalogue.splits == position).sum())
        found += _leak(catalogue, split, size, inside, [group for group in groups if inside & set(group)])
    repeated = [group for group in groups if group not in conflicts and not leaked & set(group)]
    found += finding(
        NOTE,
        "repeats",
        "images that occur more than once in one split",
        "Remove the copies, unless these images are meant to count more.",
        [_group_example(catalogue, group) for group in repeated],
    )
    return found


def _leak(catalogue: Catalogue, split: str, size: int, inside: set[int], groups: list[list[int]]) -> list[Finding]:
    if not inside:
        return []
    share = len(inside) / size
    into_itself = split == "train"
    where = (
        "train that repeat others there, and validation will be drawn from it"
        if into_itself
        else f"{split} that also lie in another split"
    )
    examples = [_group_example(catalogue, group) for group in groups]
    advice = "Figures would be too good. Remove the copies" + (
        ", or supply a validation split." if into_itself else f" from {split} or from the other."
    )
    severity = ERROR if share > LEAK_SHARE else WARNING
    title = f"images of {where} ({share:.1%} of {size:,})"
    return [Finding(severity, "leak", title, advice, len(inside), examples[:EXAMPLES])]


def _group_example(catalogue: Catalogue, group: Sequence[int]) -> Example:
    shown = group[:4]
    more = f" … and {len(group) - 4} more" if len(group) > 4 else ""
    return Example(" = ".join(catalogue.text(i) for i in shown) + more, tuple(shown))
