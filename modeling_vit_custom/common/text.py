"""Text that a terminal, a log or a page may show."""

import unicodedata
from collections.abc import Sequence
from typing import Any


def printable(text: object) -> str:
    r"""`text` as a terminal or a log may show it: what would steer or disguise the line, as \x1b does, is spelt out."""
    return "".join(
        character.encode("unicode_escape").decode()
        if character != "\n" and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else character
        for character in str(text)
    )


def visible(text: object) -> str:
    """`text` for one line of a terminal, a log or a page: file names cannot steer or break it."""
    return printable(text).replace("\n", "\\n")


def listed(items: Sequence[Any], limit: int = 20) -> str:
    """`items` as one readable list; beyond `limit` the rest is counted, not dropped unsaid."""
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} … and {len(items) - limit} more"
