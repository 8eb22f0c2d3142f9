"""What a source hands over before any label has become a number.

Shapes: N examples, T regression targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


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

    images:       N sources `decode_image` accepts, read lazily by index.
    names:        [N] what errors and reports call each image.
    problem_type: what the labels below are.
    labels:       [N] class names | [N] lists of class names | [N] or [N, T] float64 targets.
    class_names:  names the source declares in a fixed order (a ClassLabel feature, one column for each
                  label, target names), else None: then they are read off the labels.
    notes:        sentences about what was found, for the user.
    contents:     what lay in the folder it was read from; None for tables and datasets.
    """

    images: Sequence[Any]
    names: Sequence[str]
    problem_type: str
    labels: list[str] | list[list[str]] | np.ndarray
    class_names: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    contents: FolderContents | None = None

    def __len__(self) -> int:
        return len(self.names)
