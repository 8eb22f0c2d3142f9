"""`vit-custom benchmark explain`."""

import argparse
from collections.abc import Sequence

import torch

from ..benchmarks.explaining import METHODS, compare, table
from ..common.environment import hardware, versions
from ..common.json_files import write_json
from .options import report_file


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `benchmark explain`; return its exit code."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="vit-custom benchmark explain",
        description="CPU seconds and memory of a map of one image, beside those of a forward.",
        epilog="example: python scripts/benchmark.py explain --shapes ti/16@224 s/16@384",
    )
    shapes = [f"{size}/16@{pixels}" for size in ("ti", "s", "b") for pixels in (224, 384)]
    parser.add_argument("--shapes", nargs="+", default=shapes, metavar="VARIANT@PIXELS", help="random weights")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="default: %(default)s")
    parser.add_argument("--output", type=report_file, metavar="FILE", help="JSON of all rows")
    args = parser.parse_args(argv)
    rows = compare(args.shapes, args.methods)
    print(table(rows))
    if args.output:
        write_json(args.output, {"rows": rows, **versions(), **hardware(torch.device("cpu"))})
    return 0
