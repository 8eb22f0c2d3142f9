"""A JSON-lines file that several processes write and that a killed run can continue.

During a run, each process appends to a part of its own beside the output (`OUT.part-0003`). The end of the run merges
the parts into OUT in input order, in one step. A killed run leaves OUT of an earlier run, or none, and parts. Only the
last line of a part can be torn, so a line counts only with its newline. `OUT.meta.json` holds the fingerprint of model
and settings, so that a file never mixes two of them. `OUT.images.npz` holds the identities of the images (`identify`):
an image that has changed since is predicted again.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from weakref import finalize

import numpy as np

from ..common.json_files import write_json
from ..common.lock import take_lock
from ..common.model_files import LOCK
from ..common.outputs import check_replaceable
from ..data.identity import changed, identify, read_identities, write_identities
from ..weight_files_vit_custom import shorten_list


class ResumeError(ValueError):
    """The output cannot be continued; the message says why and what to do."""


@dataclass(frozen=True)
class Line:
    """The place of one image's line, and whether it reports an error."""

    file: Path
    start: int
    length: int
    failed: bool


class ResumableLines:
    """The output and its parts. One process calls `hold`, `open_run` and `merge`; each opens its own `part`.

    notes: findings of `open_run` for the user. Raises OutputError if one of these files cannot be replaced, such as a
    device.
    """

    def __init__(self, output: str | os.PathLike):
        self.output = Path(output)
        self.meta = self.output.with_name(self.output.name + ".meta.json")
        self.images = self.output.with_name(self.output.name + ".images.npz")
        self.unfinished = self.output.with_name(self.output.name + ".tmp")
        self.lock = self.output.with_name(self.output.name + LOCK)
        self.notes: list[str] = []
        for path in (self.output, self.meta, self.images, self.unfinished, self.lock, *self.parts()):
            check_replaceable(path)
        self._held = ExitStack()
        finalize(self, self._held.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._held.close()

    def hold(self) -> None:
        """Keep other runs out until `merge`, or the end of the `with`. Raises ResumeError naming one that is there."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        take_lock(self.lock, self._held, f"--output {self.output}", ResumeError)

    def parts(self) -> list[Path]:
        """Return all existing parts, oldest first."""
        return [part for _, part in sorted(self._numbered_parts())]

    def _numbered_parts(self) -> list[tuple[int, Path]]:
        pattern = re.compile(re.escape(self.output.name) + r"\.part-(\d+)")
        folder = self.output.parent
        named = [(pattern.fullmatch(path.name), path) for path in (folder.iterdir() if folder.is_dir() else ())]
        return [(int(match[1]), path) for match, path in named if match]

    def open_run(
        self,
        identity: Mapping[str, Any],
        paths: Sequence[str],
        overwrite: bool,
        images: Sequence[Any] | None = None,
    ) -> dict[str, Line]:
        """Return the lines that are already there, by path, after checking that they may be continued.

        Lines of images that have changed since are removed.

        identity: written to the meta file; its "fingerprint" must be that of the lines already there.   images: the
        sources of the images that `paths` name, if these are not files.

        Raises ResumeError for lines of another model or other settings, of images not among `paths`, or of unknown
        origin, and for a damaged file.
        """
        self.output.parent.mkdir(parents=True, exist_ok=True)
        if overwrite:
            for path in (self.output, *self.parts(), self.meta, self.images):
                path.unlink(missing_ok=True)
        lines = self._index()
        if self.output.exists() or self.parts():
            self._check(identity, lines, paths)
        now = identify(list(paths) if images is None else images)
        if stale := self._changed(lines, paths, now):
            self._remove(stale)
            lines = self._index()
        write_identities(self.images, {"names": _packed(paths), "images": now})  # after the removal: see `_changed`
        write_json(self.meta, identity)
        return lines

    def _changed(self, lines: Mapping[str, Line], paths: Sequence[str], now: np.ndarray) -> set[str]:
        """The predicted images that have changed since their lines were written."""
        rows = [i for i, path in enumerate(paths) if path in lines and not lines[path].failed]
        if not rows:
            return set()
        stored = read_identities(self.images)
        if stored is None:
            self.notes.append(
                f"{len(rows):,} images predicted before are kept unlooked at: without {self.images.name} nobody knows "
                "if they have changed since"
            )
            return set()
        place = {name: i for i, name in enumerate(_unpacked(stored["names"]))}
        rows = [i for i in rows if paths[i] in place]
        which, _ = changed(stored["images"][[place[paths[i]] for i in rows]], now[rows])
        if which:
            names = [paths[rows[i]] for i in which]
            self.notes.append(
                f"{len(which):,} images have changed since, and are predicted again: {shorten_list(names, 3)}"
            )
        return {paths[rows[i]] for i in which}

    def _remove(self, stale: set[str]) -> None:
        """Remove the lines of these images from the output and its parts."""
        for file in {line.file for line in self._index().values()}:
            with open(file, "rb") as lines, open(self.unfinished, "wb") as kept:
                whole = (line for line in lines if line.endswith(b"\n"))
                kept.writelines(line for line in whole if json.loads(line)["path"] not in stale)
            os.replace(self.unfinished, file)

    def _check(self, identity: Mapping[str, Any], lines: Mapping[str, Line], paths: Sequence[str]) -> None:
        remedy = "Give another --output, or --overwrite to start afresh."
        if not self.meta.is_file():
            raise ResumeError(f"{self.output} exists without {self.meta.name}: its origin is unknown. {remedy}")
        try:
            before = json.loads(self.meta.read_text(encoding="utf-8", errors="surrogateescape"))
        except json.JSONDecodeError as error:
            raise ResumeError(f"{self.meta} is damaged ({error}). {remedy}") from error
        if not isinstance(before, dict) or "fingerprint" not in before:
            raise ResumeError(f"{self.meta} is damaged: it names no fingerprint. {remedy}")
        if before["fingerprint"] != identity["fingerprint"]:
            changed = [key for key in identity if before.get(key) != identity[key] and key != "fingerprint"]
            what = f" (changed: {', '.join(changed)})" if changed else " (the weights differ)"
            raise ResumeError(f"{self.output} was written by another model or settings{what}. {remedy}")
        if strangers := sorted(set(lines) - set(paths)):
            raise ResumeError(
                f"{self.output} holds {len(strangers)} images that are not among the inputs, such as "
                f"{strangers[0]}. {remedy}"
            )

    def part(self, rank: int, first: int) -> Path:
        """Return the part that process `rank` writes in this run.   first: the number of this run's first part."""
        return self.output.with_name(f"{self.output.name}.part-{first + rank:04d}")

    def next_part(self) -> int:
        """Return the number after that of the last existing part, 0 without parts."""
        return max((number + 1 for number, _ in self._numbered_parts()), default=0)

    def _index(self) -> dict[str, Line]:
        """Every whole line by its path; a later line replaces an earlier one of the same image."""
        found: dict[str, Line] = {}
        for file in ([self.output] if self.output.exists() else []) + self.parts():
            start = 0
            with open(file, "rb") as stream:
                for number, line in enumerate(stream, 1):
                    if line.endswith(b"\n"):
                        try:
                            record = json.loads(line)
                            found[record["path"]] = Line(file, start, len(line), "error" in record)
                        except (ValueError, KeyError, TypeError) as error:
                            raise ResumeError(
                                f"{file}, line {number} is no prediction ({error!r}). Remove that line, or "
                                "start afresh with --overwrite."
                            ) from error
                    start += len(line)
        return found

    def merge(self, paths: Sequence[str]) -> int:
        """Write the output, one line for each of `paths` in that order; return how many report an error.

        Raises ResumeError if images have no line.
        """
        lines = self._index()
        if lost := [path for path in paths if path not in lines]:
            raise ResumeError(f"{len(lost)} images have no line, such as {lost[0]}; run the same command again.")
        self.unfinished.unlink(missing_ok=True)  # left by a killed run; a link must not be written through
        with ExitStack() as stack:
            merged = stack.enter_context(open(self.unfinished, "xb"))
            sources = {file: stack.enter_context(open(file, "rb")) for file in {line.file for line in lines.values()}}
            for path in paths:
                line = lines[path]
                sources[line.file].seek(line.start)
                merged.write(sources[line.file].read(line.length))
        os.replace(self.unfinished, self.output)
        for part in self.parts():
            part.unlink()
        self.merged()
        self._held.close()
        return sum(lines[path].failed for path in paths)

    def merged(self) -> None:
        """Handle the merged output, before other runs are let in (a hook, empty here)."""


def _packed(names: Sequence[str]) -> np.ndarray:
    """Paths as an array of bytes, which can be stored without pickle."""
    return np.frombuffer("\0".join(names).encode("utf-8", "surrogateescape"), np.uint8)


def _unpacked(names: np.ndarray) -> list[str]:
    return names.tobytes().decode("utf-8", "surrogateescape").split("\0")
