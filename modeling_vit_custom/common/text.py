"""Text that a terminal, a log or a page may show."""

import unicodedata


def steers(character: str) -> bool:
    """Return whether a character would steer or disguise the line that it stands in, or is no text at all."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: object, keep: str = "\n") -> str:
    r"""Return `text` fit for a terminal or a log: what would steer or disguise the line, as \x1b does, is spelt out.

    keep: characters that are left as they are.
    """
    return "".join(
        character.encode("unicode_escape").decode() if character not in keep and steers(character) else character
        for character in str(text)
    )


def visible(text: object) -> str:
    """Return `text` for one line of a terminal, a log or a page: file names cannot steer or break it."""
    return printable(text).replace("\n", "\\n")
