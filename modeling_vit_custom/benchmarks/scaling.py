"""`benchmark scaling`: time and memory of one image for growing image sizes, ours and peers, each in its own process.

The table shows the FLOPs counted while the model runs, and those by the formula of its matrix products
(`Shape.products`); our last block needs fewer of these products.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..common.allocator import keep_freed_memory, return_freed_memory
from ..common.timing import finished
from ..inference.loading import FORMATS
from ..reporting.markdown import markdown_table
from ..reporting.plots import plot_lines
from .peers import LIBRARIES, Shape
from .usage import forget_peak, operations_of, peak_memory

REPEATS = 5


def measure(library: str, shape: Shape, device: str, dtype: str) -> dict[str, Any]:
    """Measure one image in this process: seconds of a forward, the peak of memory, FLOPs.

    The memory is that of the process; on a GPU, the GPU memory that torch allocated, without that of kernel libraries.
    """
    return_freed_memory()
    where: dict[str, Any] = {"device": device, "dtype": FORMATS[dtype]}
    model, image = LIBRARIES[library](shape).eval().to(**where), torch.randn(1, 3, shape.image, shape.image, **where)
    forget_peak()
    before = torch.cuda.memory_allocated() if image.is_cuda else peak_memory(children=False)
    times = []
    with torch.inference_mode():
        model(image)
        after = torch.cuda.max_memory_allocated() if image.is_cuda else peak_memory(children=False)
        keep_freed_memory()  # the timing starts here
        model(image)
        for _ in range(REPEATS):
            finished()
            began = time.perf_counter()
            model(image)
            finished()
            times.append(time.perf_counter() - began)
    return {
        "library": library, "shape": shape.name, "tokens": shape.tokens, "seconds": statistics.median(times),
        "memory_mb": after / 2**20, "forward_mb": (after - before) / 2**20,
        "gflops": operations_of(model, image) / 1e9, "formula_gflops": shape.operations(1) / 1e9,
    }  # fmt: skip


def compare(
    libraries: Sequence[str], variant: str, sizes: Sequence[int], device: str, dtype: str
) -> list[dict[str, Any]]:
    """Measure every size and library, each in its own process; return one row each and print progress."""
    rows = []
    for size in sizes:
        for library in libraries:
            line = [sys.executable, "-W", "ignore", "-m", __name__, library, f"{variant}@{size}", device, dtype]
            done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True, start_new_session=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    columns = ["model", "tokens", "library", "ms", "peak MB", "of a forward, MB", "GFLOPs counted", "by formula"]
    return markdown_table(
        columns,
        [
            [row["shape"], row["tokens"], row["library"], f"{1e3 * row['seconds']:,.0f}", f"{row['memory_mb']:,.0f}",
             f"{row['forward_mb']:,.0f}", f"{row['gflops']:.2f}", f"{row['formula_gflops']:.2f}"]
            for row in rows
        ],
    )  # fmt: skip


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    libraries = list(dict.fromkeys(row["library"] for row in rows))

    def curve(library: str, key: str) -> tuple[list[float], list[float]]:
        own = [row for row in rows if row["library"] == library]
        return [row["tokens"] for row in own], [row[key] for row in own]

    panels = {
        title: {library: curve(library, key) for library in libraries}
        for title, key in (("seconds an image", "seconds"), ("memory of a forward, MB", "forward_mb"))
    }
    plot_lines(panels, "tokens", path)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Shape.of(sys.argv[2]), *sys.argv[3:])))
