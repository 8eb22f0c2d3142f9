"""`vit-custom benchmark scaling`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from ..benchmarks.peers import LIBRARIES
from ..benchmarks.scaling import compare, draw, table
from ..common.environment import hardware, versions
from ..common.json_files import write_json
from ..inference.loading import FORMATS
from .options import report_file


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `benchmark scaling`; return its exit code."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="vit-custom benchmark scaling",
        description="Time and memory of one image as it grows, ours beside the peers.",
        epilog="example: python scripts/benchmark.py scaling --variant ti/16 --sizes 224 512 1024 --plot scaling.png",
    )
    parser.add_argument("--variant", default="ti/16", help="default: %(default)s")
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 384, 512, 768, 1024], metavar="PIXELS")
    parser.add_argument("--libraries", nargs="+", default=list(LIBRARIES), choices=LIBRARIES)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=FORMATS)
    parser.add_argument("--output", type=report_file, metavar="FILE", help="JSON of all rows")
    parser.add_argument("--plot", type=report_file, metavar="FILE", help="PNG: time and memory against tokens")
    args = parser.parse_args(argv)
    rows = compare(args.libraries, args.variant, args.sizes, args.device, args.dtype)
    print(table(rows))
    if args.output:
        where = {"dtype": args.dtype, **versions(), **hardware(torch.device(args.device))}
        write_json(args.output, {"rows": rows, **where})
    if args.plot:
        draw(rows, Path(args.plot))
    return 0
