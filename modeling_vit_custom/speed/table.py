"""The speed table of a checkpoint: `vit-custom speed_table`. What each setting gains, and what it costs.

Every setting classifies the same images, so that a difference of accuracy is one of pairs: of n images, those that only
one of the two gets right decide. Its 95 % interval is that of a mean of n differences. Images a second are of the model
alone, all settings timed in turn; they, and their ratios, hold for the machine they were measured on.

Shapes: B batch, N images, O options.
"""

import json
import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..common.claims import write_stamped
from ..common.environment import hardware, versions
from ..common.json_files import write_json
from ..common.model_files import CARD, CONFIG, SPEEDS, SPEEDS_PICTURE
from ..common.outputs import check_replaceable
from ..common.text import printable
from ..common.timing import time_in_turn
from ..data.examples import Examples
from ..data.source import Columns
from ..data.sources import load_eval_examples
from ..inference.forward import PreparedImages, stacked
from ..inference.loading import load_classifier
from ..modeling_vit_custom import ViTCustomForImageClassification
from ..reporting.plots import plot_speeds
from ..speeds_vit_custom import SETTINGS
from ..tasks.registry import task_of
from ..tasks.task import ONE_LABEL
from .options import EXACT_FORMAT, MERGING, SIZES, Option, applied, in_format, options
from .section import write_section

NAMED = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)  # times as fast


def measure(
    model: Any, processor: Any, examples: Examples, tried: Sequence[Option], batch_size: int, seconds: float
) -> list[dict[str, Any]]:
    """One row for each option, the first of which is what the others are compared with.

    seconds: of timing for each. Raises ValueError, naming it, for an image that cannot be read.
    """
    models = {form: in_format(model, form) for form in dict.fromkeys(option.form for option in tried)}
    images = PreparedImages(examples.images, examples.names, processor)

    def batch_of(indices: range) -> torch.Tensor:
        items = images.take(indices)
        if errors := [error for _, _, error in items if error is not None]:
            raise ValueError(errors[0])
        pixels = [pixels for _, pixels, _ in items if pixels is not None]
        if len(sizes := {tuple(one.shape[1:]) for one in pixels}) > 1:
            raise ValueError(f"its processor gives images of several sizes, such as {sorted(sizes)[:2]}: let it crop.")
        return stacked(pixels).to(model.device)

    def answer(option: Option, batch: torch.Tensor) -> torch.Tensor:
        own = models[option.form]
        with torch.inference_mode(), applied(option, own):
            return own(pixel_values=batch.to(own.dtype)).logits.argmax(1).cpu()  # waits for a GPU

    first = batch_of(range(min(batch_size, len(images))))
    times = time_in_turn({option: lambda option=option: answer(option, first) for option in tried}, seconds)
    right = np.zeros((len(tried), len(images)), dtype=bool)  # [O, N]
    labels = torch.as_tensor(np.asarray(examples.labels))
    with tqdm(total=len(images), desc="speed table", unit="img") as bar:
        for start in range(0, len(images), batch_size):
            indices = range(start, min(start + batch_size, len(images)))
            batch = batch_of(indices)
            for row, option in enumerate(tried):
                right[row, indices] = (answer(option, batch) == labels[indices]).numpy()
            bar.update(len(indices))
    exact = statistics.median(times[tried[0]])
    rows = []
    for option, own in zip(tried, right, strict=True):
        took = statistics.median(times[option])
        rows.append(row_of(option, len(first) / took, exact / took, own, right[0]))
    return rows


