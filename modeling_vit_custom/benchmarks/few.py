"""`benchmark few`: few images a class, `train` against what a user of scikit-learn or timm would write.

One row a command, in a process of its own: accuracy on a fixed part of the test images, which it reads once, CPU
seconds of all its processes, wall seconds, and the peak of memory. Nothing is kept from one row for the next; what is
there is in the results, where each row is written as soon as it has run, and is not run again.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..common.environment import hardware, versions
from ..common.errors import DataError
from ..common.json_files import write_json
from ..common.outputs import is_stream
from ..reporting.formatting import wilson_interval
from .few_data import MNIST5K, Parts, draw, read_parts, subset, write_pictures
from .few_methods import DRAWN_OFTEN, METHODS, Job, Ran, accuracy_of, as_typed, export_for_timm, last_lines, run

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


@dataclass(frozen=True)
class Bench:
    """data: name -> its folder.   folder: where rows work.   timm: where the checkpoint for timm is kept.

    size: pixels of the model's input.   test_images: at most, always the same.
    """

    data: dict[str, str]
    checkpoint: str
    timm: Path
    folder: str
    size: int
    test_images: int


def measure(key: Key, parts: Parts, bench: Bench, default: dict[str, Any] | None) -> dict[str, Any]:
    """Draws the images, runs the method, and returns the rest of its row."""
    drawn = draw(parts[0], None if key.images == "all" else int(key.images), key.draw)
    test = subset(parts[1], bench.test_images)
    with tempfile.TemporaryDirectory(dir=bench.folder, prefix="row-") as temporary:
        folder = Path(temporary)
        job = Job(
            key.data, folder / "train", folder / "test", folder / "output", bench.checkpoint, bench.timm, bench.size,
            all(picture.grey for picture in drawn[:: max(1, len(drawn) // LOOKED_AT)]), default,
        )  # fmt: skip
        write_pictures(drawn, job.train)
        write_pictures(test, job.test)
        row: dict[str, Any] = {"train_images": len(drawn), "test_images": len(test)}
        if key.method == "timm" and not bench.timm.exists():
            exported = export_for_timm(bench.checkpoint, bench.size, bench.timm, folder)
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


def benchmark(bench: Bench, wanted: Sequence[Key], results: Results) -> None:
    """Runs the rows that are not there; one line of progress each."""
    began = time.perf_counter()
    for number, key in enumerate(wanted, 1):
        if results.is_done(key):
            continue
        source = bench.data.get(key.data, str(Path(bench.folder) / MNIST5K))
        row = measure(key, read_parts(key.data, source), bench, results.default_of(key))
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
