"""A full fine-tuning beside its floor: what the fitted head alone would have answered to the validation images."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...common.text import printable
from ...data.examples import Splits
from ...evaluation.result import Evaluation
from ..arguments.data_arguments import DataArguments
from ..arguments.method import shared
from ..arguments.model_arguments import ModelArguments
from ..arguments.training_arguments import ViTTrainingArguments
from ..search.floor import build_floor
from ..search.scores import gain_of, told
from ..search.trials import Tuner
from .finishing import measure

MOST = 20_000  # training images, beyond which a head fitted to features is not what one would use


@dataclass(frozen=True)
class Yardstick:
    """record: how the head was fitted.   evaluation: of it, on the validation images."""

    record: dict[str, Any]
    evaluation: Evaluation

    def compare(self, trained: Evaluation) -> tuple[dict[str, Any], str]:
        """Return what metrics.json holds of a model that was trained instead, and a sentence for the screen."""
        task, labels = self.evaluation.problem_type, np.asarray(self.evaluation.labels)
        gain = gain_of(trained.logits, self.evaluation.logits, labels, task)
        figures = {"metrics": self.evaluation.metrics, "gain": gain.mean, "standard_error": gain.error}
        advice = "" if gain.mean > 0 else "; --method fitted_head takes seconds, --method search tries both"
        own = told(self.evaluation.logits, labels, task)
        return self.record | figures, f"the fitted head alone: {own}; fine-tuned: {gain}{advice}"


def yardstick_for(
    model: Any,
    processor: Any,
    splits: Splits,
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: ViTTrainingArguments,
) -> Yardstick | None:
    """Fit and measure the head; None where there is none to compare with.

    There is one for a fine-tuning of everything, of images at hand, with a validation set, where no weights are new.
    """
    new = model_args.config_overrides or model_args.ignore_mismatched_sizes
    if model_args.method != "full" or model_args.variant is not None or new or shared(training_args):
        return None
    if splits.validation is None or data_args.streaming or len(splits.train) > MOST:
        return None
    floor = build_floor(model, processor, splits, model_args, data_args, training_args)
    if training_args.process_index == 0:
        print(*map(printable, floor.notes), sep="\n", flush=True)
    trainer = Tuner(processor, splits, model_args, data_args, training_args).untrained(floor.model)
    return Yardstick(floor.record, measure(trainer, splits.validation, splits, processor))