def row_of(option: Option, speed: float, ratio: float, right: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    """speed: images a second.   right, exact: [N], which images this option and the exact one get right."""
    difference, low, high = paired_difference(right, exact)
    return {
        "name": str(option), **option.settings, "format": option.form, "images_per_second": speed, "ratio": ratio,
        "accuracy": float(right.mean()), "difference": difference, "low": low, "high": high, "n": len(right),
    }  # fmt: skip


def paired_difference(right: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """The difference of two accuracies on the same images [N], and its 95 % interval.

    The interval is that of Agresti and Min 2005 ("Simple improved confidence intervals for comparing matched
    proportions", Statistics in Medicine 24): half an image is added to each cell, so that it is never empty.
    """
    n, gained, lost = len(right), int((right & ~other).sum()), int((~right & other).sum())
    centre, spread = (gained - lost) / (n + 2), gained + lost + 1 - (gained - lost) ** 2 / (n + 2)
    half = 1.96 * math.sqrt(spread) / (n + 2)
    return (gained - lost) / n, centre - half, centre + half


def front(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows than which none is both faster and at least as accurate, from slow to fast."""
    best: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (-row["ratio"], -row["accuracy"])):
        if not best or row["accuracy"] > best[-1]["accuracy"]:
            best.append(dict(row))
    return best[::-1]


def named_speeds(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """{"2x": the most accurate row at least so fast, …} of settings that a configuration can hold.

    A row that is so for several names has the last of them.
    """
    speeds: dict[str, dict[str, Any]] = {}
    settings = front([row for row in rows if row["format"] == EXACT_FORMAT])
    for times in NAMED:
        enough = [row for row in settings if row["ratio"] >= times]
        if enough:
            speeds = {name: row for name, row in speeds.items() if row != enough[0]} | {f"{times:g}x": enough[0]}
    return speeds


def store(folder: Path, report: dict[str, Any]) -> None:
    """Into a saved model's folder: the report, the named speeds in config.json, a section of the card if it has one.

    The report is written after the others, and names the weights that were measured.
    """
    plot_speeds(report, folder / SPEEDS_PICTURE)
    path = folder / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config["speeds"] = {
        name: {field: row[field] for field in SETTINGS} for name, row in report["speeds"].items()
    } or None
    write_json(path, config)
    write_section(folder / CARD, report)
    write_stamped(folder / SPEEDS, report, [SPEEDS_PICTURE])


def make_table(
    source: str | os.PathLike,
    data_dir: str,
    token_merging: Sequence[str] = tuple(MERGING),
    sizes: Sequence[float] = SIZES,
    formats: Sequence[str] = ("bfloat16",),
    batch_size: int = 32,
    seconds: float = 2.0,
    max_images: int | None = None,
    columns: Columns = Columns(),
    follow_links: bool = False,
) -> dict[str, Any]:
    """Measures a saved model's speeds on labelled images, stores those worth having in its folder, returns the report.

    max_images: measures on so many of them, drawn at random.   columns, follow_links: see `load_eval_examples`.
    Others: as of `options` and `measure`. Raises ValueError for a model without classes to choose among, and for what
    `measure` refuses.
    """
    folder = Path(source)
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{source} is not a saved model's folder, which the speeds could be stored in.")
    for name in (SPEEDS, SPEEDS_PICTURE, CONFIG):
        check_replaceable(folder / name)
    model, processor = load_classifier(str(source))
    if not isinstance(model, ViTCustomForImageClassification):
        raise ValueError(f"{source} is a {type(model).__name__}: only this package's own models have speeds.")
    task = task_of(model.config)
    if ONE_LABEL not in task.supports:
        raise ValueError(f"{source} is a {task.name} model: accuracy needs one label an image.")
    model.float()  # EXACT_FORMAT, whatever it is stored in
    model.config.token_merging = model.config.shrink_to = None
    labels: Any = model.config.id2label
    examples = load_eval_examples(data_dir, labels, task.name, columns, follow_links)
    if max_images and max_images < len(examples):
        examples = examples.select(np.random.default_rng(0).permutation(len(examples))[:max_images].tolist())
    tried, impossible = options(model.config, token_merging, sizes, formats)
    for why in impossible:
        print(printable(f"left out: {why}"), file=sys.stderr)
    rows = measure(model, processor, examples, tried, batch_size, seconds)
    report = {
        "rows": rows, "front": [row["name"] for row in front(rows)], "speeds": named_speeds(rows),
        "batch_size": min(batch_size, len(examples)), **versions(), **hardware(model.device),
    }  # fmt: skip
    store(folder, report)
    return report
