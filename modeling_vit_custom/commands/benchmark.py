"""`vit-custom benchmark <what>`: measurements against peers."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

BENCHMARKS = ("training", "ablation", "inference", "files", "scaling", "few")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark that the first argument names."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="benchmark", epilog="benchmark training --help shows its flags.")
    parser.add_argument("what", choices=BENCHMARKS, help="what is measured")
    what = parser.parse_args(arguments[:1]).what
    module = import_module(f".benchmark_{'training' if what == 'ablation' else what}", __package__)
    return module.main(arguments[1:], **({"ablation": True} if what == "ablation" else {}))
