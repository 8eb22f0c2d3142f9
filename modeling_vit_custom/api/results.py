"""What the functions return: the figures of a command, its JSON, and a picture where there is one.

All have `.metrics`, a dict, and `.to_json()`, a text: what the command writes to a file or prints. Those that were a
dict, a tuple, a text, a path or a truth value before they had a class still are one, or behave as one.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..common.claims import FILES, read_record, sha256_of
from ..common.json_files import json_safe, readable_json
from ..common.model_files import CONFUSION_PICTURE, METRICS, TRAINER_STATE
from ..data.names import in_order
from ..evaluation.result import Evaluation
from ..features.index_build import Built
from ..features.index_files import RECORD
from ..features.map import Mapped
from ..inference.answers import json_line
from ..inference.predict import Summary
from ..publishing.report import Check

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    _PlainPath = Path
else:
    _PlainPath = type(Path())


def _file_text(record: Any) -> str:
    """The text of the JSON file that holds `record`."""
    return readable_json(json_safe(record)) + "\n"


def _row(name: str, figures: Mapping[str, Any]) -> str:
    """One line: a name and the numbers of a table; what is no number is left out."""
    numbers = {key: value for key, value in figures.items() if isinstance(value, int | float)}
    return "  ".join([name, *(f"{key} {value:.4g}" for key, value in numbers.items())])


class Record(dict[str, Any]):
    """A dict whose content is that of a command's JSON file: the first field of the dataclass derived from it."""

    def __post_init__(self) -> None:
        self.update(next(iter(vars(self).values())))

    def to_json(self) -> str:
        """Return the text of that file."""
        return _file_text(dict(self))

    def __str__(self) -> str:
        return repr(self)


@dataclass(frozen=True, eq=False, repr=False)
class Trained(Record):
    """A finished training; as a dict it is `metrics`, which metrics.json in `output_dir` holds."""

    metrics: dict[str, Any]
    output_dir: Path

    @property
    def history(self) -> list[dict[str, Any]]:
        """What the Trainer has logged; [] for a method that makes no steps, and for a run of an earlier version."""
        return read_record(self.output_dir / TRAINER_STATE).get("log_history", [])

    def plot(self) -> "Figure":
        """Draw the course of the training: loss, validation metrics, learning rate.

        Raises ValueError if nothing was logged, as by a method that makes no steps.
        """
        from ..reporting.plots import draw_training_history

        return draw_training_history(self.history)

    def __repr__(self) -> str:
        splits = {name: part for name, part in self.metrics.items() if isinstance(part, dict) and "n" in part}
        shown = [_row(name, part) for name, part in splits.items() if name != "train"]
        return "\n".join([f"{type(self).__name__}: {self.output_dir}", *shown])


class Measured(NamedTuple):
    """result: the evaluation with its `metrics`.   context: model, data, device and time taken.   written: files."""

    result: Evaluation
    context: dict[str, Any]
    written: list[Path]

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the task, flat."""
        return self.result.metrics

    def to_json(self) -> str:
        """Return the text of the JSON file that `evaluate` has written."""
        pictures = {path.name: sha256_of(path) for path in self.written if path.name == CONFUSION_PICTURE}
        return _file_text(self.result.report(**self.context, **({FILES: pictures} if pictures else {})))

    def plot(self) -> "Figure":
        """Draw the confusion matrix. Raises ValueError for a task that has none."""
        from ..reporting.confusion import draw_confusions

        confused = self.result.details.confused
        if confused is None:
            raise ValueError(
                f"{self.result.task.name} has no confusion matrix, only one class an image has: see .metrics."
            )
        return draw_confusions(confused, in_order(self.result.id2label))

    def __repr__(self) -> str:
        model, n = self.context.get("model"), len(self.result.names)
        return f"Measured: {model}\n{_row(f'{n:,} images', self.metrics)}"

    def __str__(self) -> str:
        return repr(self)


@dataclass(frozen=True, repr=False)
class Predicted(Summary):
    """A finished prediction: `output` holds one JSON line for each image."""

    @property
    def metrics(self) -> dict[str, int]:
        """How many images there were, could not be read, and were predicted before."""
        return {"images": self.images, "failed": self.failed, "resumed": self.resumed}

    def to_json(self) -> str:
        """Return the text of `output`: JSON Lines, one image a line."""
        return self.output.read_text(encoding="utf-8")

    def records(self) -> list[dict[str, Any]]:
        """Return the lines of `output`: {"path", "predictions"}, or {"path", "error"}."""
        return [json.loads(line) for line in self.to_json().splitlines()]

    def __repr__(self) -> str:
        return f"Predicted: {self.output}\n{_row('', self.metrics).strip()}"


@dataclass(frozen=True, eq=False, repr=False)
class Converted(Record):
    """A finished conversion; as a dict it is `report`, the content of conversion.json in `output`."""

    report: dict[str, Any]
    output: Path

    @property
    def metrics(self) -> dict[str, Any]:
        """Parameters and classes and, if both models were run, whether the check passed and how far they lie apart."""
        check, found = self.report.get("check"), {name: self.report.get(name) for name in ("parameters", "classes")}
        if check:
            rows = [
                row[kind]["relative"] for row in check["from_tensors"] for kind in ("logit", "feature") if kind in row
            ]
            found |= {"passed": check["passed"], "relative_difference": max(rows)}
        return found

    def __repr__(self) -> str:
        return f"Converted: {self.output}\n{_row(str(self.report['family']), self.metrics)}"


@dataclass(frozen=True, eq=False, repr=False)
class Exported(Record):
    """A finished export; as a dict it is `record`, the content of export.json in `output`."""

    record: dict[str, Any]
    output: Path

    @property
    def metrics(self) -> dict[str, Any]:
        """Images a second of the original and of the file; with labelled images, the accuracy of both."""
        return {name: self.record[name] for name in ("speed", "accuracy") if self.record.get(name)}

    def __repr__(self) -> str:
        rows = [_row(name, figures) for name, figures in self.metrics.items()]
        return "\n".join([f"Exported: {self.output}", *rows])


class Published(str):
    """The sha of the commit that holds a published model.   repo_id, url: where it lies."""

    repo_id: str
    url: str
    metrics: dict[str, Any]

    @classmethod
    def at(cls, sha: str, repo_id: str, url: str, folder: str | Path) -> "Published":
        """Build it for the commit of a folder, whose metrics.json becomes `metrics`."""
        made = cls(sha)
        made.repo_id, made.url, made.metrics = repo_id, url, read_record(Path(folder) / METRICS)
        return made

    def to_json(self) -> str:
        """Return repository, commit and address."""
        return _file_text({"repo_id": self.repo_id, "commit": str(self), "url": self.url})


class Staged(_PlainPath):
    """The folder with what would be published: "model" and, if it was asked for, "space"."""

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of the staged metrics.json; {} without one."""
        return read_record(Path(self) / "model" / METRICS)

    def to_json(self) -> str:
        """Return the size in bytes of each staged file."""
        folder = Path(self)
        sizes = {
            path.relative_to(folder).as_posix(): path.stat().st_size
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        return _file_text({"folder": str(folder), "files": sizes})


@dataclass(frozen=True, repr=False, eq=False)
class Verified:
    """The checks of a model. It is true if all have passed, and equals True or False accordingly."""

    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def metrics(self) -> dict[str, int]:
        """How many checks passed, and how many failed or could not run."""
        passed = sum(check.passed for check in self.checks)
        return {"passed": passed, "failed": len(self.checks) - passed}

    def to_json(self) -> str:
        """Return the checks, each with its name, whether it passed, and what it found."""
        return _file_text({"passed": self.passed, "checks": [asdict(check) for check in self.checks]})

    def __bool__(self) -> bool:
        return self.passed

    def __eq__(self, other: object) -> bool:
        return self.passed == bool(other) if isinstance(other, bool | Verified) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.passed)

    def __repr__(self) -> str:
        failed = [str(check) for check in self.checks if not check.passed]
        return "\n".join([f"Verified: {_row('', self.metrics).strip()}", *failed])


