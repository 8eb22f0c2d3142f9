"""Messages for a command that is stopped from outside: by Ctrl-C, or by the loss of a loading process."""

import sys

from .text import printable

STOPPED = 130  # exit code that shells use for Ctrl-C


def stopped(command: str, kept: str = "nothing was written") -> int:
    """Print that Ctrl-C has stopped a command, and what it left; return the exit code."""
    print(printable(f"{command}: stopped; {kept}."), file=sys.stderr)
    return STOPPED


def lost_loader(error: RuntimeError, flag: str) -> str | None:
    """Return the message for a killed DataLoader process; None for another error.   flag: sets how many there are."""
    if "DataLoader worker" not in str(error):
        return None
    first = str(error).splitlines()[0].strip(" .")
    return f"a loading process is gone ({first}), perhaps for lack of memory: give a smaller --{flag}, or 0 for none."
