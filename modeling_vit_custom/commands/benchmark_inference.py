"""`vit-custom benchmark inference`."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

from ..benchmarks.cold_start import cold_starts
from ..benchmarks.inference import EXACT_MODE, cold_table, compare, table
from ..benchmarks.peers import LIBRARIES, Shape
from ..common.environment import hardware, versions
from ..common.json_files import write_json
from ..common.outputs import is_stream
from ..engines.registry import ENGINES
from ..inference.loading import FORMATS
from .options import report_file


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `benchmark inference`; return its exit code."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="vit-custom benchmark inference",
        description="Times one model as ours, transformers, timm and torchvision build it, in turn.",
        epilog="example: python scripts/benchmark.py inference --shapes ti/16@224 --batches 1 16 --output i.json",
    )
    parser.add_argument("--shapes", nargs="+", default=["ti/16@224", "s/16@224", "b/16@224"], metavar="VARIANT@PIXELS")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64], metavar="N")
    parser.add_argument(
        "--engines", nargs="+", default=["eager", "compiled", EXACT_MODE], choices=[*ENGINES, EXACT_MODE]
    )
    parser.add_argument("--libraries", nargs="+", default=list(LIBRARIES), choices=LIBRARIES)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=FORMATS)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each library and engine (%(default)s)")
    parser.add_argument("--cold", action="store_true", help="also time the start of a new process")
    parser.add_argument("--output", type=report_file, metavar="FILE", help="JSON of all rows")
    args = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    starts: list[dict[str, Any]] = []
    for shape in map(Shape.of, args.shapes):
        for batch in args.batches:
            now = compare(shape, batch, args.engines, args.libraries, args.seconds, args.device, args.dtype)
            print(table(now), file=sys.stderr, flush=True)
            rows += now
            if not is_stream(args.output or ""):
                report(args, rows, starts)
        starts += cold_starts(shape, args.libraries) if args.cold else []
    report(args, rows, starts)
    print(table(rows))
    if starts:
        print(cold_table(starts))
    return 0


def report(args: argparse.Namespace, rows: Sequence[dict[str, Any]], starts: Sequence[dict[str, Any]]) -> None:
    """Write the rows measured so far to the file of `--output`, if it is given."""
    if args.output:
        where = {"dtype": args.dtype, **versions(), **hardware(torch.device(args.device))}
        write_json(args.output, {"rows": rows, "cold": starts, **where})
