"""Parts of answers that several tasks share.

Shapes: B images, K outputs.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..weight_files_vit_custom import shorten_list


def ranked(scores: Any, names: Mapping[int, str], most: int) -> list[list[dict[str, Any]]]:
    """Return the `most` highest scores of each row of a tensor [B, K] with their labels, best first."""
    best = scores.topk(min(most, scores.shape[-1]))
    return [
        [{"label": names[i], "score": digits(score)} for score, i in zip(row, ids, strict=True)]
        for row, ids in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def digits(value: float) -> float:
    """Return a float32 value rounded to nine significant digits, which are enough to restore it."""
    return float(f"{value:.9g}")


def largest(values: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Return the (row, column) of the `count` largest values of [N, K], largest first."""
    flat = values.ravel()
    count = min(count, flat.size)
    found = np.argpartition(-flat, count - 1)[:count] if count else np.empty(0, np.int64)
    found = found[np.argsort(-flat[found], kind="stable")]
    return [(int(row), int(column)) for row, column in zip(*np.unravel_index(found, values.shape), strict=True)]


def class_notes(report: Mapping[str, np.ndarray], id2label: Mapping[int, str]) -> list[str]:
    """Return sentences on the classes whose recall or precision is undefined."""
    notes = []
    for undefined, what in (("recall", "do not occur in these data"), ("precision", "are never predicted")):
        if names := [id2label[int(c)] for c in np.flatnonzero(np.isnan(report[undefined]))]:
            notes.append(f"{len(names)} of {len(id2label)} classes {what}, their {undefined} is undefined: ")
            notes[-1] += shorten_list(names)
    return notes
