"""`benchmark inference`: the same model built by four libraries, timed in turn, in one process, on the same cores.

Measured: images a second, the median and the 99th percentile of a batch's time, and FLOPs a second as a share of the
rate of the model's own matrix products, which are timed between the contenders; see also `cold_start`. Ratios hold for
the machine they were measured on.

Shapes: B batch.
"""

import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..common.allocator import keep_freed_memory
from ..common.timing import time_in_turn
from ..engines.exported import InferenceFn
from ..engines.fastest import choose
from ..engines.registry import build_engine, installed_engines
from ..inference.loading import FORMATS
from ..reporting.markdown import markdown_table
from .peers import LIBRARIES, Shape
from .usage import operations_of

AGREED = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}  # allowed difference of logits, relative to the largest
PRODUCTS = "its own matrix products"
EXACT_MODE = "exact mode"  # the engine that `predict --fast` chooses


def compare(
    shape: Shape,
    batch: int,
    engines: Sequence[str],
    libraries: Sequence[str],
    seconds: float,
    device: str = "cpu",
    dtype: str = "float32",
) -> list[dict[str, Any]]:
    """Time every engine and library in turn, in several rounds; return one row for each.

    A combination that cannot run gets the row {"not_run": reason}.
    """
    keep_freed_memory()  # the same allocator settings for every library
    torch.manual_seed(0)
    where: dict[str, Any] = {"device": device, "dtype": FORMATS[dtype]}
    images = torch.randn(batch, 3, shape.image, shape.image, **where)
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    rows: list[dict[str, Any]] = []
    operations: dict[str, int] = {}
    memory: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for library in libraries:
            own = engines if library == "ours" else [engine for engine in engines if engine != EXACT_MODE]
            try:
                model = LIBRARIES[library](shape).eval().to(**where)
            except ImportError as error:
                keys = {"shape": shape.name, "batch": batch, "library": library, "not_run": format_error(error)}
                rows += [keys | {"engine": engine} for engine in own]
                continue
            operations[library] = operations_of(model, images[:1])
            for engine in own:
                key = {"shape": shape.name, "batch": batch, "engine": engine, "library": library}
                try:
                    name, run = ready(engine, model, images, Path(folder) / f"{library}-{engine}")
                    with torch.inference_mode():
                        answers = run(images)  # compiles, if the engine does
                except Exception as error:  # one failing engine must not stop the others
                    rows.append(key | {"not_run": format_error(error)})
                    continue
                with torch.inference_mode():
                    check_answers(answers, model(images), AGREED[dtype])
                calls[name, library] = partial(run, images)
                if images.is_cuda:
                    memory[name, library] = memory_of(calls[name, library])
        calls[PRODUCTS, ""] = products(shape, images)
        with torch.inference_mode():
            times = time_in_turn(calls, seconds)
    rate = shape.operations(batch) / statistics.median(times.pop((PRODUCTS, "")))
    return [
        row(shape, batch, *key, samples, batch * operations[key[1]], rate) | {"batch_mb": memory.get(key)}
        for key, samples in times.items()
    ] + rows


def memory_of(call: Callable[[], Any]) -> float:
    """Return the MB of GPU memory that a call adds at its peak; a recorded graph has its memory already."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        call()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def format_error(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}" if str(error) else type(error).__name__


def ready(engine: str, model: Any, images: torch.Tensor, folder: Path) -> tuple[str, InferenceFn]:
    """Build an engine; return (its name, for the exact mode with the chosen engine; its call)."""
    if engine != EXACT_MODE:
        return engine, build_engine(engine, model, images, folder)
    if images.dtype != torch.float32:
        raise RuntimeError("for float32 alone")
    rates, runs, _ = choose(model.model, images, installed_engines(images.device.type), folder, limit=math.inf)
    way = next(iter(rates))
    return f"{EXACT_MODE}: {way}", runs[way]


def check_answers(given: torch.Tensor, expected: torch.Tensor, agreed: float) -> None:
    """Raise RuntimeError if the logits differ from the eager model's: a comparison would be meaningless."""
    apart = float((given - expected).abs().max() / expected.abs().max())
    if not apart < agreed:
        raise RuntimeError(f"the answers differ by {apart:.1e} of the largest: nothing would be compared.")


def row(
    shape: Shape, batch: int, engine: str, library: str, samples: list[float], operations: int, rate: float
) -> dict[str, Any]:
    """Build a row of results.

    samples: seconds of each batch.   operations: FLOPs of a batch.   rate: FLOPs a second of the matrix products.
    """
    middle = statistics.median(samples)
    return {
        "shape": shape.name, "batch": batch, "engine": engine, "library": library,
        "images_per_second": batch / middle, "p50_ms": 1e3 * middle,
        "p99_ms": 1e3 * sorted(samples)[min(len(samples) - 1, int(0.99 * len(samples)))], "samples": len(samples),
        "gflops_per_second": operations / middle / 1e9, "share_of_products": operations / middle / rate,
    }  # fmt: skip


def products(shape: Shape, images: torch.Tensor) -> Callable[[], None]:
    """Return a function that computes only the model's matrix products, of random numbers."""
    options: dict[str, Any] = {"device": images.device, "dtype": images.dtype}
    pairs = [
        (count, torch.randn(a, **options), torch.randn(b, **options)) for count, a, b in shape.products(len(images))
    ]

    def run() -> None:
        for count, a, b in pairs:
            for _ in range(count):
                a @ b

    return run


# ---------- the command


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table.

    Ratios are to the fastest other library with the same engine; those of the exact mode are to eager.
    """
    columns = ["model", "batch", "engine", "library", "images/s", "of the fastest peer", "p50 ms", "p99 ms"]
    cells = []
    for one in rows:
        who = [one["shape"], one["batch"], one["engine"], one["library"]]
        if "not_run" in one:
            cells.append([*who, f"not run: {one['not_run']}", "", "", "", "", ""])
            continue
        engine = "eager" if one["engine"].startswith(EXACT_MODE) else one["engine"]
        same = [other for other in rows if (other["shape"], other["batch"]) == (one["shape"], one["batch"])]
        peers = [
            other["images_per_second"]
            for other in same
            if other["library"] != "ours" and other["engine"] == engine and "not_run" not in other
        ]
        ratio = f"{one['images_per_second'] / max(peers):.2f}" if peers else "–"
        times = [f"{one['p50_ms']:.1f}", f"{one['p99_ms']:.1f}"]
        used = f"{one['batch_mb']:,.0f}" if one.get("batch_mb") is not None else "–"
        cells.append([*who, f"{one['images_per_second']:.1f}", ratio, *times, f"{one['share_of_products']:.0%}", used])
    return markdown_table([*columns, "of its products", "MB of a batch (GPU)"], cells)


def cold_table(rows: Sequence[dict[str, Any]]) -> str:
    return markdown_table(
        ["model", "library", "start to first answer, s", "peak MB"],
        [[one["shape"], one["library"], f"{one['cold_seconds']:.2f}", one["memory_mb"]] for one in rows],
    )
