"""Where predictions go: a file of JSON lines or CSV that a later run continues, or standard output.

The kinds share their methods: `hold`, `open_run`, `next_part`, `writing`, `merge` (see `ResumableLines`).
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from ..common.errors import UsageError
from ..common.outputs import check_replaceable
from .answers import CSV, FEW, Record, csv_line, csv_row, json_line
from .inputs import STANDARD
from .resume import ResumableLines, ResumeError

Write = Callable[[Sequence[Record]], None]


class JsonLines(ResumableLines):
    """A file of JSON lines."""

    keeps = True  # lines, for a later run

    @contextmanager
    def writing(self, rank: int, first: int, columns: Sequence[str]) -> Iterator[Write]:
        """Yield what writes records to this process's part, see `part`.   columns: of CSV."""
        with open(self.part(rank, first), "x", encoding="utf-8") as part:

            def write(records: Sequence[Record]) -> None:
                part.writelines(map(json_line, records))
                part.flush()

            yield write

    def first_records(self, failed: bool, most: int = FEW) -> list[dict[str, Any]]:
        """Return the first records of the merged output, without embeddings.   failed: only those with an error."""
        found: list[dict[str, Any]] = []
        with open(self.output, "rb") as lines:
            for line in lines:
                if failed and b'"error"' not in line:
                    continue
                record = json.loads(line)
                record.pop("embedding", None)
                if not failed or "error" in record:
                    found.append(record)
                if len(found) == most:
                    break
        return found


class CsvFile(JsonLines):
    """A CSV file, written from a file of JSON lines beside it (OUT.jsonl), from which a later run goes on."""

    def __init__(self, output: str | os.PathLike):
        self.table, self.columns = Path(output), [""]
        check_replaceable(self.table)
        super().__init__(f"{output}.jsonl")

    def open_run(self, identity: Mapping[str, Any], paths: Sequence[str], overwrite: bool, images: Any = None) -> Any:
        """Open the lines beside. Raises ResumeError also for a CSV file that was not written from them."""
        if self.table.exists() and not overwrite and not self.output.exists() and not self.parts():
            raise ResumeError(
                f"{self.table} exists without {self.output.name}: its origin is unknown. Give another --output, or "
                "--overwrite to start afresh."
            )
        return super().open_run(identity, paths, overwrite, images)

    @contextmanager
    def writing(self, rank: int, first: int, columns: Sequence[str]) -> Iterator[Write]:
        self.columns = list(columns)
        with super().writing(rank, first, columns) as write:
            yield write

    def merged(self) -> None:
        unfinished = self.table.with_name(f"{self.table.name}.tmp")
        unfinished.unlink(missing_ok=True)
        with open(self.output, "rb") as lines, open(unfinished, "x", encoding="utf-8", newline="") as table:
            table.write(csv_line(self.columns))
            table.writelines(csv_row(json.loads(line), self.columns) for line in lines)
        os.replace(unfinished, self.table)


class StandardOutput:
    """Standard output: records as they are made, in order. Nothing is kept, and so nothing is continued."""

    keeps = False

    def __init__(self, as_csv: bool):
        self.as_csv, self.notes, self.failures, self.failed = as_csv, list[str](), list[dict[str, Any]](), 0
        self.output = Path(STANDARD)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def hold(self) -> None:
        pass

    def open_run(self, *_: Any) -> dict[str, Any]:
        return {}

    def next_part(self) -> int:
        return 0

    @contextmanager
    def writing(self, rank: int, first: int, columns: Sequence[str]) -> Iterator[Write]:
        if self.as_csv:
            _put(csv_line(columns))

        def write(records: Sequence[Record]) -> None:
            _put("".join(csv_row(record, columns) if self.as_csv else json_line(record) for record in records))
            errors = [dict(record) for record in records if "error" in record]
            self.failed += len(errors)
            self.failures += errors[: FEW - len(self.failures)]

        yield write

    def merge(self, paths: Sequence[str]) -> int:
        return self.failed

    def first_records(self, failed: bool, most: int = FEW) -> list[dict[str, Any]]:
        return self.failures[:most] if failed else []


def _put(text: str) -> None:
    """Write text to standard output as UTF-8, whatever the terminal's encoding. Raises OSError if nobody reads it."""
    sys.stdout.flush()
    try:
        sys.stdout.buffer.write(text.encode("utf-8"))
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        with suppress(OSError, ValueError):  # else Python complains again when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OSError("standard output was closed before all lines were written.") from error


def output_lines(output: str, format_name: str, processes: int) -> JsonLines | CsvFile | StandardOutput:
    """Return where the predictions go.   output: a file, or "-".   format_name: of `answers.WRITTEN`.

    Raises UsageError for standard output of several processes, OutputError for what is no file.
    """
    if output == STANDARD:
        if processes > 1:
            raise UsageError(f"--output - is for one process, here are {processes}: name a file.")
        return StandardOutput(format_name == CSV)
    return CsvFile(output) if format_name == CSV else JsonLines(output)
