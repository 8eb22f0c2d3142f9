"""`benchmark training` and `ablation`: the contenders train in turn, each in its own process on the same cores.

Measured: images a second while training; CPU seconds and the peak of memory of the whole process, including reading the
data and estimating the number of steps; and the accuracy on the test images, which each training evaluates once, at its
end. Ratios hold for the machine they were measured on.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from ..reporting.markdown import markdown_table
from .contenders import ABLATION, CONTENDERS, Trained, TrainingBudget
from .usage import cpu_seconds, operations_of, peak_memory

PEER = "timm, plain loop"
MEASURED = ("images_per_second", "cpu_seconds", "memory_mb", "accuracy")


def contend(name: str, task: TrainingBudget) -> dict[str, Any]:
    """Train and measure one contender, in this process."""
    before = cpu_seconds()
    trained = (CONTENDERS | ABLATION)[name](task)
    return {
        "contender": name,
        "seed": task.seed,
        "seconds": trained.seconds,
        "images_per_second": trained.images / trained.seconds,
        "cpu_seconds": cpu_seconds() - before,
        "memory_mb": peak_memory() / 2**20,
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "mflops": mflops(trained, task),
        "accuracy": accuracy(trained, task),
    }


def mflops(trained: Trained, task: TrainingBudget) -> float:
    """Return the MFLOPs of a forward pass of one image."""
    image = ImageFolder(str(task.data / "test"), trained.transform)[0][0]
    return operations_of(trained.model.eval(), image[None]) / 1e6


@torch.inference_mode()
def accuracy(trained: Trained, task: TrainingBudget) -> float:
    """Compute the accuracy on the test images."""
    dataset = ImageFolder(str(task.data / "test"), trained.transform)
    model, right = trained.model.eval(), 0
    named = torch.tensor([dataset.class_to_idx[name] for name in trained.classes])
    for pixel_values, labels in DataLoader(dataset, 250):
        right += int((named[model(pixel_values).argmax(1)] == labels).sum())
    return right / len(dataset)


def compare(contenders: Sequence[str], data: str, seconds: float, seeds: int, workers: int) -> list[dict[str, Any]]:
    """Train every contender in turn, seed by seed; return one row for each run.   workers: loading processes."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            for name in contenders:
                own = [name, data, str(seconds), str(seed), str(workers), folder]
                line = [sys.executable, "-W", "ignore", "-m", __name__, "--one", *own]
                done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True, start_new_session=True)
                rows.append(json.loads(done.stdout.splitlines()[-1]))
                print(f"seed {seed}  {one_line(rows[-1])}", file=sys.stderr, flush=True)
    return rows


def one_line(row: dict[str, Any]) -> str:
    return f"{row['contender']:<24} {row['images_per_second']:7.0f} images/s  {row['accuracy']:.2%}"


def table(rows: Sequence[dict[str, Any]], peer: str = PEER) -> str:
    """Return a Markdown table with mean and standard deviation over the seeds.

    The ratio is the speed relative to `peer` with the same seed.
    """
    columns = ["who", "parameters", "MFLOPs", "images/s", f"of {peer}", "CPU s", "peak MB", "accuracy"]
    cells = []
    speeds = {row["seed"]: row["images_per_second"] for row in rows if row["contender"] == peer}
    for name in dict.fromkeys(row["contender"] for row in rows):
        own = [row for row in rows if row["contender"] == name]
        speed, cpu, memory, right = ([row[key] for row in own] for key in MEASURED)
        ratio = [row["images_per_second"] / speeds[row["seed"]] for row in own if row["seed"] in speeds]
        shown = [spread(speed, "{:,.0f}"), spread(ratio, "{:.2f}"), spread(cpu, "{:.0f}"), spread(memory, "{:,.0f}")]
        accuracy = f"{spread([100 * value for value in right], '{:.2f}')} %"
        cells.append([name, f"{own[0]['parameters']:,}", f"{own[0]['mflops']:.1f}", *shown, accuracy])
    return markdown_table(columns, cells)


def spread(values: Sequence[float], form: str) -> str:
    """Return "mean ± standard deviation" in the format `form`; the mean alone for one value."""
    if not values:
        return "–"
    mean = form.format(statistics.mean(values))
    return mean if len(values) == 1 else f"{mean} ± {form.format(statistics.stdev(values))}"


def _one(name: str, data: str, seconds: str, seed: str, workers: str, folder: str) -> None:
    task = TrainingBudget(Path(data), float(seconds), int(seed), int(workers), Path(folder) / f"{name}-{seed}")
    print(json.dumps(contend(name, task)))


if __name__ == "__main__":
    _one(*sys.argv[2:])
