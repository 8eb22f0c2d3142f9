"""The images that a command line names: files, folders, patterns, and names on standard input."""

import os
import sys
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path

from ..data.folders import IMAGE_SUFFIXES, names_below, unread_sentence, walk_files
from ..data.names import natural_sorted

STANDARD = "-"  # standard input among inputs, standard output as an output


def expanded(inputs: Sequence[str]) -> Iterator[str]:
    """Yield the inputs, with patterns such as photos/*.jpg replaced by what they match, and "-" by the names it reads.

    A file or folder of that very name comes first. What matches nothing stays as it is: its line says that it is
    missing. Names on standard input, one a line, are never patterns. Raises ValueError if these are no names.
    """
    for given in inputs:
        if given == STANDARD:
            yield from _names_on_standard_input()
        elif has_magic(given) and not os.path.lexists(given):
            yield from natural_sorted(glob(given, recursive=True)) or [given]
        else:
            yield given


def _names_on_standard_input() -> list[str]:
    read = sys.stdin.buffer.read()
    if b"\0" in read:
        raise ValueError("standard input holds bytes that no file name has: give it file names, one a line.")
    return [os.fsdecode(line) for line in read.splitlines() if line.strip()]


def find_images(inputs: Sequence[str], follow_links: bool = False) -> tuple[list[str], list[str]]:
    """Return (paths, notes): given files as they are, and all images below given folders, in natural order.

    inputs: files and folders, and what `expanded` makes files and folders of.

    A file's name decides whether it is an image, even if nothing here can decode it (HEIC). Its line then reports that,
    and a note counts such files as training does. Raises ValueError if there are no images.
    """
    found: list[str] = []
    notes = []
    named = list(expanded(list(map(str, inputs))))
    alone = [given for given in named if not Path(given).is_dir()]
    for given in named:
        if not Path(given).is_dir():
            found.append(given)
            continue
        inside = walk_files(given, follow_links)
        images = [
            path
            for path in inside
            if path.suffix.lower() in IMAGE_SUFFIXES
            and not any(part.startswith(".") for part in path.relative_to(given).parts)
        ]
        if other := len(inside) - len(images):
            notes.append(f"{given}: {other} of {len(inside)} files are hidden or no images by name, passed over")
        if unread := unread_sentence(names_below(images, Path(given))):
            notes.append(f"{given}: {unread}")
        found += map(str, images)
    if unread := unread_sentence(alone):
        notes.append(unread)
    paths = list(dict.fromkeys(found))
    if len(paths) < len(found):
        notes.append(f"{len(found) - len(paths)} images were named more than once and are predicted once")
    if not paths:
        where = ["standard input" if given == STANDARD else str(given) for given in inputs]
        raise ValueError(f"no images in {', '.join(where)}; give image files or folders of them.")
    return paths, notes
