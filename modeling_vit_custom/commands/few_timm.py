"""One timm training of `benchmark few`, or the export of its checkpoint, run in its own process."""

import argparse
import json
import sys
from collections.abc import Sequence

from ..benchmarks.few_timm import export, fine_tune


def main(argv: Sequence[str] | None = None) -> int:
    """Train and print one line of JSON, or export the checkpoint; return 0."""
    parser = argparse.ArgumentParser(prog="few_timm")
    parser.add_argument("what", choices=["train", "export"])
    parser.add_argument("--checkpoint", required=True, metavar="DIR")
    parser.add_argument("--train", metavar="DIR", help="DIR/<class>/<image>")
    parser.add_argument("--test", metavar="DIR", help="the same")
    parser.add_argument("--cpu_seconds", type=float, default=600)
    parser.add_argument("--size", type=int, default=112, metavar="PIXELS")
    parser.add_argument("--output", metavar="DIR")
    args = parser.parse_args(argv)
    if args.what == "export":
        export(args.checkpoint, args.size, args.output)
        return 0
    print(json.dumps(fine_tune(args.train, args.test, args.checkpoint, args.cpu_seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
