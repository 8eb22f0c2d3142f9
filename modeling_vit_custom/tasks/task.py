"""The record of a task: all that the engines know about it.

Shapes: N examples, K outputs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..data.targets import Targets
from .hub import Listing

ONE_LABEL = "one label an image"  # a property of a task that some flags and commands require


class Metrics(Protocol):
    """Metrics that are updated batch by batch and keep no more data than they need.

    update: outputs float [n, K] and values [n, …] of some examples. Raises ValueError as `checked` does.
    compute: metric → value, NaN where it is 0/0 on these data.
    per_label: column → [K] values, one for each class, label or target.
    """

    def update(self, outputs: np.ndarray, values: np.ndarray) -> None: ...

    def compute(self) -> dict[str, float]: ...

    def per_label(self) -> dict[str, np.ndarray]: ...


def without(*_: Any) -> Any:
    """Raise ValueError: the placeholder for functions that a task without labels does not have."""
    raise ValueError("a task without labels measures no answers")


def no_charts(*_: Any) -> list[Any]:
    return []


def no_surest(*_: Any) -> list[Any]:
    return []


def no_baseline(_rows: Sequence[Mapping[str, Any]]) -> None:
    return None


@dataclass(frozen=True)
class Mistake:
    """index: of the example.   true, predicted: as text.   score: size of the error.   shown: the score as text.

    output: the output that the mistake is one of.   rival: the one that should have been highest, of a single label.
    """

    index: int
    true: str
    predicted: str
    score: float
    shown: str
    output: int
    rival: int | None = None


@dataclass(frozen=True)
class Details:
    """Results of an evaluation in addition to its metrics.

    notes: sentences for the reader.   confused: [P, 3] int64, (count, true class, predicted class) of every pair that
    occurs, right answers included.   calibration: ECE, NLL, temperature.   left_out: what the charts do not draw.
    """

    notes: list[str] = field(default_factory=list)
    confused: np.ndarray | None = None
    calibration: dict[str, Any] | None = None
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Words:
    """Words that pages and cards use.

    label: name of one label.   labels, mistakes, charts: titles of their sections.   of_all: follows the number of all
    mistakes.   wrong_by: name of a mistake's score.
    """

    label: str = "class"
    labels: str = "Classes"
    mistakes: str = "Most confident mistakes"
    of_all: str = ""
    wrong_by: str = "score"
    charts: str = "Calibration"


@dataclass(frozen=True)
class Answers:
    """How one of the K outputs is named and judged, where a single answer is looked at, as in an explanation.

    given: tensor [B, K] → the outputs that make up the answer, best first, a list for each image.
    probabilities: tensor [B, K] → their probabilities [B, K]; None if outputs are no logits.
    signed: whether an output below 0 says as much as one above.
    """

    given: Callable[[Any], list[list[int]]]
    probabilities: Callable[[Any], Any] | None = None
    signed: bool = False


@dataclass(frozen=True)
class Task:
    """What a model is for. A task without labels leaves out everything about outputs and values.

    name: transformers' problem_type if it has one, as in config.json.
    listing: how the Hub and transformers know it.
    targets: class of its examples' labels.
    does: (the images in words, `model_facts`) → what the model does with them, for a card.
    limits: (`model_facts`) → sentences on what the model cannot do, for a card.
    measures: number of labels → {metric: whether higher is better}; the first metric selects the best model.
    metrics: number of labels → `Metrics`.
    score: (outputs [N, K], values [N, …]) → [N] float64, how right each answer is; higher is better.
    score_name: name of the mean score.   in_points: whether the score is 1 for a right answer and 0 for a wrong one.
    agree: (outputs [N, K], others [N, K]) → [N] bool, whether the two answers are the same.
    entries: (tensor [B, K], label names, maximum number) → for each image the answer of `predict`, HTTP and
    golden.json, ready for JSON.
    mistakes: (outputs, values, label names, maximum number) → (the mistakes, worst first; how many there are in all).
    surest: the same of right answers, the surest one of each class, with the second best output as rival; no number.
    details: (outputs, values, result of `per_label`, label names) → `Details` of an evaluation.
    charts: (outputs, values, label names) → charts of an evaluation.
    baseline: rows of the table of classes → the best answer that is the same for every image: (its name, its score).
    words: words that pages and cards use.
    answers: how single outputs are named; None if they have no names.
    heads: kinds of heads that can be fitted to features, see `features.selection`.
    supports: properties that flags and commands can require, such as ONE_LABEL.
    """

    name: str
    listing: Listing
    targets: type[Targets]
    does: Callable[[str, Mapping[str, Any]], str]
    limits: Callable[[Mapping[str, Any]], list[str]]
    measures: Callable[[int], Mapping[str, bool]]
    metrics: Callable[[int], Metrics] = without
    score: Callable[[np.ndarray, np.ndarray], np.ndarray] = without
    agree: Callable[[np.ndarray, np.ndarray], np.ndarray] = without
    entries: Callable[[Any, Mapping[int, str], int], list[list[dict[str, Any]]]] = without
    mistakes: Callable[[np.ndarray, np.ndarray, Mapping[int, str], int], tuple[list[Mistake], int]] = without
    surest: Callable[[np.ndarray, np.ndarray, Mapping[int, str], int], list[Mistake]] = no_surest
    details: Callable[[np.ndarray, np.ndarray, Mapping[str, np.ndarray], Mapping[int, str]], Details] = without
    charts: Callable[[np.ndarray, np.ndarray, Mapping[int, str]], list[Any]] = no_charts
    baseline: Callable[[Sequence[Mapping[str, Any]]], tuple[str, float] | None] = no_baseline
    words: Words = Words()
    answers: Answers | None = None
    score_name: str = "score"
    in_points: bool = False
    heads: tuple[str, ...] = ()
    supports: frozenset[str] = frozenset()

    def comparison(self, rows: Sequence[Mapping[str, Any]]) -> str | None:
        """Return the `baseline` of a table of classes as text; None if the task has none."""
        constant = self.baseline(rows)
        return constant and f"always answering {constant[0]}: {constant[1]:.1%}"

    @property
    def one_label(self) -> bool:
        """Whether each image has exactly one label."""
        return ONE_LABEL in self.supports
