"""`vit-custom benchmark few`."""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..benchmarks.few import ROWS, Bench, Results, benchmark, keys
from ..benchmarks.few_data import MNIST5K
from ..benchmarks.few_methods import DRAWN_OFTEN, METHODS
from ..benchmarks.few_table import table
from ..common.claims import sha256_of
from ..common.errors import DataError
from ..common.model_files import WEIGHTS
from ..common.outputs import is_stream
from .options import report_file


def _source(text: str) -> tuple[str, str]:
    name, equals, source = text.partition("=")
    if not (name and equals and source):
        raise argparse.ArgumentTypeError(f"{text}: not NAME=FOLDER")
    return name, source


def _cells(text: str) -> tuple[str, list[int | str]]:
    name, _, counts = text.partition(":")
    words = counts.split(",")
    if not all(word == "all" or (word.isdecimal() and int(word) > 0) for word in words):
        raise argparse.ArgumentTypeError(f"{text}: not NAME:COUNT,…, each a number of images a class or all")
    return name, [word if word == "all" else int(word) for word in words]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="vit-custom benchmark few",
        description=f"Few images a class: {', '.join(METHODS)}.",
        epilog="example: python scripts/benchmark.py few --data cifar10=cifar10 --rows cifar10:5,25 "
        "--checkpoint outputs/dinov2 --output few.json; then: python scripts/benchmark.py few --table few.json",
    )
    parser.add_argument(
        "--data", nargs="+", type=_source, default=[], metavar="NAME=FOLDER",
        help="cifar10 (Parquet), fashion_mnist (idx files), bccd (Pascal VOC), or any name for a folder with "
        "train/<class>/… and test/<class>/…; mnist5k needs none",
    )  # fmt: skip
    rows = [_cells(text) for text in ROWS]
    parser.add_argument(
        "--rows", nargs="+", type=_cells, default=rows, metavar="NAME:COUNT,…",
        help=f"images a class, or all; a class that has fewer gives all ({' '.join(ROWS)})",
    )  # fmt: skip
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="NAME")
    parser.add_argument(
        "--draws", type=int, default=3, help=f"of images for {', '.join(DRAWN_OFTEN)}; the others: 1 (%(default)s)"
    )
    parser.add_argument("--size", type=int, default=112, metavar="PIXELS", help="of the model's input (%(default)s)")
    parser.add_argument("--test_images", type=int, default=2000, help="at most, always the same (%(default)s)")
    parser.add_argument("--checkpoint", metavar="DIR", help="a folder of ours, as convert writes it")
    parser.add_argument("--folder", metavar="DIR", help="where rows work, and what can be kept is; default: temporary")
    parser.add_argument("--output", type=report_file, metavar="FILE", help="JSON of all rows; those in it stay")
    parser.add_argument("--table", metavar="FILE", help="only print the table of such a file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `benchmark few`; return 1 if a row failed, else 0."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.table:
        print(table(json.loads(Path(args.table).read_text(encoding="utf-8"))["rows"], list(METHODS)))
        return 0
    data = dict(args.data)
    if args.checkpoint is None:
        parser.error("--checkpoint: name a folder of ours, made by convert.")
    if lost := [name for name, _ in args.rows if name not in {*data, MNIST5K}]:
        parser.error(f"--rows {lost[0]}: name its folder by --data {lost[0]}=FOLDER.")
    checkpoint = Path(args.checkpoint).resolve()
    if not (file := checkpoint / WEIGHTS).is_file():
        parser.error(f"--checkpoint {checkpoint}: no folder with {file.name}.")
    weights = sha256_of(file)
    settings = {"size": args.size, "test_images": args.test_images}
    try:
        results = Results(args.output, settings | {"checkpoint": {"name": checkpoint.name, "sha256": weights}})
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(args.folder or temporary).resolve()
            folder.mkdir(parents=True, exist_ok=True)
            kept = folder / f"timm-{weights[:12]}-{args.size}"
            bench = Bench(data, str(checkpoint), kept, str(folder), **settings)
            benchmark(bench, list(keys(args.rows, args.methods, args.draws)), results)
    except DataError as error:
        parser.error(str(error))
    rows = list(results.rows.values())
    print(table(rows, list(METHODS)))
    if args.output and is_stream(args.output):
        results.write(args.output)
    return int(any("failed" in row for row in rows))
