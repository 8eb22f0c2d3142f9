"""A split as its source gives it, before any label becomes a number.

Shapes: N examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .targets import Targets


@dataclass(frozen=True)
class FolderContents:
    """Every file below `root`, in exactly one of the first three lists."""

    root: Path
    images: list[Path]  # in a class folder and readable
    classless: list[Path]  # readable images directly in the folder
    skipped: list[Path]  # anything else
    classes: list[str]  # names of the class folders, those without an image too
    refused: list[str]  # why a link was not followed, one sentence each


@dataclass(frozen=True)
class RawSplit:
    """One split as it was found.

    images:      N sources that `decode_image` accepts, read lazily by index.
    names:       [N] names of the images in errors and reports.
    targets:     the kind of targets that the labels become.
    labels:      [N] in the form that this kind reads.
    class_names: names that the source declares in a fixed order (a ClassLabel feature, one column for each
                 label, target names); None: they are collected from the labels.
    notes:       sentences about what was found, for the user.
    contents:    files in the folder it was read from; None for tables and datasets.
    """

    images: Sequence[Any]
    names: Sequence[str]
    targets: type[Targets]
    labels: Sequence[Any] | np.ndarray
    class_names: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    contents: FolderContents | None = None

    def __len__(self) -> int:
        return len(self.names)

    def class_names_of(self, index: int) -> Sequence[str]:
        """Return the class names of an example; () if labels are numbers."""
        return self.targets.names_of(self.labels[index])
