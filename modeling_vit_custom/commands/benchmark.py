"""`vit-custom benchmark <what>`: measurements against peers."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from subprocess import CalledProcessError

from ..common.text import printable

BENCHMARKS = ("training", "ablation", "inference", "files", "scaling", "few", "explain")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark that the first argument names.

    Return its exit code: 0 done, 1 a row of it failed, 2 it could not be done as asked, 130 stopped by Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="vit-custom benchmark",
        epilog="benchmark training --help shows its flags. Exit codes: "
        "0 done, 1 a row of it failed, 2 it could not be done as asked, 130 stopped by Ctrl-C.",
    )
    parser.add_argument("what", choices=BENCHMARKS, help="what is measured")
    what = parser.parse_args(arguments[:1]).what
    module = import_module(f".benchmark_{'training' if what == 'ablation' else what}", __package__)
    try:
        return module.main(arguments[1:], **({"ablation": True} if what == "ablation" else {}))
    except (ValueError, OSError, ImportError, CalledProcessError) as error:  # a failed process has printed its reason
        print(printable(f"benchmark {what}: {error}"), file=sys.stderr)
        return 2
