"""`vit-custom benchmark <what>`: measurements against peers."""

import argparse
import sys
from collections.abc import Sequence

BENCHMARKS = ("training", "ablation", "inference", "files", "scaling", "few")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark that the first argument names."""
    from . import few, files, inference, scaling, training

    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="benchmark", epilog="benchmark training --help shows its flags.")
    parser.add_argument("what", choices=BENCHMARKS, help="what is measured")
    what = parser.parse_args(arguments[:1]).what
    if what in ("training", "ablation"):
        return training.main(arguments[1:], ablation=what == "ablation")
    return {"inference": inference, "files": files, "scaling": scaling, "few": few}[what].main(arguments[1:])
