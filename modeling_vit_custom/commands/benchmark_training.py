"""`vit-custom benchmark training` and `vit-custom benchmark ablation`."""

import argparse
from collections.abc import Sequence

import torch

from ..benchmarks.contenders import ABLATION, CONTENDERS, RECIPE
from ..benchmarks.training import PEER, compare, table
from ..common.environment import hardware, versions
from ..common.json_files import write_json
from .options import report_file


def main(argv: Sequence[str] | None = None, ablation: bool = False) -> int:
    """Run the command `benchmark training`, or `benchmark ablation`; return its exit code."""
    what, contenders, peer = ("ablation", ABLATION, RECIPE) if ablation else ("training", CONTENDERS, PEER)
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=f"vit-custom benchmark {what}",
        description=f"Trains alternately: {', '.join(contenders)}.",
        epilog=f"example: python scripts/benchmark.py {what} --data fashion --seconds 120 --seeds 3 --output b.json",
    )
    parser.add_argument("--data", required=True, help="a folder with train/<class>/… and test/<class>/…")
    parser.add_argument("--seconds", type=float, default=300, help="of training for each, wall clock (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="how many (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="loading processes of the plain loops (%(default)s)")
    parser.add_argument("--contenders", nargs="+", default=list(contenders), choices=contenders, metavar="NAME")
    parser.add_argument("--output", type=report_file, help="JSON of all rows")
    args = parser.parse_args(argv)
    rows = compare(args.contenders, args.data, args.seconds, args.seeds, args.workers)
    print(table(rows, peer))
    if args.output:
        report = {"rows": rows, "seconds": args.seconds, **versions(), **hardware(torch.device("cpu"))}
        write_json(args.output, report)
    return 0
