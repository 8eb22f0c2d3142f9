"""A full fine-tuning compared with its baseline: the fitted head alone, on the same validation images."""

from dataclasses import dataclass
from typing import Any

from ...common.text import printable
from ...data.examples import Splits
from ...evaluation.result import Evaluation
from ..arguments.data_arguments import DataArguments
from ..arguments.method import shared
from ..arguments.model_arguments import ModelArguments
from ..arguments.training_arguments import ViTTrainingArguments
from ..search.floor import build_floor
from ..search.scores import format_score, gain_of
from ..search.trials import Tuner
from .finishing import measure

MOST = 20_000  # training images; with more, nobody would choose a fitted head instead


@dataclass(frozen=True)
class Yardstick:
    """The fitted head as a baseline.

    record: how the head was fitted.   evaluation: of the head on the validation images.
    """

    record: dict[str, Any]
    evaluation: Evaluation

    def compare(self, trained: Evaluation) -> tuple[dict[str, Any], str]:
        """Return the comparison with a trained model: (the entry of metrics.json, a sentence for the screen)."""
        task, values = self.evaluation.task, self.evaluation.values
        gain = gain_of(trained.outputs, self.evaluation.outputs, values, task)
        figures = {"metrics": self.evaluation.metrics, "gain": gain.mean, "standard_error": gain.error}
        advice = "" if gain.mean > 0 else "; --method fitted_head takes seconds, --method search tries both"
        own = format_score(self.evaluation.outputs, values, task)
        return self.record | figures, f"the fitted head alone: {own}; fine-tuned: {gain}{advice}"


def yardstick_for(
    model: Any,
    processor: Any,
    splits: Splits,
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: ViTTrainingArguments,
) -> Yardstick | None:
    """Fit and measure the head; return None if it is no baseline for this training.

    It is one for a full fine-tuning of a checkpoint without new weights, on at most MOST images that are not streamed,
    with a validation set, in processes that each hold the whole model.
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
