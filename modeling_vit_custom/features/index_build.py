"""`vit-custom index`: each image goes through the model once, and its vector is kept.

Vectors are known by the content of their images. An index that is made again computes those of new images alone, also
after a kill: each batch is appended to OUTPUT.unfinished, whose records have checksums. The index is written beside
OUTPUT and renamed, so it is there whole or not at all.

Shapes: N images, B batch, D width of a vector.
"""

import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from .._version import __version__
from ..common.errors import DataError
from ..common.fingerprint import fingerprint
from ..common.json_files import write_json
from ..common.lock import take_lock
from ..common.model_files import LOCK
from ..common.model_names import named_model
from ..common.outputs import OutputError, check_new_folder, check_private, new_folder
from ..data.source import Columns, Source
from ..inference.answers import FEW, json_line
from ..inference.forward import PreparedImages, run_batches
from ..inference.loading import load_classifier
from .graph import is_wanted, write_graph
from .index_files import FORMAT, GRAPH, IMAGES, RECORD, VECTORS, Index, preprocessing_of
from .index_images import Listed, content_of, list_images
from .journal import Journal

AT_ONCE = 2**14  # vectors that are copied at once
LIBRARIES = ("numpy", "pillow", "torch", "torchvision", "transformers")


@dataclass(frozen=True)
class Built:
    """A finished index in the folder `output`.

    images: N.   width: D.   computed: images that went through the model; the vectors of the others were there before.
    failed: images that could not be read.   failures: why, for the first of them.   labelled: images with a label.
    graph: whether it has one, for approximate search.   notes: sentences for the user.
    """

    output: Path
    images: int
    width: int
    computed: int
    failed: int
    labelled: int
    graph: bool
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def build_index(
    model: str,
    source: Source,
    output: str | os.PathLike,
    columns: Columns = Columns(),
    batch_size: int = 32,
    num_workers: int = 0,
    approximate: str = "auto",
    overwrite: bool = False,
    trust_remote_code: bool = False,
    revision: str | None = None,
    progress: bool = True,
) -> Built:
    """Write an index of every image of `source` to the folder `output`, new, empty or an index of the same model.

    model: a saved folder, a Hub id or ID@REVISION; of any task, with a pooled vector.   columns: see `list_images`.
    approximate: whether to add a graph: "yes", "no" or "auto", for more than `graph.EXACT` images.   overwrite: whether
    to replace an index of another model. An image that cannot be read is left out and counted.

    Raises OutputError for a folder that holds something else, lies in a model's folder or is being written by another
    process. Raises DataError if no image can be read, or for a model without a pooled vector.
    """
    output = Path(os.path.realpath(output))
    check_private(output, "an index")
    with ExitStack() as stack:
        output.parent.mkdir(parents=True, exist_ok=True)
        take_lock(output.with_name(output.name + LOCK), stack, f"--output {output}", OutputError)
        before = None if overwrite and _is_index(output) else _before(output)
        images = list_images(source, columns)
        name, revision = named_model(model, revision)
        net, processor = load_classifier(name, trust_remote_code, revision=revision, listing=None)
        if before is not None:
            before.check_model(name, net, processor)
        made_by = fingerprint(net, processor, {})
        contents = _contents(images, progress)
        with Journal(output.with_name(f"{output.name}.unfinished"), made_by) as journal:
            old = [] if before is None else [bytes.fromhex(line["content"]) for line in before.images]
            known: dict[bytes | None, int] = {content: row for row, content in enumerate([*old, *journal.contents])}
            todo = _missing(contents, known)
            run = (batch_size, num_workers, progress)
            errors = _compute(net, images, processor, contents, todo, journal, *run)
            known |= {content: len(old) + row for row, content in enumerate(journal.contents)}
            rows = [row for row, content in enumerate(contents) if content in known]
            if not rows:
                raise DataError(f"none of the {len(images)} images can be read, such as {next(iter(errors.values()))}")
            width = journal.width if before is None else int(before.record["width"])
            record = {
                "format": FORMAT,
                "count": len(rows),
                "width": width,
                "labels": images.kind,
                "model": {"name": name, "revision": revision, "fingerprint": made_by},
                "preprocessing": preprocessing_of(processor),
                "libraries": {**{each: version(each) for each in LIBRARIES}, "modeling_vit_custom": __version__},
                "graph": is_wanted(approximate, len(rows)),
            }
            lines = "".join(_line(images, row, contents[row]) for row in rows)
            if not _holds(before, lines, record):
                _write(output, record, lines, [known[contents[row]] for row in rows], before, journal)
            journal.finish()
    failures = [
        errors.get(row, f"{images.names[row]}: its content is that of another image, which cannot be read")
        for row, content in enumerate(contents)
        if content not in known
    ]
    return Built(
        output,
        len(rows),
        width,
        len(todo) - len(errors),
        len(failures),
        sum(images.labels[row] is not None for row in rows),
        bool(record["graph"]),
        [*images.notes, *_left(before, images)],
        failures[:FEW],
    )