@dataclass(frozen=True, repr=False)
class Indexed(Built):
    """A finished index, in the folder `output`."""

    @property
    def metrics(self) -> dict[str, int]:
        """How many images it holds, were computed now, could not be read, and have a label; and the vectors' width."""
        return {name: getattr(self, name) for name in ("images", "computed", "failed", "labelled", "width")}

    def to_json(self) -> str:
        """Return the text of the index's own record, index.json."""
        return (self.output / RECORD).read_text(encoding="utf-8")

    def __repr__(self) -> str:
        return f"Indexed: {self.output}\n{_row('', self.metrics).strip()}"


@dataclass(frozen=True, repr=False)
class Searched:
    """A finished search.

    records: {"path", "neighbours"} or {"path", "error"} for each image; if it was evaluated, the figures alone.
    output: the file that holds them as JSON lines, if one was named.
    """

    records: list[dict[str, Any]]
    output: Path | None = None
    evaluated: bool = False

    @property
    def failed(self) -> int:
        """How many images could not be read."""
        return sum("error" in record for record in self.records)

    @property
    def metrics(self) -> dict[str, Any]:
        """The figures of an evaluation; otherwise how many images there were and could not be read."""
        return dict(self.records[0]) if self.evaluated else {"images": len(self.records), "failed": self.failed}

    def to_json(self) -> str:
        """Return the records as JSON lines."""
        return "".join(map(json_line, self.records))

    def __repr__(self) -> str:
        return f"Searched: {_row('', self.metrics).strip()}"


@dataclass(frozen=True, repr=False)
class ExplainedFiles:
    """Finished explanations.

    records: as `Explanation.records`, with "path" and "picture", or {"path", "error"}.   output: the folder.   notes:
    sentences on these explanations.
    """

    records: list[dict[str, Any]]
    output: Path | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """How many images could not be read."""
        return sum("error" in record for record in self.records)

    @property
    def metrics(self) -> dict[str, Any]:
        """How many explanations there are, and how many images could not be read."""
        return {"explanations": len(self.records) - self.failed, "failed": self.failed}

    def to_json(self) -> str:
        """Return the records as JSON lines."""
        return "".join(map(json_line, self.records))

    def __repr__(self) -> str:
        return f"ExplainedFiles: {_row('', self.metrics).strip()}"


@dataclass(frozen=True, repr=False)
class MappedImages(Mapped):
    """A finished page, in the file `output`."""

    @property
    def metrics(self) -> dict[str, Any]:
        """How many images, points, classes and pictures there are; and the trustworthiness of the places."""
        names = ("images", "points", "classes", "pictures", "trustworthiness")
        return {name: getattr(self, name) for name in names}

    def to_json(self) -> str:
        """Return the name of the page and its figures."""
        return _file_text({"output": str(self.output), **self.metrics})

    def __repr__(self) -> str:
        return f"MappedImages: {self.output}\n{_row('', self.metrics).strip()}"
