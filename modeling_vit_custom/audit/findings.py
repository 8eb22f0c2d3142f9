"""What an audit finds: the record of one finding, and the images it is about.

Shapes: N images of all splits, in the order train, validation, test.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset

from ..data.examples import MULTI_LABEL, REGRESSION
from ..data.labels import canonical_name
from ..data.raw import RawSplit

ERROR, WARNING, NOTE = SEVERITIES = ("error", "warning", "note")
SPLITS = ("train", "validation", "test")
SERIOUS_SHARE = 0.01  # of images that are lost or leak: above, figures change in the digits that are usually given
EXAMPLES = 20  # shown of each finding; the count says how many there are


@dataclass(frozen=True)
class Example:
    """One case of a finding: what to read, and the numbers of the images it is about."""

    text: str
    images: tuple[int, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found.

    severity: ERROR, training would be silently wrong or stop; WARNING, look at it; NOTE, good to know.
    code:     a stable name, for scripts.
    title:    what there is `count` of.   advice: what to do.
    examples: the first of them.
    """

    severity: str
    code: str
    title: str
    advice: str
    count: int
    examples: list[Example] = field(default_factory=list)


def finding(severity: str, code: str, title: str, advice: str, cases: Iterable[Example | str]) -> list[Finding]:
    """[the finding], or [] if there are no `cases`."""
    found = [case if isinstance(case, Example) else Example(case) for case in cases]
    return [Finding(severity, code, title, advice, len(found), found[:EXAMPLES])] if found else []


@dataclass(frozen=True)
class Catalogue:
    """The images of all splits in one row of numbers.

    images: N sources, read lazily.   names: [N].   splits: [N] position of each image's split in SPLITS.
    labels: [N] class name, frozenset of names or tuple of targets, each equal where the labels are equal.
    self_leaks: whether images of train can leak to one another, because validation is still to be drawn from it.
    """

    images: Any
    names: list[str]
    splits: np.ndarray
    labels: list[Hashable]
    problem_type: str
    self_leaks: bool

    def __len__(self) -> int:
        return len(self.names)

    def gives_away(self, i: Any, j: Any) -> Any:
        """Whether image j comes before i and, if they are the same picture, makes i easy: by another split, or a
        train that is still to be divided. Takes numbers, or arrays of them that broadcast.
        """
        undivided = self.self_leaks & (self.splits[i] == SPLITS.index("train"))
        return ((self.splits[i] != self.splits[j]) | undivided) & (j < i)

    def label_text(self, i: int) -> str:
        label: Any = self.labels[i]
        return (
            label
            if isinstance(label, str)
            else ", ".join(map(str, sorted(label) if isinstance(label, frozenset) else label))
        )

    def text(self, i: int) -> str:
        """The name of image i with its split and label, if it has one."""
        return f"{self.names[i]} [{', '.join(filter(None, (SPLITS[self.splits[i]], self.label_text(i))))}]"


def catalogue(raw: dict[str, RawSplit]) -> Catalogue:
    """All splits as one `Catalogue`."""
    parts = [(split, raw[split]) for split in SPLITS if split in raw]
    return Catalogue(
        ConcatDataset([part.images for _, part in parts]),
        [name for _, part in parts for name in part.names],
        np.repeat([SPLITS.index(split) for split, _ in parts], [len(part) for _, part in parts]),
        [label for _, part in parts for label in _comparable(part)],
        parts[0][1].problem_type,
        self_leaks="validation" not in raw,
    )


def _comparable(part: RawSplit) -> Sequence[Hashable]:
    labels: Any = part.labels
    if part.problem_type == REGRESSION:
        return [tuple(np.atleast_1d(row).tolist()) for row in labels]
    if part.problem_type == MULTI_LABEL:
        return [frozenset(canonical_name(name) for name in row) for row in labels]
    return [canonical_name(name) for name in labels]
