"""What a killed run of `explain` has left in its folder, from which the same command goes on.

explanations.unfinished.json    while a run is unfinished: what its explanations are made by
explanations.unfinished.jsonl   of a page: a line for each answer that it will show

Only the end of a file can be torn, and an image's records may be several: what follows the last whole batch is removed
and made again, in the same batches, so that the result is that of a run that was not killed. Another model, other flags
or other images start afresh.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from ..common.json_files import write_json
from ..common.outputs import write_whole
from ..inference.answers import json_line

RECORDS = "explanations.jsonl"
MADE_BY, ON_PAGE = "explanations.unfinished.json", "explanations.unfinished.jsonl"


class UnfinishedFiles:
    """The records of a folder, of images in order, and what a page will show of them.

    records: those that were kept, then those that were added.   images: how many were kept.   on_page: as `records`.
    """

    def __init__(self, folder: Path, made_by: str, paths: Sequence[str], batch: int):
        self.folder, self.made_by = folder, {"made_by": made_by}
        self.records: list[dict[str, Any]] = []
        self.on_page: list[dict[str, Any]] = []
        self.images = 0
        if self._are_of_this_run():
            self._keep(paths, batch)

    def __enter__(self) -> Self:
        write_whole(self.folder / RECORDS, "".join(map(json_line, self.records)))
        write_whole(self.folder / ON_PAGE, "".join(map(json_line, self.on_page)))
        write_json(self.folder / MADE_BY, self.made_by)
        with ExitStack() as opened:
            self._lines = [
                opened.enter_context(open(self.folder / name, "a", encoding="utf-8")) for name in (RECORDS, ON_PAGE)
            ]
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        self._open.close()

    def add(self, records: Sequence[dict[str, Any]], row: dict[str, Any] | None) -> None:
        """Write the records of an answer.   row: what the page will show of it."""
        rows = [] if row is None else [row]
        for file, kept, added in zip(self._lines, (self.records, self.on_page), (records, rows), strict=True):
            file.writelines(map(json_line, added))
            file.flush()
            kept += added

    def finish(self) -> None:
        """Remove what only an unfinished run needs."""
        for name in (MADE_BY, ON_PAGE):
            (self.folder / name).unlink()

    def _are_of_this_run(self) -> bool:
        try:
            return json.loads((self.folder / MADE_BY).read_text(encoding="utf-8")) == self.made_by
        except (OSError, ValueError):
            return False

    def _keep(self, paths: Sequence[str], batch: int) -> None:
        """Read the records of the first images that are there with their pictures, whole batches of them."""
        found = [
            (path, list(own)) for path, own in groupby(_whole_lines(self.folder / RECORDS), lambda one: one["path"])
        ]
        there = 0
        for expected, (path, own) in zip(paths, found, strict=False):
            if path != expected or not all(self._has_picture(one) for one in own):
                break
            there += 1
        last = len(found) == there  # of the last one, not all records may be there
        self.images = (there - last) // batch * batch
        self.records = [record for _, own in found[: self.images] for record in own]
        kept = {*paths[: self.images]}
        self.on_page = [row for row in _whole_lines(self.folder / ON_PAGE) if row["path"] in kept]

    def _has_picture(self, record: Mapping[str, Any]) -> bool:
        return "picture" not in record or (self.folder / record["picture"]).is_file()


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, without a torn end."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in lines]
