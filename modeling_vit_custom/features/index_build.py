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
from typing import Any, Self
from zlib import crc32

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
from .index_images import CONTENT, Listed, content_of, list_images

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


class Journal:
    """Vectors that are computed and not yet in an index: an append-only file of records with checksums.

    contents: the hashes of the images it holds, in order. A torn or damaged end is cut off. A file of another model is
    started afresh.
    """

    def __init__(self, path: Path, made_by: str):
        self.path, self.made_by = path, made_by.encode("ascii")
        self.contents: list[bytes] = []
        self.width = self._read() if path.is_file() else 0

    def __enter__(self) -> Self:
        self.file = open(self.path, "ab")
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()
        if not self.contents:
            self.path.unlink()

    def _read(self) -> int:
        """Find the whole records; return their width, 0 if there are none."""
        start, width = len(self.made_by), 0
        with open(self.path, "r+b") as file:
            head = file.read(start + 4)
            if len(head) == start + 4 and head[:start] == self.made_by:
                width = int.from_bytes(head[start:], "little")
                kind = _record_of(width)
                while len(raw := file.read(kind.itemsize)) == kind.itemsize:
                    record = np.frombuffer(raw, kind)[0]
                    if crc32(raw[:-4]) != record["sum"]:
                        break
                    self.contents.append(raw[:CONTENT])
            file.truncate(start + 4 + len(self.contents) * _record_of(width).itemsize if self.contents else 0)
        return width if self.contents else 0

    def add(self, contents: list[bytes], vectors: np.ndarray) -> None:
        """Append vectors [B, D] of images with these contents."""
        if not self.width:
            self.width = vectors.shape[1]
            self.file.write(self.made_by + self.width.to_bytes(4, "little"))
        for content, vector in zip(contents, vectors, strict=True):
            raw = content + np.ascontiguousarray(vector, np.float32).tobytes()
            self.file.write(raw + crc32(raw).to_bytes(4, "little"))
        self.file.flush()
        self.contents += contents

    def vectors(self) -> np.ndarray:
        """Return the vectors [n, D], memory-mapped."""
        if not self.contents:
            return np.empty((0, self.width), np.float32)
        kind = _record_of(self.width)
        return np.memmap(self.path, kind, "r", len(self.made_by) + 4, (len(self.contents),))["vector"]


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
        contents = [
            content_of(images.images[row])
            for row in tqdm(range(len(images)), "reading", unit="img", disable=not progress or len(images) < 1000)
        ]
        unfinished = output.with_name(f"{output.name}.unfinished")
        with Journal(unfinished, made_by) as journal:
            old = [] if before is None else [bytes.fromhex(line["content"]) for line in before.images]
            known = {content: row for row, content in enumerate([*old, *journal.contents])}
            todo: dict[Any, int] = {}
            for row, content in enumerate(contents):
                if content not in known:
                    todo.setdefault(content or row, row)
            run = (batch_size, num_workers, progress)
            errors = _compute(net, images, processor, contents, [*todo.values()], journal, *run)
            known |= {content: len(old) + row for row, content in enumerate(journal.contents)}
            rows = [row for row, content in enumerate(contents) if content in known]
            if not rows:
                raise DataError(f"none of the {len(images)} images can be read, such as {next(iter(errors.values()))}")
            graph = is_wanted(approximate, len(rows))
            width = journal.width if before is None else int(before.record["width"])
            record = {
                "format": FORMAT,
                "count": len(rows),
                "width": width,
                "labels": images.kind,
                "model": {"name": name, "revision": revision, "fingerprint": made_by},
                "preprocessing": preprocessing_of(processor),
                "libraries": {**{each: version(each) for each in LIBRARIES}, "modeling_vit_custom": __version__},
                "graph": graph,
            }
            lines = "".join(_line(images, row, contents[row]) for row in rows)
            found = [known[contents[row]] for row in rows]
            if not _holds(before, lines, graph):
                _write(output, record, lines, found, before, journal)
        unfinished.unlink(missing_ok=True)
    failed = [
        errors.get(row)
        or f"{images.names[row]}: as {images.names[todo[contents[row] or row]]}, which has the same content"
        for row in range(len(images))
        if contents[row] not in known
    ]
    notes = [*images.notes, *_left(before, images)]
    labelled = sum(images.labels[row] is not None for row in rows)
    computed = len(todo) - len(errors)
    return Built(output, len(rows), width, computed, len(failed), labelled, graph, notes, failed[:FEW])


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


def _record_of(width: int) -> np.dtype:
    return np.dtype([("content", f"V{CONTENT}"), ("vector", "<f4", (width,)), ("sum", "<u4")])


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


def _holds(before: Index | None, lines: str, graph: bool) -> bool:
    """Whether the index that is there is the one that would be written."""
    return before is not None and before.images.data == lines.encode() and (before.graph is not None) == graph


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
