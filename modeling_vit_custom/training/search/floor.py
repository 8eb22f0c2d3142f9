"""`--method fitted_head`: features computed once, the best head for them, and both combined into an ordinary model.

Shapes: N examples, K outputs.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from ...common.errors import UsageError
from ...data.counter_rng import example_keys, uniform
from ...data.dataset import DRAWS
from ...data.examples import Examples, Splits
from ...data.views import DecodedViews, PixelValues, eval_resizer
from ...evaluation.result import Evaluation, score_examples
from ...features.fitted import Fitted, fit, with_head
from ...features.selection import Head, fit_head
from ...features.store import Features, open_features
from ...features.taps import Tap, Taps
from ...pretrained_vit_custom import ViTCustomPreTrainedModel
from ...tasks.registry import task_named
from ..arguments.data_arguments import DataArguments
from ..arguments.model_arguments import ModelArguments
from ..arguments.training_arguments import ViTTrainingArguments
from ..inputs.augmentation import AUGMENTATIONS, BatchAugmentation
from ..trainer.assembly import shows_progress, train_views

TIMED = 32  # images
CROSS_VALIDATION = "cross_validation"  # in metrics.json: results on training images that were held out


@dataclass(frozen=True)
class Floor:
    """The fitted head, the baseline of every fine-tuning.

    model: with the fitted head.   notes: for the screen.   record: for metrics.json.
    examples, held_out: training examples that were answered by heads not fitted to them, and the evaluation; None if
    there are too few.
    features: in the first process only, else None.   timed: measures `pace`.
    """

    model: ViTCustomPreTrainedModel
    notes: list[str]
    record: dict[str, Any]
    examples: Examples | None
    held_out: Evaluation | None
    fitted: Fitted
    features: Features | None
    timed: Callable[[], float]

    @cached_property
    def pace(self) -> float:
        """Seconds to decode one image and pass it through the encoder."""
        return self.timed()

    def refit(self, indices: np.ndarray, splits: Splits, seed: int) -> Head:
        """Return a head of the same kind on the same features, fitted to some examples; for the first process only."""
        assert self.features is not None
        rows = self.features.of(self.fitted.tap, indices.tolist())
        targets = splits.train.targets.select(indices)
        return fit_head(rows, targets, len(splits.id2label), self.fitted.head.kind, seed)

    def vectors(self, indices: Sequence[int]) -> np.ndarray:
        """Return float32 [n, D], the pooled vectors of `model` for examples; for the first process only."""
        assert self.features is not None
        return self.features.of(self.fitted.tap, indices).numpy()

    def answers(self, tap: Tap, head: Head, indices: np.ndarray) -> np.ndarray:
        """Return float32 [n, K], the outputs of a head for some of the examples; for the first process only."""
        assert self.features is not None
        features = self.features.of(tap, indices.tolist()).double()
        return (features @ head.weight.T + head.bias).float().numpy()


def build_floor(
    model: ViTCustomPreTrainedModel,
    processor: Any,
    splits: Splits,
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: ViTTrainingArguments,
) -> Floor:
    """Fit the head in the first process, on features that all processes compute; return it in each of them.

    Raises UsageError for a head that does not fit the task, DataError for images that cannot be read.
    """
    allowed = task_named(splits.problem_type).heads
    if model_args.head not in (None, *allowed):
        raise UsageError(f"--head {model_args.head}: {splits.problem_type} has {', '.join(allowed)}.")
    processes = training_args.processes
    net: Any = model
    net.to(training_args.device).eval()
    began = time.perf_counter()
    taps, views = Taps(model), Views(model, processor, splits.train, data_args, training_args.seed)
    count = model_args.feature_views or 1
    features, where = open_features(
        taps,
        splits.train,
        views,
        processor,
        count,
        f"{data_args.augmentation}, seed {training_args.seed}" if count > 1 else "",
        data_args.image_cache,
        training_args.eval_batch_size,
        processes,
        shows_progress(training_args),
    )
    seconds = time.perf_counter() - began
    pace = partial(seconds_of_an_image, taps, views, len(splits.train))
    outputs = len(splits.id2label)

    def fitted_head() -> Fitted:
        assert features is not None
        return fit(features, splits.train.targets, outputs, model_args.head, count, training_args.seed)

    fitted: Fitted = processes.from_first(fitted_head)
    notes = [f"train: features of {count * len(splits.train):,} views in {seconds:.1f} s, {where}", *fitted.sentences()]
    record = {**fitted.record(), "features_seconds": round(seconds, 2), "views": count}
    examples = held_out = None
    if fitted.head.held_out is not None:
        indices, answers = fitted.head.held_out
        examples = splits.train.select(indices.tolist())
        held_out = score_examples(answers.float().numpy(), examples, splits)
    return Floor(with_head(model, fitted), notes, record, examples, held_out, fitted, features, pace)


def seconds_of_an_image(taps: Taps, views: Callable[[Sequence[int], int], torch.Tensor], examples: int) -> float:
    """Return the seconds that one image takes, timed on one batch; stored features would say nothing about it."""
    indices = list(range(min(examples, TIMED)))
    began = time.perf_counter()
    taps(views(indices, 0).to(taps.model.device, taps.model.dtype)).cpu()
    return (time.perf_counter() - began) / len(indices)


class Views:
    """The pixel values of the training images: view 0 as evaluation sees them, all further views augmented."""

    def __init__(
        self,
        model: ViTCustomPreTrainedModel,
        processor: Any,
        examples: Examples,
        data_args: DataArguments,
        seed: int,
    ):
        config: Any = model.config
        self.seed, self.device = seed, model.device
        if data_args.augmentation == "auto":
            data_args = replace(data_args, augmentation="standard")
        self.plain = DecodedViews(examples, eval_resizer(processor, config))
        self.larger = DecodedViews(examples, train_views(config, processor, data_args))
        self.to_pixel_values = PixelValues(processor)
        geometry = AUGMENTATIONS[data_args.augmentation]
        self.augment = BatchAugmentation(geometry, config.image_hw, self.to_pixel_values)

    @torch.inference_mode()
    def __call__(self, indices: Sequence[int], view: int) -> torch.Tensor:
        """Return float32 [B, C, h, w], one view of the images at `indices` [B]."""
        if view == 0:
            return self.to_pixel_values(self.plain(indices).to(self.device))
        draws = torch.from_numpy(uniform(example_keys(self.seed, view, indices), DRAWS))
        views = self.larger(indices).to(self.device)
        return self.augment(views, torch.zeros(len(views)), draws.to(self.device))[0]
