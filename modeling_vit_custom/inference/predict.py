"""Predictions for image files, one JSON line or row of CSV each: `vit-custom predict`.

    {"path": "photos/a.jpg", "predictions": [{"label": "cat", "score": 0.93}, …]}
    {"path": "photos/b.jpg", "error": "photos/b.jpg: the file is cut off …"}

Single-label scores are softmax probabilities, multi-label scores are sigmoid ones; both are sorted downwards. A
regression has {"label": target, "value": number} in the order of the targets. With embeddings, a line also has
"embedding", the model's pooler_output; its decimal digits restore the float32 exactly. A model that was trained with
--reject or --max_error adds "unknown": whether the image is none that it knows, and "typicality", the number behind it.
With --explain, a line has "explanation": {"label", "method", "faithfulness", "little", "picture"}, see `explanation`.

Shapes: B batch, K classes or targets, D pooled width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from tqdm.auto import tqdm

from .._version import __version__
from ..common.errors import UsageError
from ..common.fingerprint import fingerprint
from ..common.model_names import named_model
from ..common.processes import Processes
from ..data.source import Columns, Source
from ..data.unlabelled import read_rows
from ..engines.fastest import fastest
from ..tasks.entries import digits
from ..tasks.registry import task_of
from ..tasks.task import Task
from .answers import CSV, FEW, JSONL, csv_columns
from .forward import BatchResult, Item, PreparedImages, run_batches, stacked
from .inputs import find_images
from .lines import output_lines
from .loading import load_classifier

Explains = Callable[[Sequence[Item], Sequence[str], torch.Tensor], list[dict[str, Any]]]
"""From n readable items of `PreparedImages`, their paths [n] and the outputs [n, K] to what each line gets."""


@dataclass(frozen=True)
class Summary:
    """images: lines in `output`.   failed: lines that report an error.   resumed: lines that were there before.

    processes: how many shared the work.   notes: sentences on what was passed over.   answers: the records, if they are
    few.   failures: the first records that report an error.
    """

    output: Path
    images: int
    failed: int
    resumed: int
    processes: int
    notes: list[str]
    answers: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)


def records_of(result: BatchResult, paths: Sequence[str], task: Task, id2label, top_k: int) -> list[dict[str, Any]]:
    """Return the records of one batch, including those of its unreadable images."""
    records: dict[int, dict[str, Any]] = {
        index: {"path": paths[index], "error": error} for index, error in result.errors.items()
    }
    entries = task.entries(result.outputs, id2label, top_k)
    finite = result.outputs.isfinite().all(dim=-1).tolist()
    for row, index in enumerate(result.indices):
        record: dict[str, Any] = {"path": paths[index]}
        if not finite[row]:
            record["error"] = f"{paths[index]}: the model's output is NaN or infinite"
        else:
            record["predictions"] = entries[row]
            record |= result.verdict(row)
            if result.pooled is not None:
                record["embedding"] = [digits(value) for value in result.pooled[row].tolist()]
        records[index] = record
    return [records[index] for index in sorted(records)]


def add_explanations(
    records: list[dict[str, Any]], result: BatchResult, images: PreparedImages, explains: Explains
) -> None:
    """Put "explanation" into the records of one batch, those of `records_of`, that have predictions."""
    by_index = dict(zip(sorted([*result.indices, *result.errors]), records, strict=True))
    answered = [row for row, index in enumerate(result.indices) if "predictions" in by_index[index]]
    if not answered:
        return
    items = images.take([result.indices[row] for row in answered])
    lines = [by_index[result.indices[row]] for row in answered]
    found = explains(items, [line["path"] for line in lines], result.outputs[answered])
    for line, explanation in zip(lines, found, strict=True):
        line["explanation"] = explanation


def predict(
    model: str,
    inputs: Sequence[str],
    output: str,
    top_k: int = 5,
    embeddings: bool = False,
    batch_size: int = 32,
    num_workers: int = 0,
    overwrite: bool = False,
    follow_links: bool = False,
    trust_remote_code: bool = False,
    revision: str | None = None,
    speed: str | None = None,
    fast: bool = False,
    dtype: str | None = None,
    processes: Processes | None = None,
    source: Source | None = None,
    columns: Columns = Columns(),
    format_name: str = JSONL,
    explain: str | None = None,
    explainer: Callable[[Any, Any], Explains] | None = None,
) -> Summary:
    """Predict every image of `inputs` (see `find_images`) with the saved `model`; write one line each to `output`.

    output: a file, or "-" for standard output, from which nothing is continued.   format_name: jsonl or csv.
    source: a table or a dataset whose images replace `inputs`; see `read_rows`.   columns: of `source`.

    Lines already in `output`, or left by an interrupted run, are kept. Lines that report an error, or whose image has
    changed since, are predicted again. Of several `processes`, each takes every count-th batch. fast: use the fastest
    installed engine that gives the same answers. dtype: of the computation.   explainer: (model, processor) → what
    explains each answer; a line then has "explanation".   explain: the folder of its pictures.

    Raises ValueError for inputs without images, for an output that may not be continued, for an output that is no
    file, such as a device, and for embeddings in CSV. Raises OSError for a model that does not exist.
    """
    processes = processes or Processes()
    rows = None if source is None else read_rows(source, columns)
    model, revision = named_model(model, revision)
    for flag, given in (("--embeddings are", embeddings), ("--explain is", explain)):
        if format_name == CSV and given:
            raise UsageError(f"{flag} not written to CSV: give --format jsonl.")
    with output_lines(output, format_name, processes.count) as lines:
        processes.from_first(lines.hold)
        classifier, processor = load_classifier(model, trust_remote_code, revision=revision, speed=speed, dtype=dtype)

        def plan() -> tuple[list[str], list[str], list[int], int]:
            paths, notes = find_images(inputs, follow_links) if rows is None else (list(rows.names), list(rows.notes))
            settings: dict[str, Any] = {"top_k": top_k, "embeddings": embeddings}
            pictures = {} if explain is None else {"explain": explain}
            identity = {
                "model": model,
                "revision": revision,
                "speed": speed,
                "dtype": dtype,
                "explain": explain,
                **settings,
                "vit_custom": __version__,
                "fingerprint": fingerprint(classifier, processor, settings | pictures) if lines.keeps else "",
            }
            there = lines.open_run(identity, paths, overwrite, None if rows is None else rows.images)
            notes += lines.notes
            todo = [i for i, path in enumerate(paths) if path not in there or there[path].failed]
            return paths, notes, todo, lines.next_part()

        paths, notes, todo, first_part = processes.from_first(plan)
        batches = [todo[i : i + batch_size] for i in range(0, len(todo), batch_size)]
        mine = batches[processes.rank :: processes.count]
        task, id2label = task_of(classifier.config), cast(Any, classifier.config.id2label)
        explains = None if explainer is None else explainer(classifier, processor)  # never the fast engine
        images = PreparedImages(paths if rows is None else rows.images, paths, processor)
        if fast and (example := example_batch(images.take(todo[:batch_size]))) is not None:
            choose = partial(fastest, classifier, processor, example, embeddings=embeddings)
            if processes.count == 1:
                classifier, chosen = choose(total=len(todo))
            else:  # the first process chooses, and all of them open what it stored
                chosen = processes.from_first(lambda: choose(total=len(todo) // processes.count)[1])
                classifier, _ = choose(total=0)
            notes = [*notes, f"engine: {chosen}"]
        own = sum(map(len, mine))
        title = "predict" if processes.count == 1 else f"predict, process 1 of {processes.count}"
        blank = torch.zeros(1, len(id2label), dtype=torch.float32)
        tells = getattr(classifier.config, "unknown", None) is not None
        names = csv_columns(task.entries(blank, id2label, top_k)[0], tells) if format_name == CSV else []
        with (
            lines.writing(processes.rank, first_part, names) as write,
            tqdm(total=own, desc=title, unit="img", disable=not processes.is_first or not own) as bar,
        ):
            for result in run_batches(classifier, images, mine, num_workers, embeddings):
                records = records_of(result, paths, task, id2label, top_k)
                if explains is not None:
                    add_explanations(records, result, images, explains)
                write(records)
                bar.update(len(result.indices) + len(result.errors))
        processes.wait()
        failed = processes.from_first(lambda: lines.merge(paths))
        few = lines.first_records(failed=False) if processes.is_first and len(paths) <= FEW else []
        failures = lines.first_records(failed=True) if processes.is_first and failed else []
        kept = len(paths) - len(todo)
        return Summary(Path(output), len(paths), failed, kept, processes.count, notes, few, failures)


def example_batch(items: Sequence[Item]) -> torch.Tensor | None:
    """Return images [B, C, h, w], one for each item; None if all are unreadable.

    Images of the first one's size are repeated in place of unreadable images and of those of other sizes.
    """
    read = [pixels for _, pixels, _ in items if pixels is not None]
    same = [pixels for pixels in read if pixels.shape == read[0].shape]
    return stacked((same * len(items))[: len(items)]) if same else None
