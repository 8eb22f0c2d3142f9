"""`vit-custom benchmark <what>`: measurements against peers."""

import sys
from collections.abc import Sequence

USAGE = "usage: benchmark training [FLAGS]      (benchmark training --help shows them)"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark that the first argument names."""
    from . import training

    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] != ["training"]:
        print(USAGE, file=sys.stdout if arguments[:1] in (["-h"], ["--help"]) else sys.stderr)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    return training.main(arguments[1:])
