"""What a classifier decides by on a data set, where that is not the object: found by evidence, accused by intervention.

Shapes: N images, h×w grid of patches.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...common.errors import UsageError
from ...common.json_files import write_json
from ...common.model_names import named_model
from ...common.outputs import check_private, check_replaceable
from ...data.eval_examples import load_eval_examples, named
from ...data.examples import Examples
from ...data.source import Columns, Source
from ...inference.loading import load_classifier
from ...tasks.registry import task_of
from .boxes import Boxes, off_object, read_boxes
from .clusters import cluster
from .evidence import Answering, collect, drawn_rows
from .page import write_page
from .report import ShortcutReport
from .suspicions import FEWEST, class_maps
from .trials import try_all

PER_CLASS = 200  # images of a label that are looked at


def find_shortcuts(
    model: str,
    source: Source | str | Path,
    output: str | os.PathLike | None = None,
    *,
    columns: Columns = Columns(),
    boxes: str | os.PathLike | None = None,
    per_class: int = PER_CLASS,
    batch_size: int = 32,
    seed: int = 0,
    trust_remote_code: bool = False,
    revision: str | None = None,
    progress: bool = True,
) -> ShortcutReport:
    """Look for shortcuts of a saved classifier on labelled images, and write a page and its figures as JSON.

    model: a saved folder, a Hub id or ID@REVISION, of a task with one label an image.   source, columns: as for
    `load_eval_examples`.   output: an HTML file; the figures go beside it as .json. None writes nothing.
    boxes: a CSV file, see `read_boxes`.   per_class: at most so many images of each label are drawn, by `seed`.

    Raises OutputError for an output in a model's folder: the page shows the images. Raises UsageError for a model of
    another task; DataError for images, labels or boxes that cannot be read.
    """
    page = None if output is None else _checked_output(output)
    name, revision = named_model(model, revision)
    net, processor = load_classifier(name, trust_remote_code, revision=revision, listing=None)
    _check_task(net)
    config: Any = net.config
    examples, split = load_eval_examples(source, config.id2label, task_of(config).targets, columns)
    facts = {
        "model": name,
        "revision": revision,
        **named(source if isinstance(source, Source) else Source(source)),
        **({} if split is None else {"split": split}),
    }
    given = None if boxes is None else read_boxes(boxes)
    report = look_for_shortcuts(net, processor, examples, given, per_class, batch_size, seed, progress, facts)
    if page is not None:
        write_page(page, report, processor)
        write_json(page.with_suffix(".json"), report.record())
    return report


def look_for_shortcuts(
    model: Any,
    processor: Any,
    examples: Examples,
    boxes: Boxes | None = None,
    per_class: int = PER_CLASS,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> ShortcutReport:
    """Look for shortcuts of a loaded model.   examples: labelled with its class ids.   Others as `find_shortcuts`."""
    _check_task(model)
    if per_class < FEWEST:
        raise UsageError(
            f"per_class={per_class}: nothing is said of fewer than {FEWEST} images, give at least so many."
        )
    began = time.perf_counter()
    examples = examples.select(drawn_rows(np.asarray(examples.targets.values), per_class, seed).tolist())
    evidence = collect(model, processor, examples, batch_size, progress)
    off = None if boxes is None else off_object(evidence, examples.names, boxes, processor)
    maps = class_maps(evidence, off)
    answering = Answering(model, batch_size)
    tried = try_all(evidence, maps, off, answering, seed, progress)
    names = model.config.id2label
    clusters = [cluster(one.target, one.images, evidence.shares[one.images], seed) for one in maps]
    counts = np.bincount(evidence.predicted, minlength=len(names))
    known = {one.target for one in maps}
    return ShortcutReport(
        [trial for trial in tried if trial.accused],
        [trial for trial in tried if not trial.accused],
        maps,
        {names[place]: int(count) for place, count in enumerate(counts) if place not in known},
        [one for one in clusters if one is not None],
        names,
        evidence,
        {"seed": seed, "per_class": per_class, **(facts or {})},
        time.perf_counter() - began,
        answering.forwards,
    )


def _check_task(model: Any) -> None:
    task = task_of(model.config)
    if not task.one_label or task.answers is None:
        raise UsageError(f"shortcuts are looked for in models with one class an image; this is one of {task.name}.")


def _checked_output(output: str | os.PathLike) -> Path:
    page = Path(output)
    if page.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--output {output}: name an .html file; its figures go beside it as .json.")
    for path in (page, page.with_suffix(".json")):
        check_private(path, "a page of shortcuts")
        check_replaceable(path)
    return page
