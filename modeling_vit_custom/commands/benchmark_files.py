"""`vit-custom benchmark files`."""

import argparse
from collections.abc import Sequence
from typing import Any

from ..benchmarks.files import compare, table
from ..benchmarks.peers import Shape
from ..common.environment import hardware, versions
from ..common.json_files import write_json
from ..inference.loading import default_device
from .options import report_file


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `benchmark files`; return its exit code."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="vit-custom benchmark files",
        description="Image files to answers: predict against transformers' ViT in its pipeline.",
        epilog="example: python scripts/benchmark.py files --images photos --shapes ti/16@224 s/16@224",
    )
    parser.add_argument("--images", required=True, metavar="DIR", help="a folder of image files")
    parser.add_argument("--shapes", nargs="+", default=["ti/16@224", "s/16@224"], metavar="VARIANT@PIXELS")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--fast", action="store_true", help="by the fastest exact engine, chosen before")
    parser.add_argument("--num_workers", type=int, default=0, help="of predict")
    parser.add_argument("--output", type=report_file, metavar="FILE", help="JSON of all rows")
    args = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    for shape in map(Shape.of, args.shapes):
        rows += compare(shape, args.images, args.batch_size, {"num_workers": args.num_workers, "fast": args.fast})
    print(table(rows))
    if args.output:
        write_json(args.output, {"rows": rows, **versions(), **hardware(default_device())})
    return 0
