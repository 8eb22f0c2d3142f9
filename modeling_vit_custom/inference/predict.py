"""Predictions for image files, one JSON line each: `vit-custom predict`.

    {"path": "photos/a.jpg", "predictions": [{"label": "cat", "score": 0.93}, …]}
    {"path": "photos/b.jpg", "error": "photos/b.jpg: the file is cut off …"}

Single-label scores are softmax probabilities, multi-label scores sigmoid ones, each sorted downwards; a
regression has {"label": target, "value": number} in the order of the targets. With embeddings a line also has
"embedding", the model's pooler_output, whose decimal digits restore the float32 exactly.

Shapes: B batch, K classes or targets, D pooled width.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from .._version import __version__
from ..common.fingerprint import fingerprint
from ..common.processes import Processes
from ..data.examples import MULTI_LABEL, REGRESSION
from ..data.folders import IMAGE_SUFFIXES, walk_files
from ..engines.fastest import fastest
from ..tasks.registry import task_of
from .forward import BatchResult, Item, PreparedImages, run_batches, stacked
from .loading import load_classifier
from .resume import ResumableLines


@dataclass(frozen=True)
class Summary:
    """images: lines in `output`.   failed: those that report an error.   resumed: those there before.

    processes: how many shared the work.   notes: sentences on what was passed over.
    """

    output: Path
    images: int
    failed: int
    resumed: int
    processes: int
    notes: list[str]


def find_images(inputs: Sequence[str], follow_links: bool = False) -> tuple[list[str], list[str]]:
    """(paths, notes): files as they are given, folders as all images below them in natural order.

    What is an image by its name is among them though Pillow may not read it (HEIC): its line then says so.
    Raises ValueError when that is nothing.
    """
    found: list[str] = []
    notes = []
    for given in inputs:
        if not Path(given).is_dir():
            found.append(str(given))
            continue
        inside = walk_files(given, follow_links)
        images = [
            path
            for path in inside
            if path.suffix.lower() in IMAGE_SUFFIXES
            and not any(part.startswith(".") for part in path.relative_to(given).parts)
        ]
        if other := len(inside) - len(images):
            notes.append(f"{given}: {other} of {len(inside)} files are hidden or no images by name, passed over")
        found += map(str, images)
    paths = list(dict.fromkeys(found))
    if len(paths) < len(found):
        notes.append(f"{len(found) - len(paths)} images were named more than once and are predicted once")
    if not paths:
        raise ValueError(f"no images in {', '.join(map(str, inputs))}; give image files or folders of them.")
    return paths, notes


def ranked_labels(
    logits: torch.Tensor, problem_type: str, id2label: Mapping[int, str], top_k: int
) -> list[list[dict[str, Any]]]:
    """logits [B, K] -> for each image the entries of "predictions", as the module's docstring shows them."""
    if problem_type == REGRESSION:
        return [
            [{"label": id2label[i], "value": _digits(value)} for i, value in enumerate(row)] for row in logits.tolist()
        ]
    scores = logits.sigmoid() if problem_type == MULTI_LABEL else logits.softmax(dim=-1)
    best = scores.topk(min(top_k, scores.shape[-1]))
    return [
        [{"label": id2label[i], "score": _digits(score)} for score, i in zip(row, ids, strict=True)]
        for row, ids in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def _digits(value: float) -> float:
    """A float32 in as few decimal digits as restore it."""
    return float(f"{value:.9g}")


def lines_of(result: BatchResult, paths: Sequence[str], problem_type: str, id2label, top_k: int) -> list[str]:
    """The JSON lines of one batch, those of its unreadable images included."""
    records = {index: {"path": paths[index], "error": error} for index, error in result.errors.items()}
    entries = ranked_labels(result.logits, problem_type, id2label, top_k)
    finite = result.logits.isfinite().all(dim=-1).tolist()
    for row, index in enumerate(result.indices):
        record: dict[str, Any] = {"path": paths[index]}
        if not finite[row]:
            record["error"] = f"{paths[index]}: the model's output is NaN or infinite"
        else:
            record["predictions"] = entries[row]
            if result.pooled is not None:
                record["embedding"] = [_digits(value) for value in result.pooled[row].tolist()]
        records[index] = record
    return [json.dumps(records[index]) + "\n" for index in sorted(records)]


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
) -> Summary:
    """Predicts every image of `inputs` (files and folders) with the saved `model`; writes the lines `output`.

    Lines already in `output`, or left by a run that was cut off, are kept; those that report an error, or whose image
    has changed since, are predicted again. Of several `processes` each takes every count-th batch. fast: the same
    answers by the fastest engine that is installed. dtype: of the computation. Raises ValueError for inputs without
    images, for an output that may not be continued and for one that is no file, such as a device, OSError for a model
    that is not there.
    """
    processes = processes or Processes()
    with ResumableLines(output) as lines:
        processes.from_first(lines.hold)
        classifier, processor = load_classifier(model, trust_remote_code, revision=revision, speed=speed, dtype=dtype)

        def plan() -> tuple[list[str], list[str], list[int], int]:
            paths, notes = find_images(inputs, follow_links)
            settings = {"top_k": top_k, "embeddings": embeddings}
            identity = {
                "model": model,
                "revision": revision,
                "speed": speed,
                "dtype": dtype,
                **settings,
                "vit_custom": __version__,
                "fingerprint": fingerprint(classifier, processor, settings),
            }
            there = lines.open_run(identity, paths, overwrite)
            notes += lines.notes
            todo = [i for i, path in enumerate(paths) if path not in there or there[path].failed]
            return paths, notes, todo, lines.next_part()

        paths, notes, todo, first_part = processes.from_first(plan)
        batches = [todo[i : i + batch_size] for i in range(0, len(todo), batch_size)]
        mine = batches[processes.rank :: processes.count]
        problem_type, id2label = task_of(classifier.config).name, classifier.config.id2label
        images = PreparedImages(paths, paths, processor)
        if fast and (example := example_batch(images.take(todo[:batch_size]))) is not None:
            choose = partial(fastest, classifier, processor, example, embeddings=embeddings)
            if processes.count == 1:
                classifier, chosen = choose(total=len(todo))
            else:  # the first one chooses, and all of them open what it keeps
                chosen = processes.from_first(lambda: choose(total=len(todo) // processes.count)[1])
                classifier, _ = choose(total=0)
            notes = [*notes, f"engine: {chosen}"]
        own = sum(map(len, mine))
        title = "predict" if processes.count == 1 else f"predict, process 1 of {processes.count}"
        with (
            open(lines.part(processes.rank, first_part), "x", encoding="utf-8") as part,
            tqdm(total=own, desc=title, unit="img", disable=not processes.is_first or not own) as bar,
        ):
            for result in run_batches(classifier, images, mine, num_workers, embeddings):
                part.writelines(lines_of(result, paths, problem_type, id2label, top_k))
                part.flush()
                bar.update(len(result.indices) + len(result.errors))
        processes.wait()
        failed = processes.from_first(lambda: lines.merge(paths))
        return Summary(Path(output), len(paths), failed, len(paths) - len(todo), processes.count, notes)


def example_batch(items: Sequence[Item]) -> torch.Tensor | None:
    """[B, C, h, w] of as many images as there are items, repeated for those that are unreadable or of other sizes."""
    read = [pixels for _, pixels, _ in items if pixels is not None]
    same = [pixels for pixels in read if pixels.shape == read[0].shape]
    return stacked((same * len(items))[: len(items)]) if same else None
