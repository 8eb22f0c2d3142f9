"""The same image more than once: under two labels, in two splits, or merely twice.

Shapes: N images of all splits, in the order train, validation, test.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from .findings import ERROR, EXAMPLES, NOTE, SERIOUS_SHARE, SPLITS, WARNING, Catalogue, Example, Finding, finding

ENDS = 4096  # bytes read at each end of a file, before the whole file is read


def group_equal(numbers: Iterable[int], key: Callable[[int], Hashable]) -> list[list[int]]:
    """Return groups of two or more numbers with equal keys."""
    groups = defaultdict(list)
    for i in numbers:
        groups[key(i)].append(i)
    return [group for group in groups.values() if len(group) > 1]


def same_pixels(records: np.ndarray) -> list[list[int]]:
    """Return groups of images that decode to the same pixels, whatever their files are."""
    return group_equal(np.flatnonzero(records["height"] > 0).tolist(), lambda i: records["pixels"][i].tobytes())


def same_bytes(images: Sequence[Any]) -> list[list[int]]:
    """Return groups of equal files, or of equal encoded images, without decoding; others are left out.

    Files are compared by size, then by both ends, then by all of their content, so that few are read whole.
    """
    encoded, files = {}, {}
    for i in range(len(images)):
        source = images[i]
        if isinstance(source, bytes):
            encoded[i] = _digest(source)
        elif isinstance(source, str | os.PathLike):
            files[i] = source
    groups = [list(files)]
    with tqdm(desc="looking for equal files", unit="file", delay=2, leave=False) as bar:

        def tell_apart(by: Callable[[Any], Hashable], i: int) -> Hashable:
            bar.update()
            try:
                return by(files[i])
            except OSError:
                return object()  # equal to no other: decoding will report what is wrong

        for by in (_size, _ends, _whole):
            groups = [equal for group in groups for equal in group_equal(group, partial(tell_apart, by))]
    return groups + group_equal(encoded, encoded.__getitem__)


def _size(path: str | os.PathLike) -> int:
    if not os.path.isfile(path):  # reading a named pipe would wait forever
        raise OSError(f"{path} is no file")
    return os.path.getsize(path)


def _ends(path: str | os.PathLike) -> bytes:
    with open(path, "rb") as file:
        start = file.read(ENDS)
        file.seek(max(0, os.fstat(file.fileno()).st_size - ENDS))
        return _digest(start + file.read(ENDS))


def _whole(path: str | os.PathLike) -> bytes:
    return _digest(Path(path).read_bytes())


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


def duplicate_findings(catalogue: Catalogue, groups: Sequence[Sequence[int]]) -> list[Finding]:
    """Return findings on groups of identical images: label conflicts, leaks between splits and plain repetition.

    groups: the image numbers of each, ascending.
    """
    labels = [len({catalogue.labels[i] for i in group}) for group in groups]
    conflicts = [group for group, several in zip(groups, labels, strict=True) if several > 1]
    several_ratings = not catalogue.targets.named
    found = finding(
        WARNING if several_ratings else ERROR,
        "label-conflict",
        "images that occur more than once, with different labels",
        "Decide which label is right and remove the other copies. If an image has several labels, list it once "
        "with all of them (multi-label).",
        [_group_example(catalogue, group) for group in conflicts],
    )
    leaked = {i for group in groups for i in group if catalogue.leaks_to(i, group[0])}  # the splits are in order
    for position, split in enumerate(SPLITS):
        inside = {i for i in leaked if catalogue.splits[i] == position}
        size = int((catalogue.splits == position).sum())
        found += _leak(catalogue, split, size, inside, [group for group in groups if not inside.isdisjoint(group)])
    repeated = [group for group, n in zip(groups, labels, strict=True) if n == 1 and leaked.isdisjoint(group)]
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
    severity = ERROR if share > SERIOUS_SHARE else WARNING
    title = f"images of {where} ({share:.1%} of {size:,})"
    return [Finding(severity, "leak", title, advice, len(inside), examples[:EXAMPLES])]


def _group_example(catalogue: Catalogue, group: Sequence[int]) -> Example:
    shown = group[:4]
    more = f" … and {len(group) - 4} more" if len(group) > 4 else ""
    return Example(" = ".join(catalogue.text(i) for i in shown) + more, tuple(shown))
