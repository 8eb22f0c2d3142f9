"""What a map is worth, measured on the very image: faithfulness beside a random map, and the top cells one by one.

Shapes: C channels, H×W pixels, h×w grid.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .faithfulness import confirm, hides, srg
from .perturbed import PerturbedImage

Score = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Checked:
    """faithfulness: srg, srg_random, deletion, insertion, and p before and after the top quarter is hidden.

    confirmed: {(row, column): whether replacing that cell alone lowers the logit}, highest cell first.
    """

    faithfulness: dict[str, Any] | None
    confirmed: dict[tuple[int, int], bool] | None


def checked(
    ranking: torch.Tensor, image: torch.Tensor, probability: Score, logit: Score, check: bool, top: int, batch_size: int
) -> Checked:
    """Return the measurements of one map.

    ranking: [h, w].   image: [C, H, W], without pixels that the model does not look at.   probability, logit: images
    [n, C, H, W] → [n].   check: whether to measure faithfulness.   top: cells to confirm, 0 for none.
    """
    size = (ranking.shape[0], ranking.shape[1])
    measured = replaced = None
    if check:
        perturbed = PerturbedImage(probability, image, size, batch_size=batch_size)
        found, hidden = srg(perturbed, ranking), hides(perturbed, ranking)
        measured = {
            "srg": found.srg,
            "srg_random": found.srg_random,
            "deletion": found.deletion.area,
            "insertion": found.insertion.area,
            "before": hidden.before,
            "hidden": hidden.after,
            "hidden_random": hidden.random,
            "sentence": str(hidden),
        }
    if top:
        tried = confirm(PerturbedImage(logit, image, size, batch_size=batch_size), ranking, top=top)
        replaced = dict(zip(tried.cells, tried.confirmed, strict=True))
    return Checked(measured, replaced)
