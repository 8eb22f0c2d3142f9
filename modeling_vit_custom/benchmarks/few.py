"""`benchmark few`: training on few images a class, `train` against baselines with scikit-learn and timm.

Each row is one command in its own process. Measured: accuracy on a fixed part of the test images, which are read once;
CPU seconds of all its processes; wall seconds; and the peak of memory. Rows share no caches. Each row is written to the
results file as soon as it has run; a row that is there is not run again.
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
LOOKED_AT = 200  # at least this many images (or all) are checked for colours
SETTINGS = ("size", "test_images", "checkpoint")


class Key(NamedTuple):
    """Identity of a row.   images: number of each class, or "all"."""

    data: str
    images: int | str
    method: str
    draw: int


def keys(cells: Sequence[tuple[str, list[int | str]]], methods: Sequence[str], draws: int) -> Iterator[Key]:
    """Yield the keys of all rows in the order in which they run: the methods of a draw in turn."""
    for data, counts in cells:
        for images in counts:
            for number in range(draws):
                for method in METHODS:  # in this order `default` precedes the methods that get its time
                    if method in methods and (number == 0 or method in DRAWN_OFTEN):
                        yield Key(data, images, method, number)


class Results:
    """The rows of a results file: existing ones are loaded, each new one is written as soon as it is added."""

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
        """Return the row of `default` for the same images, if it has finished without failing."""
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
    """data: name -> its folder.   folder: working folder of the rows.   timm: folder of the checkpoint for timm.

    size: side of the model's input in pixels.   test_images: maximum number of test images, always the same ones.
    """

    data: dict[str, str]
    checkpoint: str
    timm: Path
    folder: str
    size: int
    test_images: int


def measure(key: Key, parts: Parts, bench: Bench, default: dict[str, Any] | None) -> dict[str, Any]:
    """Draw the images, run the method, and return its row without the key."""
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
            found = accuracy_of(job, ran)
            row |= found | {"interval": wilson_interval(found["accuracy"], len(test))}
        return row | {"threads": os.environ.get("OMP_NUM_THREADS"), **versions(), **hardware(torch.device("cpu"))}


def figures_of(ran: Ran) -> dict[str, Any]:
    """Return the resources that a process used; if it failed, also its exit code and the last lines of stderr."""
    failed = {"failed": ran.code, "stderr": last_lines(ran.stderr)} if ran.code else {}
    return ran.used | failed


def benchmark(bench: Bench, wanted: Sequence[Key], results: Results) -> None:
    """Run the rows that are not in `results` yet; print one line of progress for each."""
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
