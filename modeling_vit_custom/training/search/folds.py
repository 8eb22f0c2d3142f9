"""`--folds K`: every training image is answered by a model that has not seen it.

Features and head are chosen again in each fold. Only the setting of a fine-tuning is not: `search` has found it with
all images.

Shapes: N examples, K outputs.
"""

from collections.abc import Callable

import numpy as np

from ...common.processes import Processes
from ...features.fitted import Fitted, fit, with_head
from ...features.selection import stratified_folds
from ...pretrained_vit_custom import ViTCustomPreTrainedModel
from .floor import Floor
from .kept_answers import KeptAnswers
from .planning import Setting
from .trials import Tuner


def answers_in_folds(
    model: ViTCustomPreTrainedModel,
    floor: Floor,
    setting: Setting | None,
    tuner: Tuner,
    folds: int,
    processes: Processes,
    kept: KeptAnswers | None,
    progress: Callable[[str], None],
) -> np.ndarray:
    """Return float32 [N, K], the outputs for each training example of a model fitted to the other folds.

    setting: fine-tunes the model from its fitted head; None: the head alone.   kept: stores answers of a setting.
    """
    splits = tuner.splits
    targets, seed = splits.train.targets, tuner.training_args.seed
    outputs = np.empty((len(targets), len(splits.id2label)), np.float32)

    def fitted_to(indices: np.ndarray) -> Fitted:
        assert floor.features is not None
        kind, views = tuner.model_args.head, floor.record["views"]
        return fit(floor.features, targets, outputs.shape[1], kind, views, seed, indices)

    dealt = stratified_folds(targets.strata(), folds, seed)
    for number, held_out in enumerate(dealt, 1):
        rest = np.setdiff1d(np.arange(len(targets)), held_out)
        fitted = processes.from_first(lambda rest=rest: fitted_to(rest))
        if setting is None or kept is None:
            outputs[held_out] = processes.from_first(
                lambda fitted=fitted, held_out=held_out: floor.answers(fitted.tap, fitted.head, held_out)
            )
        else:

            def answer(fitted: Fitted = fitted, rest: np.ndarray = rest, held_out: np.ndarray = held_out) -> np.ndarray:
                trainer = tuner.tune(with_head(model, fitted), setting, rest)
                return tuner.answers(trainer, splits.train.select(held_out.tolist()))

            outputs[held_out], _ = kept.answered(f"fold {number}: {setting}", answer)
        progress(f"fold {number} of {len(dealt)}: {len(held_out):,} images answered, {fitted.tap}, {fitted.head}")
    return outputs
