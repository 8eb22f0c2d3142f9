"""What a classifier decides by on a data set, where that is not the object: found by evidence, accused by intervention.

Shapes: N images, h×w grid of patches.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...common.errors import UsageError
from ...common.json_files import json_safe, write_json
from ...common.model_names import named_model
from ...common.outputs import check_private, check_replaceable
from ...data.eval_examples import load_eval_examples, named
from ...data.examples import Examples
from ...data.source import Columns, Source
from ...inference.loading import load_classifier
from ...tasks.registry import task_of
from .boxes import Boxes, off_object, read_boxes
from .clusters import Clusters, cluster
from .evidence import Answering, Evidence, collect, drawn_rows
from .suspicions import FEWEST, ClassMap, class_maps
from .trials import Trial, try_all
from .verdicts import sentence, trial_record

PER_CLASS = 200  # images of a label that are looked at


@dataclass(frozen=True)
class ShortcutReport:
    """What was found.

    accused: trials in which the patches decide the class beyond the controls, the largest effect first.   looked_at:
    suspicions that were not confirmed.   maps: of each class with FEWEST images.   too_few: number of images of each
    class with fewer.   clusters: of each class with enough images.   names: id → class.   evidence: of the N images.
    facts: the model and the data, for the record.   seconds: in all.   forwards: images for the interventions.
    """

    accused: list[Trial]
    looked_at: list[Trial]
    maps: list[ClassMap]
    too_few: dict[str, int]
    clusters: list[Clusters]
    names: Mapping[int, str]
    evidence: Evidence
    facts: dict[str, Any]
    seconds: float
    forwards: int

    def sentences(self) -> list[str]:
        """Return a sentence for each accusation."""
        return [sentence(trial, self.names) for trial in self.accused]

    def summary(self) -> str:
        """Return how much was looked at and found, in a sentence."""
        found, tried = len(self.accused), len(self.accused) + len(self.looked_at)
        said = "no shortcut" if not found else f"{found} shortcut{'s' * (found != 1)}"
        return (
            f"{said} in {len(self.maps)} classes of {len(self.evidence):,} images; {tried} suspicion"
            f"{'s' * (tried != 1)} tried by {self.forwards:,} changed images"
        )

    def record(self) -> dict[str, Any]:
        """Return what the JSON file holds."""
        return {
            **self.facts,
            "images": len(self.evidence),
            "unreadable": len(self.evidence.errors),
            "summary": self.summary(),
            "shortcuts": [trial_record(trial, self.names) for trial in self.accused],
            "not_accused": [trial_record(trial, self.names) for trial in self.looked_at],
            "classes": [
                {
                    "class": self.names[one.target],
                    "images": len(one.images),
                    "mean_evidence": one.mean,
                    "border": one.ring,
                    "off_object": one.off,
                }
                for one in self.maps
            ],
            "too_few_images": self.too_few,
            "clusters": [
                {
                    "class": self.names[one.target],
                    "silhouette": one.silhouette,
                    "images": [len(each.members) for each in one.clusters],
                }
                for one in self.clusters
            ],
            "seconds": round(self.seconds, 1),
        }


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
        from .page import write_page

        write_page(page, report, processor)
        write_json(page.with_suffix(".json"), json_safe(report.record()))
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
    tried = try_all(evidence, maps, off, answering, seed)
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
