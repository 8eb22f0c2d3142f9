"""Records of what an audit finds: a finding, and the catalogue of images that findings are about.

Shapes: N images of all splits, in the order train, validation, test.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset

from ..data.raw import RawSplit
from ..data.targets import Targets

ERROR, WARNING, NOTE = SEVERITIES = ("error", "warning", "note")
SPLITS = ("train", "validation", "test")
SERIOUS_SHARE = 0.01  # of images that are lost or leak: above it, metrics change in the digits usually reported
EXAMPLES = 20  # shown of each finding; the count says how many there are


@dataclass(frozen=True)
class Example:
    """One case of a finding: its text, and the numbers of the images it is about."""

    text: str
    images: tuple[int, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One kind of problem that was found.

    severity: ERROR, training would be silently wrong or stop; WARNING, look at it; NOTE, good to know.
    code:     a stable name, for scripts.
    title:    what `count` counts.   advice: what to do.
    examples: the first of the cases.   all_on_page: whether a page shows all of these.
    """

    severity: str
    code: str
    title: str
    advice: str
    count: int
    examples: list[Example] = field(default_factory=list)
    all_on_page: bool = False


def finding(severity: str, code: str, title: str, advice: str, cases: Iterable[Example | str]) -> list[Finding]:
    """Return [the finding], or [] if there are no `cases`."""
    found = [case if isinstance(case, Example) else Example(case) for case in cases]
    return [Finding(severity, code, title, advice, len(found), found[:EXAMPLES])] if found else []


@dataclass(frozen=True)
class Catalogue:
    """The images of all splits, numbered as one sequence.

    images: N sources, read lazily.   names: [N].   splits: [N] position of each image's split in SPLITS.
    labels: [N] class name, frozenset of names or tuple of numbers, each equal where the labels are equal.
    targets: the kind of targets that they become.
    self_leaks: whether images of train can leak to one another, because validation is still to be drawn from it.
    """

    images: Any
    names: list[str]
    splits: np.ndarray
    labels: list[Hashable]
    targets: type[Targets]
    self_leaks: bool

    def __len__(self) -> int:
        return len(self.names)

    def leaks_to(self, i: Any, j: Any) -> Any:
        """Return True if image j precedes i and a duplicate would leak.

        Duplicates leak between splits, and within a train set that validation is still to be drawn from. Takes numbers,
        or arrays of them that broadcast.
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
        """Return the name of image i with its split and label, if it has one."""
        return f"{self.names[i]} [{', '.join(filter(None, (SPLITS[self.splits[i]], self.label_text(i))))}]"


def catalogue(raw: dict[str, RawSplit]) -> Catalogue:
    """Return all splits as one `Catalogue`."""
    parts = [(split, raw[split]) for split in SPLITS if split in raw]
    return Catalogue(
        ConcatDataset([part.images for _, part in parts]),
        [name for _, part in parts for name in part.names],
        np.repeat([SPLITS.index(split) for split, _ in parts], [len(part) for _, part in parts]),
        [part.targets.comparable(label) for _, part in parts for label in part.labels],
        parts[0][1].targets,
        self_leaks="validation" not in raw,
    )
