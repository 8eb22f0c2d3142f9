"""`benchmark few`: few images a class, `train` against what a user of scikit-learn or timm would write.

One row a command, in a process of its own: accuracy on a fixed part of the test images, which it reads once, CPU
seconds of all its processes, wall seconds, and the peak of memory. Nothing is kept from one row for the next; what is
there is in the results, where each row is written as soon as it has run, and is not run again.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers.utils import SAFE_WEIGHTS_NAME

from ..data.raw import DataError
from ..evaluation.figures import wilson_interval
from ..inference.claims import sha256_of
from ..inference.environment import hardware, versions
from ..inference.json_files import write_json
from ..inference.outputs import is_stream, report_file
from .few_data import MNIST5K, Parts, draw, read_parts, subset, write_pictures
from .few_methods import DRAWN_OFTEN, METHODS, Job, Ran, accuracy_of, as_typed, export_for_timm, last_lines, run
from .few_table import table

ROWS = ["cifar10:5,25,100,500", "fashion_mnist:10,170", "bccd:25", "mnist5k:10"]
LOOKED_AT = 200  # images, for colours
SETTINGS = ("size", "test_images", "checkpoint")


class Key(NamedTuple):
    """What one row is about. images: of each class, or "all"."""

    data: str
    images: int | str
    method: str
    draw: int


def keys(cells: Sequence[tuple[str, list[int | str]]], methods: Sequence[str], draws: int) -> Iterator[Key]:
    """All rows in the order in which they run: the methods of a draw in turn."""
    for data, counts in cells:
        for images in counts:
            for number in range(draws):
                for method in METHODS:  # `default` before those that are given its time
                    if method in methods and (number == 0 or method in DRAWN_OFTEN):
                        yield Key(data, images, method, number)


class Results:
    """The rows of a results file: those that were there, and each new one as soon as it is added."""

    def __init__(self, path: str | None, settings: dict[str, Any]):
        self.path, self.settings = path, settings
        self.rows: dict[Key, dict[str, Any]] = {}
        if path is not None and Path(path).is_file() and not is_stream(path):
            there = json.loads(Path(path).read_text(encoding="utf-8"))
            if other := [name for name in SETTINGS if there[name] != settings[name]]:
                raise DataError(f"{path} holds rows of another {', '.join(other)}: name another file, or remove it.")
            self.rows = {key_of(row): row for row in there["rows"]}

    def is_done(self, key: Key) -> bool:
        return key in self.rows and "failed" not in self.rows[key]

    def default_of(self, key: Key) -> dict[str, Any] | None:
        """The row of `default` for the same images, if it has run to its end."""
        default = key._replace(method="default")
        return self.rows[default] if self.is_done(default) else None

    def add(self, key: Key, row: dict[str, Any]) -> None:
        self.rows.pop(key, None)
        self.rows[key] = key._asdict() | row
        if self.path is not None and not is_stream(self.path):
            self.write(self.path)

    def write(self, path: str) -> None:
        write_json(path, {"rows": list(self.rows.values()), **self.settings})


def key_of(row: dict[str, Any]) -> Key:
    return Key(*(row[name] for name in Key._fields))


def measure(key: Key, parts: Parts, args: argparse.Namespace, default: dict[str, Any] | None) -> dict[str, Any]:
    """Draws the images, runs the method, and returns the rest of its row."""
    drawn = draw(parts[0], None if key.images == "all" else int(key.images), key.draw)
    test = subset(parts[1], args.test_images)
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="row-") as temporary:
        folder = Path(temporary)
        job = Job(
            key.data, folder / "train", folder / "test", folder / "output", args.checkpoint, args.timm, args.size,
            all(picture.grey for picture in drawn[:: max(1, len(drawn) // LOOKED_AT)]), default,
        )  # fmt: skip
        write_pictures(drawn, job.train)
        write_pictures(test, job.test)
        row: dict[str, Any] = {"train_images": len(drawn), "test_images": len(test)}
        if key.method == "timm" and not args.timm.exists():
            exported = export_for_timm(args.checkpoint, args.size, args.timm, folder)
            if exported.code:
                return row | figures_of(exported)
        command = METHODS[key.method](job)
        ran = run(command, folder)
        row |= {"command": as_typed(command), **figures_of(ran)}
        if ran.code == 0:
            told = accuracy_of(job, ran)
            row |= told | {"interval": wilson_interval(told["accuracy"], len(test))}
        return row | {"threads": os.environ.get("OMP_NUM_THREADS"), **versions(), **hardware(torch.device("cpu"))}


def figures_of(ran: Ran) -> dict[str, Any]:
    """What a process used; of one that failed its exit code and last words too."""
    failed = {"failed": ran.code, "stderr": last_lines(ran.stderr)} if ran.code else {}
    return ran.used | failed


def benchmark(args: argparse.Namespace, results: Results) -> None:
    """Runs the rows that are not there; one line of progress each."""
    began = time.perf_counter()
    wanted = list(keys(args.rows, args.methods, args.draws))
    for number, key in enumerate(wanted, 1):
        if results.is_done(key):
            continue
        source = args.data.get(key.data, str(Path(args.folder) / MNIST5K))
        row = measure(key, read_parts(key.data, source), args, results.default_of(key))
        results.add(key, row)
        end = (
            f"failed ({row['failed']}): {' '.join(row['stderr'][-1:])}" if "failed" in row else f"{row['accuracy']:.2%}"
        )
        name = f"{key.data} {key.images} {key.method} draw {key.draw}"
        said = f"{name:<45} {end}  {row['cpu_seconds']:.0f} CPU s, {row['memory_mb']:,.0f} MB"
        print(
            f"{number}/{len(wanted)}  {(time.perf_counter() - began) / 60:6.1f} min  {said}",
            file=sys.stderr,
            flush=True,
        )


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
        prog="benchmark few",
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
    """The command `benchmark few`; 1 where a row failed."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.table:
        print(table(json.loads(Path(args.table).read_text(encoding="utf-8"))["rows"], list(METHODS)))
        return 0
    args.data = dict(args.data)
    if args.checkpoint is None:
        parser.error("--checkpoint: name a folder of ours, made by convert.")
    if lost := [name for name, _ in args.rows if name not in {*args.data, MNIST5K}]:
        parser.error(f"--rows {lost[0]}: name its folder by --data {lost[0]}=FOLDER.")
    args.checkpoint = str(Path(args.checkpoint).resolve())
    if not (file := Path(args.checkpoint) / SAFE_WEIGHTS_NAME).is_file():
        parser.error(f"--checkpoint {args.checkpoint}: no folder with {file.name}.")
    weights = sha256_of(file)
    checkpoint = {"name": Path(args.checkpoint).name, "sha256": weights}
    try:
        results = Results(args.output, {"size": args.size, "test_images": args.test_images, "checkpoint": checkpoint})
        with tempfile.TemporaryDirectory() as temporary:
            args.folder = str(Path(args.folder or temporary).resolve())
            Path(args.folder).mkdir(parents=True, exist_ok=True)
            args.timm = Path(args.folder) / f"timm-{weights[:12]}-{args.size}"
            benchmark(args, results)
    except DataError as error:
        parser.error(str(error))
    rows = list(results.rows.values())
    print(table(rows, list(METHODS)))
    if args.output and is_stream(args.output):
        results.write(args.output)
    return int(any("failed" in row for row in rows))
