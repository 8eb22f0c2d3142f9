"""A saved checkpoint measured on a labelled data set.

Shapes: N examples, C classes, T regression targets.
"""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..common.claims import FILES, STAMP, digest_of, sha256_of
from ..common.json_files import write_json
from ..common.model_files import CONFUSION_PICTURE, METRICS
from ..common.outputs import check_replaceable, is_stream
from ..data.examples import Examples
from ..data.source import Columns
from ..data.sources import load_eval_examples
from ..inference.forward import PreparedImages, run_batches
from ..inference.loading import load_classifier
from ..tasks.registry import task_of
from .result import Evaluation, score_outputs


def evaluate_model(
    model: PreTrainedModel,
    processor: Any,
    examples: Examples,
    batch_size: int = 64,
    num_workers: int = 0,
    progress: bool = True,
    on_error: str = "raise",
) -> Evaluation:
    """Runs `model` on every example and scores it by its config's problem_type and id2label.

    on_error: "raise" stops at an image that cannot be read, naming it; "skip" leaves it out and lists it in
    `Evaluation.skipped`. Raises ValueError besides for unlabelled examples and for NaN outputs.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}; use 'raise' or 'skip'.")
    if examples.labels is None:
        raise ValueError("these examples have no labels; use predict for images without labels.")
    images = PreparedImages(examples.images, examples.names, processor)
    batches = [list(range(i, min(i + batch_size, len(images)))) for i in range(0, len(images), batch_size)]
    kept: list[int] = []
    logits: list[np.ndarray] = []
    skipped: dict[str, str] = {}
    with tqdm(total=len(images), desc="evaluate", unit="img", disable=not progress) as bar:
        for batch in run_batches(model, images, batches, num_workers):
            for index, error in batch.errors.items():
                if on_error == "raise":
                    raise ValueError(f"{error} (--on_error skip leaves such images out and lists them)")
                skipped[examples.names[index]] = error
            kept += batch.indices
            logits.append(batch.logits.numpy())
            bar.update(len(batch.indices) + len(batch.errors))
    if not kept:
        raise ValueError(f"none of the {len(images)} images could be evaluated; the reasons: {skipped}")
    config: Any = model.config
    outputs, kept = np.concatenate(logits)[np.argsort(kept)], sorted(kept)
    names = [examples.names[index] for index in kept]
    return score_outputs(outputs, examples.labels[kept], names, task_of(config).name, config.id2label, skipped)


def data_fingerprint(examples: Examples) -> str:
    """SHA-256 of the images' names and, of files, sizes, and of their labels: of other data it is another."""
    digest = hashlib.sha256()
    for name, image in zip(examples.names, examples.images, strict=True):
        size = os.path.getsize(image) if isinstance(image, str | os.PathLike) and os.path.isfile(image) else ""
        digest.update(f"{os.path.basename(name)}\0{size}\n".encode("utf-8", "surrogateescape"))
    digest.update(np.asarray(examples.labels).tobytes())
    return digest.hexdigest()


def evaluate(
    model: str,
    data_dir: str,
    output: str | Path = METRICS,
    html: str | Path | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
    on_error: str = "raise",
    trust_remote_code: bool = False,
    revision: str | None = None,
    columns: Columns = Columns(),
    follow_links: bool = False,
) -> tuple[Evaluation, dict[str, Any], list[Path]]:
    """Measures a saved model on labelled images; returns what it did, what was measured where, and the files written.

    model: a saved folder, or a Hub id.   output: gets the metrics as JSON, and confusion_matrix.png beside it unless it
    is a stream.   html: gets a page.   columns, follow_links: of a table; see `load_eval_examples`.   on_error: as of
    `evaluate_model`.
    Raises ValueError or OSError for what cannot be measured, or written.
    """
    picture = None if is_stream(output) else Path(output).with_name(CONFUSION_PICTURE)
    if picture is not None:
        check_replaceable(picture)
    net, processor = load_classifier(model, trust_remote_code, revision=revision)
    config: Any = net.config
    examples = load_eval_examples(data_dir, config.id2label, task_of(config).name, columns, follow_links)
    began = time.perf_counter()
    result = evaluate_model(net, processor, examples, batch_size, num_workers, on_error=on_error)
    context: dict[str, Any] = {
        "model": model,
        "revision": revision,
        "data": data_dir,
        "data_fingerprint": data_fingerprint(examples),
        "device": str(net.device),
        "seconds": time.perf_counter() - began,
    }
    written = []
    if result.confusion is not None and picture is not None:
        from ..reporting.confusion import plot_confusion_matrix  # matplotlib takes a quarter of a second

        labels = [result.id2label[c] for c in range(len(result.id2label))]
        written.append(plot_confusion_matrix(result.confusion, labels, picture))
    if digest := digest_of(model, revision):
        context[STAMP] = {"sha256": digest}
    pictures = {path.name: sha256_of(path) for path in written}
    written.insert(0, write_json(output, result.report(**context, **({FILES: pictures} if pictures else {}))))
    if html is not None:
        from .page import write_page  # the same, of Jinja

        written.append(write_page(html, result, examples, context))
    return result, context, written
