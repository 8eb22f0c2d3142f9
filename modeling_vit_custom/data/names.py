"""Class names: their order, which of them are the same, what is allowed in them."""

import re
import unicodedata
from collections.abc import Iterable, Mapping

from ..common.errors import DataError
from ..labels_vit_custom import JOINERS, unsafe_characters


def natural_key(name: str) -> list:
    """Return a sort key that orders numbers in names by value: 1, 2, 10, and cat2 before cat10."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)] + [name]


def natural_sorted(names: Iterable[str]) -> list[str]:
    return sorted(names, key=natural_key)


def canonical_name(name: str) -> str:
    """Return `name` in NFC without surrounding space: names that a reader takes for the same become the same."""
    return unicodedata.normalize("NFC", name).strip()


def in_order(id2label: Mapping[int, str]) -> list[str]:
    """Return the names in the order of their ids."""
    return [name for _, name in sorted(id2label.items())]


def class_name_problems(names: Iterable[str]) -> list[str]:
    """Return a sentence for each name that no label map should hold.

    Such a name is empty, holds control characters or `<>`, or is another spelling of an earlier one: in Unicode form,
    joiners or surrounding space.
    """
    problems = []
    seen: dict[str, str] = {}
    for name in names:
        canonical = canonical_name(name)
        if not canonical:
            problems.append(f"class name {name!r} is empty: give every class a name.")
            continue
        if forbidden := unsafe_characters(name):
            problems.append(
                f"class name {name!r} holds {forbidden[0]!r}: control characters and <> are not allowed in "
                "labels (they end up in web pages and model cards). Rename the class."
            )
        first = seen.setdefault(re.sub(f"[{JOINERS}]", "", canonical), name)
        if first != name:
            problems.append(
                f"class names {first!r} and {name!r} are the same name once Unicode forms, joiners and "
                "surrounding space are normalised. Merge or rename them."
            )
    return problems


def check_class_names(names: Iterable[str]) -> None:
    """Raise DataError with the first of `class_name_problems`."""
    if problems := class_name_problems(names):
        raise DataError(problems[0])