def _contents(images: Listed, progress: bool) -> list[bytes | None]:
    """The hash of each image's content, None for a file that cannot be read."""
    shown = progress and len(images) >= 1000
    return [
        content_of(images.images[row]) for row in tqdm(range(len(images)), "reading", unit="img", disable=not shown)
    ]


def _missing(contents: list[bytes | None], known: dict[bytes | None, int]) -> list[int]:
    """The rows that must go through the model: the first of each content that is not known."""
    first: dict[bytes | int, int] = {}
    for row, content in enumerate(contents):
        if content not in known:
            first.setdefault(row if content is None else content, row)
    return list(first.values())


def _before(output: Path) -> Index | None:
    """The index that is there. A run that was killed while it replaced one has left it beside."""
    previous = _previous(output)
    if not output.exists() and _is_index(previous):
        os.rename(previous, output)
    if _is_index(output):
        return Index(output)
    check_new_folder(output)
    return None


def _is_index(folder: Path) -> bool:
    return (folder / RECORD).is_file() and (folder / VECTORS).is_file()


def _previous(output: Path) -> Path:
    return output.with_name(f"{output.name}.previous")


def _compute(
    net: Any,
    images: Listed,
    processor: Any,
    contents: list[bytes | None],
    todo: list[int],
    journal: Journal,
    batch_size: int,
    num_workers: int,
    progress: bool,
) -> dict[int, str]:
    """Append the vectors of the images `todo` to the journal; return why an image has none, by its row."""
    batches = [todo[start : start + batch_size] for start in range(0, len(todo), batch_size)]
    prepared = PreparedImages(images.images, images.names, processor)
    errors: dict[int, str] = {}
    with tqdm(total=len(todo), desc="index", unit="img", disable=not progress or not todo) as bar:
        for result in run_batches(net, prepared, batches, num_workers, with_pooled=True):
            errors |= result.errors
            bar.update(len(result.indices) + len(result.errors))
            if result.pooled is None:
                continue
            vectors, fine = unit_length(result.pooled.numpy())
            kept = [place for place, row in enumerate(result.indices) if fine[place] and contents[row]]
            journal.add([contents[result.indices[place]] or b"" for place in kept], vectors[kept])
            for place in sorted({*range(len(fine))} - {*kept}):
                row = result.indices[place]
                errors[row] = f"{images.names[row]}: the model's vector is zero, NaN or infinite"
    return errors


def unit_length(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ([B, D] scaled to length 1 float32, [B] whether that was possible: finite and not zero)."""
    wide = vectors.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    fine = np.isfinite(length[:, 0]) & (length[:, 0] > 0)
    return (wide / np.where(fine[:, None], length, 1)).astype(np.float32), fine


def _line(images: Listed, row: int, content: bytes | None) -> str:
    label = {} if images.labels[row] is None else {"label": images.labels[row]}
    return json_line({"path": images.names[row], **label, "content": (content or b"").hex()})


def _holds(before: Index | None, lines: str, record: dict[str, Any]) -> bool:
    """Whether the index that is there is the one that would be written."""
    if before is None or before.images.data != lines.encode():
        return False
    return (before.graph is not None, before.record["labels"]) == (record["graph"], record["labels"])


def _write(
    output: Path, record: dict[str, Any], lines: str, found: list[int], before: Index | None, journal: Journal
) -> None:
    """Write the index whole, in place of the one before.   found: row of each vector in `before`, then the journal."""
    new, count = journal.vectors(), 0 if before is None else len(before)
    with new_folder(output) as folder:
        shape = (record["count"], record["width"])
        vectors = np.lib.format.open_memmap(folder / VECTORS, "w+", np.float32, shape)
        for start in range(0, len(found), AT_ONCE):
            rows = np.array(found[start : start + AT_ONCE])
            part, is_new = vectors[start : start + len(rows)], rows >= count
            if is_new.any():
                part[is_new] = new[rows[is_new] - count]
            if before is not None:
                part[~is_new] = before.vectors[rows[~is_new]]
        vectors.flush()
        (folder / IMAGES).write_text(lines, encoding="utf-8")
        if record["graph"]:
            write_graph(folder / GRAPH, vectors)
        del vectors
        write_json(folder / RECORD, record)
        if output.exists() and os.listdir(output):
            shutil.rmtree(_previous(output), ignore_errors=True)
            os.rename(output, _previous(output))
    shutil.rmtree(_previous(output), ignore_errors=True)


def _left(before: Index | None, images: Listed) -> list[str]:
    """A note on images of the index before that are not among these."""
    gone = set() if before is None else {line["path"] for line in before.images} - set(images.names)
    return [f"{len(gone):,} images that the index held are not among these, and left it"] if gone else []
