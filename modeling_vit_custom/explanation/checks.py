"""What a map is worth, measured on the very image: faithfulness beside a random map, and the top cells one by one.

Shapes: C channels, H×W pixels, h×w grid.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .measures.faithfulness import confirm, hides, srg
from .measures.perturbed import PerturbedImage

Score = Callable[[torch.Tensor], torch.Tensor]
HIDING = "hiding"  # measure only what hiding the top quarter does: four forwards instead of thirty


@dataclass(frozen=True)
class Checked:
    """faithfulness: p before and after the top quarter is hidden and, unless only that was asked for, srg, srg_random,
    deletion and insertion.

    confirmed: {(row, column): whether replacing that cell alone lowers the logit}, highest cell first.
    """

    faithfulness: dict[str, Any] | None
    confirmed: dict[tuple[int, int], bool] | None


def checked(
    ranking: torch.Tensor,
    image: torch.Tensor,
    probability: Score,
    logit: Score,
    check: bool | str,
    top: int,
    batch_size: int,
) -> Checked:
    """Return the measurements of one map.

    ranking: [h, w].   image: [C, H, W], without pixels that the model does not look at.   probability, logit: images
    [n, C, H, W] → [n].   check: whether to measure faithfulness, or HIDING.   top: cells to confirm, 0 for none.
    """
    size = (ranking.shape[0], ranking.shape[1])
    measured: dict[str, Any] | None = None
    replaced = None
    if check:
        measured = {}
        perturbed = PerturbedImage(probability, image, size, batch_size=batch_size)
        if check != HIDING:
            found = srg(perturbed, ranking)
            areas = {"deletion": found.deletion.area, "insertion": found.insertion.area}
            measured = {"srg": found.srg, "srg_random": found.srg_random, **areas}
        hidden = hides(perturbed, ranking)
        measured |= {
            "before": hidden.before,
            "hidden": hidden.after,
            "hidden_random": hidden.random,
            "sentence": str(hidden),
        }
    if top:
        tried = confirm(PerturbedImage(logit, image, size, batch_size=batch_size), ranking, top=top)
        replaced = dict(zip(tried.cells, tried.confirmed, strict=True))
    return Checked(measured, replaced)
