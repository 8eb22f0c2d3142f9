"""A saved checkpoint measured on a labelled data set.

Shapes: N examples, C classes, T regression targets.
"""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..common.claims import FILES, STAMP, digest_of, sha256_of
from ..common.json_files import write_json
from ..common.model_files import CONFUSION_PICTURE, METRICS
from ..common.model_names import named_model
from ..common.outputs import check_replaceable, is_stream
from ..data.eval_examples import load_eval_examples, named
from ..data.examples import Examples
from ..data.names import in_order
from ..data.source import Columns, Source
from ..data.targets import NoTargets
from ..inference.forward import BatchResult, PreparedImages, run_batches
from ..inference.inputs import find_images
from ..inference.loading import load_classifier
from ..tasks.registry import task_of
from .illustrations import Illustrate
from .result import Evaluation, score_outputs
from .unknown import Typicality, measure_unknown


def evaluate_model(
    model: PreTrainedModel,
    processor: Any,
    examples: Examples,
    batch_size: int = 64,
    num_workers: int = 0,
    progress: bool = True,
    on_error: str = "raise",
) -> Evaluation:
    """Run `model` on every example and score it by its config's problem_type and id2label.

    on_error: "raise" stops at an image that cannot be read, naming it; "skip" leaves it out and lists it in
    `Evaluation.skipped`. Raises ValueError also for unlabelled examples and for NaN outputs.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}; use 'raise' or 'skip'.")
    if isinstance(examples.targets, NoTargets):
        raise ValueError("these examples have no labels; use predict for images without labels.")
    kept, rows, typicality, skipped = _answers(model, processor, examples, batch_size, num_workers, progress, on_error)
    config: Any = model.config
    names = [examples.names[index] for index in kept]
    result = score_outputs(rows, examples.targets.values[kept], names, task_of(config), config.id2label, skipped)
    return replace(result, typicality=typicality)


def _answers(
    model: PreTrainedModel,
    processor: Any,
    examples: Examples,
    batch_size: int,
    num_workers: int,
    progress: bool,
    on_error: str,
) -> tuple[list[int], np.ndarray, Typicality | None, dict[str, str]]:
    """Return (positions of the n readable images, outputs [n, K], their typicality, name → why another is not read)."""
    images = PreparedImages(examples.images, examples.names, processor)
    batches = [list(range(i, min(i + batch_size, len(images)))) for i in range(0, len(images), batch_size)]
    found: list[BatchResult] = []
    skipped: dict[str, str] = {}
    with tqdm(total=len(images), desc="evaluate", unit="img", disable=not progress) as bar:
        for batch in run_batches(model, images, batches, num_workers):
            for index, error in batch.errors.items():
                if on_error == "raise":
                    raise ValueError(f"{error} (--on_error skip leaves such images out and lists them)")
                skipped[examples.names[index]] = error
            found.append(batch)
            bar.update(len(batch.indices) + len(batch.errors))
    if not any(batch.indices for batch in found):
        raise ValueError(f"none of the {len(images)} images could be evaluated; the reasons: {skipped}")
    whole = BatchResult.joined(found)
    return whole.indices, whole.outputs.numpy(), _typicality(model.config, whole), skipped


def _typicality(config: Any, found: BatchResult) -> Typicality | None:
    if not task_of(config).one_label:
        return None
    if found.typicality is None or found.unknown is None:
        values = found.outputs.softmax(dim=1).amax(dim=1).numpy()
        return Typicality(values, np.zeros(len(values), bool), None)
    return Typicality(found.typicality.numpy(), found.unknown.numpy(), config.unknown["level"])


def data_fingerprint(examples: Examples) -> str:
    """Return the SHA-256 of the images' names, of files' sizes and of the labels.

    Other data give another value.
    """
    digest = hashlib.sha256()
    for name, image in zip(examples.names, examples.images, strict=True):
        size = os.path.getsize(image) if isinstance(image, str | os.PathLike) and os.path.isfile(image) else ""
        digest.update(f"{os.path.basename(name)}\0{size}\n".encode("utf-8", "surrogateescape"))
    digest.update(examples.targets.fingerprint())
    return digest.hexdigest()


def evaluate(
    model: str,
    data: Source | str,
    output: str | Path = METRICS,
    html: str | Path | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
    on_error: str = "raise",
    trust_remote_code: bool = False,
    revision: str | None = None,
    columns: Columns = Columns(),
    unknown_dir: str | Path | None = None,
    illustrator: Callable[[str, PreTrainedModel, Any], Illustrate] | None = None,
) -> tuple[Evaluation, dict[str, Any], list[Path]]:
    """Measure a saved model on labelled images; return (the result, what was measured where, the files written).

    model: a saved folder, a Hub id or ID@REVISION.   output: a file for the metrics as JSON; confusion_matrix.png goes
    beside it unless it is a stream, or the task has none.   html: a file for a page.   data, columns: see
    `load_eval_examples`.   on_error: as in `evaluate_model`.   unknown_dir: a folder of images that are of no class of
    the model, to measure whether it tells them from those that are.   illustrator: (name of the model, model,
    processor) → what makes the pictures beside the page's answers; it is called before anything is measured.
    Raises ValueError or OSError for what cannot be measured or written.
    """
    picture = None if is_stream(output) else Path(output).with_name(CONFUSION_PICTURE)
    if picture is not None:
        check_replaceable(picture)
    model, revision = named_model(model, revision)
    net, processor = load_classifier(model, trust_remote_code, revision=revision)
    config: Any = net.config
    illustrate = None if illustrator is None or html is None else illustrator(model, net, processor)
    examples, split = load_eval_examples(data, config.id2label, task_of(config).targets, columns)
    others = None if unknown_dir is None else _unknown_images(unknown_dir)
    began = time.perf_counter()
    result = evaluate_model(net, processor, examples, batch_size, num_workers, on_error=on_error)
    unknown: dict[str, Any] = {}
    if others is not None or getattr(config, "unknown", None) is not None:
        unknown["unknown"] = _measured_unknown(net, processor, result, others, batch_size, num_workers, on_error)
    context: dict[str, Any] = {
        "model": model,
        "revision": revision,
        **named(data),
        **({} if split is None else {"split": split}),
        "data_fingerprint": data_fingerprint(examples),
        "device": str(net.device),
        "seconds": time.perf_counter() - began,
        **unknown,
    }
    written = []
    if result.details.confused is not None and picture is not None:
        from ..reporting.confusion import plot_confusions  # importing matplotlib takes 0.25 s

        written.append(plot_confusions(result.details.confused, in_order(result.id2label), picture))
    if digest := digest_of(model, revision):
        context[STAMP] = {"sha256": digest}
    pictures = {path.name: sha256_of(path) for path in written}
    written.insert(0, write_json(output, result.report(**context, **({FILES: pictures} if pictures else {}))))
    if html is not None:
        from .page import write_page  # importing Jinja takes time, too

        written.append(write_page(html, result, examples, context, illustrate))
    return result, context, written


def _unknown_images(folder: str | Path) -> Examples:
    paths, _ = find_images([str(folder)])
    return Examples(paths, paths)


def _measured_unknown(
    model: PreTrainedModel,
    processor: Any,
    result: Evaluation,
    others: Examples | None,
    batch_size: int,
    num_workers: int,
    on_error: str,
) -> dict[str, Any]:
    """Return `measure_unknown` of an evaluation, and of images of no class. Raises ValueError for other tasks."""
    if result.typicality is None:
        raise ValueError(f"--unknown_dir is for one label an image, but the model is for {result.task.name}.")
    right, of_others = result.task.score(result.outputs, result.values), None
    if others is not None:
        _, _, of_others, skipped = _answers(model, processor, others, batch_size, num_workers, True, on_error)
        result.skipped.update(skipped)
    return measure_unknown(result.typicality, right, of_others)
