"""What is explained: one output of the model, the difference of two, or a number that a function makes of the outputs.

Shapes: B images, R rows (an image and what is explained of it), n rows of one forward, K outputs.
"""

import difflib
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..common.errors import UsageError
from ..tasks.registry import task_of
from ..tasks.task import Task

REST = "rest"
Target = int | str | Callable[[Any], torch.Tensor] | None


@dataclass(frozen=True)
class Targets:
    """R rows to explain.

    images: the image of each row.   labels, contrast: names, for people.   ids: its output; None if `function` makes
    the score.   others: the output that it is contrasted with, "rest" for the mean of all others, None for nothing.
    """

    task: Task
    images: list[int]
    labels: list[str]
    contrast: str | None = None
    ids: list[int] | None = None
    others: list[int] | str | None = None
    function: Callable[[Any], torch.Tensor] | None = None

    @property
    def signed(self) -> bool:
        """Whether evidence against counts as much as evidence for."""
        return self.others is not None or (self.task.answers is not None and self.task.answers.signed)

    def score(self, outputs: Any, rows: Sequence[int]) -> torch.Tensor:
        """Return what is explained, [n], of the outputs for n rows."""
        if self.function is not None:
            return checked_score(self.function(outputs), len(rows))
        return self.score_of(outputs[self.task.listing.output], rows)

    def score_of(self, values: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """Return what is explained, [n], of values [n, K]; never a probability, which mixes classes."""
        own = values.gather(1, _column(self.ids, rows, values))[:, 0]
        if self.others is None:
            return own
        if self.others == REST:
            return own - (values.sum(1) - own) / (values.shape[1] - 1)
        return own - values.gather(1, _column(self.others, rows, values))[:, 0]

    def probability(self, outputs: Any, rows: Sequence[int]) -> torch.Tensor:
        """Return the probability [n] of what is explained; the score itself where outputs have none.

        Of a contrast it is that of the one output if only the two were possible.
        """
        if not self.has_probability:
            return self.score(outputs, rows)
        if self.others is not None:
            return self.score(outputs, rows).sigmoid()
        return self.probability_of(outputs[self.task.listing.output], rows)

    def probability_of(self, values: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """Return the probability [n] of each row's output among values [n, K]; NaN where they are no logits."""
        answers = self.task.answers
        if answers is None or answers.probabilities is None:
            return torch.full((len(rows),), torch.nan)
        return answers.probabilities(values).gather(1, _column(self.ids, rows, values))[:, 0]

    @property
    def has_probability(self) -> bool:
        return self.function is None and self.task.answers is not None and self.task.answers.probabilities is not None


def _column(ids: Any, rows: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor([ids[row] for row in rows], device=like.device)[:, None]


def checked_score(score: Any, count: int) -> torch.Tensor:
    """Return a score [n]. Raises UsageError unless it is a tensor of one number an image, with a gradient if asked."""
    if not torch.is_tensor(score) or tuple(score.shape) != (count,):
        got = tuple(score.shape) if torch.is_tensor(score) else type(score).__name__
        raise UsageError(f"target returned {got}: return a tensor of ({count},), one number for each image.")
    return score


def read_targets(config: Any, target: Any, contrast: Any, values: torch.Tensor | None, count: int) -> Targets:
    """Return the `Targets` of `count` images.

    target: None (the model's answer: its best class, every label above its threshold, every number), an id, a name, a
    list with one for each image, or a function of the outputs.   contrast: an id, a name or "rest".
    values: the model's outputs [B, K] for these images, whose answer None means.

    Raises UsageError for what the model does not know.
    """
    task = task_of(config)
    if callable(target):
        if contrast is not None:
            raise UsageError("contrast names a second output, but target is a function: let it return the difference.")
        name = getattr(target, "__name__", "target")
        labels = ["target" if name == "<lambda>" else name] * count
        return Targets(task, list(range(count)), labels, function=target)
    if task.answers is None or values is None:
        raise UsageError(
            f"target={target!r}: this model has no named outputs; give a function of its outputs, such as "
            "target=lambda outputs: outputs.pooler_output[:, 0]."
        )
    names = config.id2label
    if target is None:
        chosen = task.answers.given(values)
    elif isinstance(target, Sequence | torch.Tensor) and not isinstance(target, str):
        if len(target) != count:
            raise UsageError(f"target has {len(target)} entries for {count} images: give one for each, or one for all.")
        chosen = [[output_id(one, names, "target")] for one in target]
    else:
        chosen = [[output_id(target, names, "target")]] * count
    images = [image for image, ids in enumerate(chosen) for _ in ids]
    ids = [each for row in chosen for each in row]
    labels = [str(names[each]) for each in ids]
    others = _others(contrast, names, ids)
    against = str(names[others[0]]) if isinstance(others, list) else others
    return Targets(task, images, labels, against, ids, others)


def _others(contrast: Any, names: Mapping[int, str], ids: list[int]) -> list[int] | str | None:
    if contrast is None:
        return None
    if len(names) < 2:
        raise UsageError(f"contrast={contrast!r}: the model has one output; leave contrast out.")
    if contrast == REST and REST not in names.values():
        return REST
    other = output_id(contrast, names, "contrast")
    if other in ids:
        raise UsageError(f"contrast={contrast!r} is what is explained: name another class, or {REST!r}.")
    return [other] * len(ids)


def name_or_id(given: str | int | None, names: Mapping[Any, str] | None) -> str | int | None:
    """Return a class that is given by a text of digits as a name if there is such a class, else as a number."""
    if isinstance(given, str) and given.isdecimal() and given not in (names or {}).values():
        return int(given)
    return given


def output_id(given: Any, names: Mapping[int, str], field: str) -> int:
    """Return the id of an output given by its id or its name.

    Raises UsageError for one that the model does not have.
    """
    if isinstance(given, str):
        found = [index for index, name in names.items() if name == given]
        if len(found) == 1:
            return int(found[0])
        if found:
            raise UsageError(f"{field}={given!r} names {len(found)} outputs: give the id, one of {found}.")
        known = [str(name) for name in names.values()]
        near = difflib.get_close_matches(given, known, 5, 0.4) or known[:5]
        raise UsageError(f"{field}={given!r} is none of the model's {len(names)} classes: {', '.join(near)}, …")
    try:
        index = -1 if isinstance(given, bool) else operator.index(given)
    except TypeError:
        raise UsageError(
            f"{field} is a {type(given).__name__}: give a class by id or name, a list of these, or a function."
        ) from None
    if index not in names:
        raise UsageError(f"{field}={given!r}: the model has the outputs 0 to {len(names) - 1}.")
    return index
