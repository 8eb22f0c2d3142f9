"""A task is a record: what engines have to know of it, and engines know no more.

Shapes: N examples, K outputs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .hub import Listing

ONE_LABEL = "one label an image"  # what some flags and commands need of a task


@dataclass(frozen=True)
class Task:
    """What a model is for.

    name: transformers' problem_type, as it stands in config.json.   listing: how the Hub and transformers know it.
    does: (the images in words, the labels) → what the model does with them, for a card's first sentence.
    measures: number of labels → metric → whether more of it is better; the first says which model is the best.
    score: (outputs [N, K], labels [N, …]) → [N] float64, how right each answer is, the more the better.
    score_name: its mean, in words.   in_points: whether differences are told in points, of 100.
    supports: what may be asked for, such as ONE_LABEL.
    """

    name: str
    listing: Listing
    does: Callable[[str, Sequence[str]], str]
    measures: Callable[[int], Mapping[str, bool]]
    score: Callable[[np.ndarray, np.ndarray], np.ndarray]
    score_name: str = "score"
    in_points: bool = False
    supports: frozenset[str] = frozenset()
