"""The results of a search so far, in the run's folder: an interrupted search goes on and repeats no training.

search.npz holds an array for each answer and a record as JSON: the run, its decisions, and the seconds of each answer.
It is written whole after each new entry, and is not published.
"""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...common.model_files import SEARCH
from ...common.outputs import write_whole
from ...common.processes import Processes


class KeptAnswers:
    """Answers and decisions by name; those of another run are ignored. The first process reads and writes the file.

    run: must be equal for answers to be reused; fit for JSON.   fresh: whether to ignore those of this run too.
    """

    def __init__(self, folder: str | Path, run: dict[str, Any], processes: Processes, fresh: bool = False):
        self.path, self.processes = Path(folder) / SEARCH, processes
        self.run = json.loads(json.dumps(run))
        nothing: tuple[dict, dict, dict] = {}, {}, {}
        self.decisions, self.seconds, self.answers = processes.from_first(lambda: nothing if fresh else self._read())

    def decided(self, name: str, decide: Callable[[], Any]) -> Any:
        """Return the stored decision, or decide now in the first process and store it; as JSON reads it back."""
        if name not in self.decisions:
            self.decisions[name] = self.processes.from_first(lambda: json.loads(json.dumps(decide())))
            self.processes.together(self._write)
        return self.decisions[name]

    def answered(self, name: str, answer: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
        """Return (answer, the seconds it took), stored before or computed now by all processes together."""
        if name not in self.answers:
            began = time.perf_counter()
            found = answer()
            taken = time.perf_counter() - began
            self.answers[name], self.seconds[name] = self.processes.from_first(lambda: (found, taken))
            self.processes.together(self._write)
        return self.answers[name], self.seconds[name]

    def _read(self) -> tuple[dict[str, Any], dict[str, float], dict[str, np.ndarray]]:
        try:
            with np.load(self.path, allow_pickle=False) as file:
                record = json.loads(file["record"].tobytes())
                answers = {name: file[name] for name in file.files if name != "record"}
            if record["run"] == self.run and record["seconds"].keys() == answers.keys():
                return record["decisions"], record["seconds"], answers
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        return {}, {}, {}

    def _write(self) -> None:
        if self.processes.is_first:
            record = {"run": self.run, "decisions": self.decisions, "seconds": self.seconds}
            file, arrays = io.BytesIO(), dict(self.answers)
            np.savez(file, record=np.frombuffer(json.dumps(record).encode(), np.uint8), **arrays)
            write_whole(self.path, file.getvalue())
