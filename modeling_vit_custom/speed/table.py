"""The speed table of a checkpoint, what each setting gains and costs: `vit-custom speed_table`.

Every setting classifies the same images, so a difference of accuracy is paired: only images that exactly one of the two
settings gets right count. Its 95 % interval is that of `paired_difference`. Images a second are measured on the model
alone, with all settings timed in turn. They and their ratios hold for the machine they were measured on.

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
from ..data.eval_examples import load_eval_examples
from ..data.examples import Examples
from ..data.source import Columns, Source
from ..inference.forward import PreparedImages, stacked
from ..inference.loading import load_classifier
from ..pretrained_vit_custom import ViTCustomPreTrainedModel
from ..reporting.plots import plot_speeds
from ..speeds_vit_custom import SETTINGS
from ..tasks.registry import task_of
from .options import EXACT_FORMAT, MERGING, SIZES, Option, applied, in_format, options
from .section import write_section

NAMED = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)  # times as fast


def measure(
    model: Any, processor: Any, examples: Examples, tried: Sequence[Option], batch_size: int, seconds: float
) -> list[dict[str, Any]]:
    """Return a row for each option; the first option is the one that the others are compared with.

    seconds: of timing for each option. Raises ValueError for an image that cannot be read, naming it, and if the
    processor gives images of several sizes.
    """
    models = {name: in_format(model, name) for name in dict.fromkeys(option.format_name for option in tried)}
    images = PreparedImages(examples.images, examples.names, processor)
    task = task_of(model.config)

    def batch_of(indices: range) -> torch.Tensor:
        items = images.take(indices)
        if errors := [error for _, _, error in items if error is not None]:
            raise ValueError(errors[0])
        pixels = [pixels for _, pixels, _ in items if pixels is not None]
        if len(sizes := {tuple(one.shape[1:]) for one in pixels}) > 1:
            raise ValueError(f"its processor gives images of several sizes, such as {sorted(sizes)[:2]}: let it crop.")
        return stacked(pixels).to(model.device)

    def answer(option: Option, batch: torch.Tensor) -> np.ndarray:
        own = models[option.format_name]
        with torch.inference_mode(), applied(option, own):
            return own(pixel_values=batch.to(own.dtype))[task.listing.output].float().cpu().numpy()  # waits for a GPU

    first = batch_of(range(min(batch_size, len(images))))
    times = time_in_turn({option: lambda option=option: answer(option, first) for option in tried}, seconds)
    right = np.zeros((len(tried), len(images)), dtype=bool)  # [O, N]
    labels = examples.targets.values
    with tqdm(total=len(images), desc="speed table", unit="img") as bar:
        for start in range(0, len(images), batch_size):
            indices = range(start, min(start + batch_size, len(images)))
            batch = batch_of(indices)
            for row, option in enumerate(tried):
                right[row, indices] = task.score(answer(option, batch), labels[indices]) > 0
            bar.update(len(indices))
    exact = statistics.median(times[tried[0]])
    rows = []
    for option, own in zip(tried, right, strict=True):
        took = statistics.median(times[option])
        rows.append(make_row(option, len(first) / took, exact / took, own, right[0]))
    return rows


def make_row(option: Option, speed: float, ratio: float, right: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    """Return an option's row.   speed: images a second.

    right, exact: [N], which images this option and the exact one get right.
    """
    difference, low, high = paired_difference(right, exact)
    return {
        "name": str(option), **option.settings, "format": option.format_name, "images_per_second": speed,
        "ratio": ratio, "accuracy": float(right.mean()), "difference": difference, "low": low,
        "high": high, "n": len(right),
    }  # fmt: skip


def paired_difference(right: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Return the difference of two accuracies on the same images [N], and its 95 % interval.

    The interval is that of Agresti and Min 2005 ("Simple improved confidence intervals for comparing matched
    proportions", Statistics in Medicine 24): half an image is added to each cell, so that no cell is empty.
    """
    n, gained, lost = len(right), int((right & ~other).sum()), int((~right & other).sum())
    centre, spread = (gained - lost) / (n + 2), gained + lost + 1 - (gained - lost) ** 2 / (n + 2)
    half = 1.96 * math.sqrt(spread) / (n + 2)
    return (gained - lost) / n, centre - half, centre + half


def pareto_front(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the Pareto front, from slow to fast: rows for which no other is at least as fast and as accurate."""
    best: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (-row["ratio"], -row["accuracy"])):
        if not best or row["accuracy"] > best[-1]["accuracy"]:
            best.append(dict(row))
    return best[::-1]


def named_speeds(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return {"2x": the most accurate row at least 2 times as fast, …}, for settings that a configuration can hold.

    A row that fits several names has the fastest of them.
    """
    speeds: dict[str, dict[str, Any]] = {}
    settings = pareto_front([row for row in rows if row["format"] == EXACT_FORMAT])
    for times in NAMED:
        enough = [row for row in settings if row["ratio"] >= times]
        if enough:
            speeds = {name: row for name, row in speeds.items() if row != enough[0]} | {f"{times:g}x": enough[0]}
    return speeds


def store(folder: Path, report: dict[str, Any]) -> None:
    """Write the report with its picture, the named speeds and the card's section into a saved model's folder.

    The named speeds go into config.json. A model without a card gets no section. The report is written last, and names
    the weights that were measured.
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
    data: Source | str,
    token_merging: Sequence[str] = tuple(MERGING),
    sizes: Sequence[float] = SIZES,
    formats: Sequence[str] = ("bfloat16",),
    batch_size: int = 32,
    seconds: float = 2.0,
    max_images: int | None = None,
    columns: Columns = Columns(),
) -> dict[str, Any]:
    """Measure a saved model's speeds on labelled images, store those worth having in its folder, return the report.

    max_images: measure on at most this many images, drawn at random.   data, columns: see `load_eval_examples`.
    Others: as in `options` and `measure`. Raises ValueError for a model whose task does not give each image one label,
    for other libraries' models, and as `measure` does.
    """
    folder = Path(source)
    if not (folder / CONFIG).is_file():
        raise ValueError(
            f"{source} is not a saved model's folder, which the speeds could be stored in; of a Hub model make one by "
            "`hf download REPO --revision COMMIT --local-dir DIR`."
        )
    for name in (SPEEDS, SPEEDS_PICTURE, CONFIG):
        check_replaceable(folder / name)
    model, processor = load_classifier(str(source))
    if not isinstance(model, ViTCustomPreTrainedModel):
        raise ValueError(f"{source} is a {type(model).__name__}: only this package's own models have speeds.")
    task = task_of(model.config)
    if not task.one_label:
        raise ValueError(f"{source} is a {task.name} model: accuracy needs one label an image.")
    model.float()  # EXACT_FORMAT, whichever format it is stored in
    model.config.token_merging = model.config.shrink_to = None
    labels: Any = model.config.id2label
    examples, _ = load_eval_examples(data, labels, task.targets, columns)
    if max_images and max_images < len(examples):
        examples = examples.select(np.random.default_rng(0).permutation(len(examples))[:max_images].tolist())
    tried, impossible = options(model.config, token_merging, sizes, formats)
    for why in impossible:
        print(printable(f"left out: {why}"), file=sys.stderr)
    rows = measure(model, processor, examples, tried, batch_size, seconds)
    report = {
        "rows": rows, "front": [row["name"] for row in pareto_front(rows)], "speeds": named_speeds(rows),
        "batch_size": min(batch_size, len(examples)), **versions(), **hardware(model.device),
    }  # fmt: skip
    store(folder, report)
    return report
