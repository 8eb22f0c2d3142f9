"""`--folds K`: every training image is answered by a model that has not seen it, all that is chosen being chosen anew.

But for the setting of a fine-tuning: that is the one which `search` has found with all images.

Shapes: N examples, K outputs.
"""

from collections.abc import Callable

import numpy as np

from ...common.processes import Processes
from ...data.labels import strata
from ...features.fitted import Fitted, fit, with_head
from ...features.selection import stratified_folds
from ...modeling_vit_custom import ViTCustomForImageClassification
from .floor import Floor
from .kept_answers import KeptAnswers
from .planning import Setting
from .trials import Tuner


def answers_in_folds(
    model: ViTCustomForImageClassification,
    floor: Floor,
    setting: Setting | None,
    tuner: Tuner,
    folds: int,
    processes: Processes,
    kept: KeptAnswers | None,
    progress: Callable[[str], None],
) -> np.ndarray:
    """Return float32 [N, K]: of each training example, by a head fitted to the other folds, fine-tuned by a setting.

    kept: answers of before, for a setting.
    """
    splits = tuner.splits
    labels, seed = np.asarray(splits.train.labels), tuner.training_args.seed
    logits = np.empty((len(labels), len(splits.id2label)), np.float32)

    def fitted_to(indices: np.ndarray) -> Fitted:
        assert floor.features is not None
        kind, views = tuner.model_args.head, floor.record["views"]
        return fit(floor.features, labels, splits.problem_type, logits.shape[1], kind, views, seed, indices)

    dealt = stratified_folds(strata(labels, splits.problem_type), folds, seed)
    for number, held_out in enumerate(dealt, 1):
        rest = np.setdiff1d(np.arange(len(labels)), held_out)
        fitted = processes.from_first(lambda rest=rest: fitted_to(rest))
        if setting is None or kept is None:
            logits[held_out] = processes.from_first(
                lambda fitted=fitted, held_out=held_out: floor.answers(fitted.tap, fitted.head, held_out)
            )
        else:

            def answer(fitted: Fitted = fitted, rest: np.ndarray = rest, held_out: np.ndarray = held_out) -> np.ndarray:
                trainer = tuner.tune(with_head(model, fitted), setting, rest)
                return tuner.answers(trainer, splits.train.select(held_out.tolist()))

            logits[held_out], _ = kept.answered(f"fold {number}: {setting}", answer)
        progress(f"fold {number} of {len(dealt)}: {len(held_out):,} images answered, {fitted.tap}, {fitted.head}")
    return logits
