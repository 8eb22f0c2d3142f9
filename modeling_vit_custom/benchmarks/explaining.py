"""`benchmark explain`: what a map of one image costs beside a forward, each shape in its own process."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

from ..common.allocator import keep_freed_memory, return_freed_memory
from ..configuration_vit_custom import ViTCustomConfig
from ..explanation.explain import explain
from ..modeling_vit_custom import ViTCustomForImageClassification
from ..reporting.markdown import markdown_table
from .peers import Shape
from .usage import forget_peak, peak_memory

FORWARD = "forward"
METHODS = ("libra", "place", "chefer", "legrad")
REPEATS = 5


def measure(shape: Shape, methods: Sequence[str]) -> list[dict[str, Any]]:
    """Measure one image in this process: median CPU seconds of a forward and of each of `methods`, and its memory.

    own_mb is what a run adds to the peak of memory. `explain` also answers the image by a forward before its own;
    nothing is checked or confirmed.
    """
    model = ViTCustomForImageClassification(ViTCustomConfig(**shape.fields)).eval()
    image, rows = torch.randn(1, 3, shape.image, shape.image), []

    def run(method: str) -> None:
        if method != FORWARD:
            explain(model, image, 0, method, check=False, confirm=0)
            return
        with torch.inference_mode():
            model(pixel_values=image)

    for method in (FORWARD, *methods):
        return_freed_memory()
        forget_peak()
        before = peak_memory(children=False)
        run(method)
        after = peak_memory(children=False)
        rows.append(
            {"shape": shape.name, "method": method, "memory_mb": after / 2**20, "own_mb": (after - before) / 2**20}
        )
    keep_freed_memory()  # the timing starts here
    times: dict[str, list[float]] = {method: [] for method in (FORWARD, *methods)}
    for _ in range(1 + REPEATS):
        for method, seconds in times.items():
            began = time.process_time()
            run(method)
            seconds.append(time.process_time() - began)
    return [{**row, "cpu_seconds": statistics.median(times[str(row["method"])][1:])} for row in rows]


def compare(shapes: Sequence[str], methods: Sequence[str]) -> list[dict[str, Any]]:
    """Measure a forward and every method for every shape, each shape in its own process; return one row each."""
    rows: list[dict[str, Any]] = []
    for shape in shapes:
        line = [sys.executable, "-W", "ignore", "-m", __name__, shape, *methods]
        done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True, start_new_session=True)
        rows += json.loads(done.stdout.splitlines()[-1])
        print(table(rows[-1 - len(methods) :]), file=sys.stderr, flush=True)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table of rows of `compare`."""
    forward = {row["shape"]: row["cpu_seconds"] for row in rows if row["method"] == FORWARD}
    cells = []
    for row in rows:
        seconds = row["cpu_seconds"]
        ratio, memory = seconds / forward[row["shape"]], (f"{row[name]:,.0f}" for name in ("memory_mb", "own_mb"))
        cells.append([row["shape"], row["method"], f"{seconds:.3f}", f"{ratio:.1f}", *memory])
    return markdown_table(["model", "method", "CPU s", "of a forward's", "peak MB", "of these its own"], cells)


if __name__ == "__main__":
    print(json.dumps(measure(Shape.of(sys.argv[1]), sys.argv[2:])))
