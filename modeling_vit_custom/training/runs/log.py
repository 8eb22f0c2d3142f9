"""OUT/train.log: what a training command prints, without bars of progress, also after it was interrupted.

A run's folder may not exist yet when the command begins, or may be refused: what was printed until then is kept in
memory, and written once the run is known to begin or to go on there (`keep_log`). Only the first process writes.
"""

import logging
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ..._version import __version__
from ...common.model_files import TRAIN_LOG

CURSOR = "\x1b[A"  # moves to the line of another bar


class RunLog:
    """The text that a command prints, and the file that it is appended to once there is one."""

    def __init__(self, command: str):
        self.command, self.waiting = command, list[str]()
        self.file: TextIO | None = None
        self.began = time.strftime("%Y-%m-%d %H:%M:%S")

    def add(self, text: str) -> None:
        if self.file is None:
            self.waiting.append(text)
            return
        try:
            self.file.write(text)
            self.file.flush()
        except OSError:  # a full disk: the run says so itself
            self.close()

    def open(self, folder: str | Path, goes_on: bool) -> None:
        """Write to the end of a folder's log from now on, beginning with what was printed so far."""
        verb = "continued" if goes_on else "began"
        head = f"=== {self.began}: vit-custom {self.command} {__version__} {verb} ===\n"
        try:
            self.file = open(Path(folder) / TRAIN_LOG, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        except OSError as error:
            print(f"{TRAIN_LOG} cannot be written: {error}", file=sys.stderr)
            return
        self.add(head + "".join(self.waiting))
        self.waiting.clear()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        self.file = None


class _Copied:
    """A stream that also hands its text, without bars, to a log. For the rest it is the stream itself."""

    def __init__(self, stream: Any, log: RunLog):
        self.stream, self.log, self.in_line = stream, log, False

    def write(self, text: str) -> int:
        written = self.stream.write(text)
        kept = text.replace(CURSOR, "")
        if kept and not kept.startswith("\r") and (self.in_line or kept.strip("\n")):  # a bar's, or its line feed
            self.log.add(kept)
            self.in_line = not kept.endswith("\n")
        return written

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


_logs: list[RunLog] = []  # of the commands that are running; a command may call another


@contextmanager
def logged(command: str) -> Iterator[None]:
    """Copy what is printed inside the `with` to the log that `keep_log` opens; an error that is raised, too."""
    log, before = RunLog(command), (sys.stdout, sys.stderr)
    copies = {id(stream): _Copied(stream, log) for stream in before}
    sys.stdout, sys.stderr = copies[id(before[0])], copies[id(before[1])]
    handlers = [handler for handler in _stream_handlers() if id(handler.stream) in copies]
    for handler in handlers:
        handler.stream = copies[id(handler.stream)]
    _logs.append(log)
    try:
        yield
    except Exception:
        log.add(traceback.format_exc())
        raise
    finally:
        _logs.remove(log)
        for handler in handlers:
            handler.stream = handler.stream.stream
        sys.stdout, sys.stderr = before
        log.close()


def keep_log(folder: str | Path, goes_on: bool) -> None:
    """Write the log of the running command into a folder; nothing where a training was called from Python."""
    if _logs:
        _logs[-1].open(folder, goes_on)


def _stream_handlers() -> Iterator[Any]:
    """Yield the handlers of all loggers that write to a stream which they hold, as transformers' does."""
    named = [item for item in logging.root.manager.loggerDict.values() if isinstance(item, logging.Logger)]
    for logger in (logging.root, *named):
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and "stream" in vars(handler):
                yield handler
