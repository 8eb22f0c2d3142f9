"""`--method fitted_head`: features computed once, the best head for them, and an ordinary model of ours made of both.

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
from ...data.dataset import DRAWS
from ...data.draws import example_keys, uniform
from ...data.examples import Examples, Splits
from ...data.views import DecodedViews, PixelValues, eval_views
from ...evaluation.result import Evaluation, score_examples
from ...features.fitted import Fitted, fit, with_head
from ...features.selection import KINDS_OF, Head, fit_head
from ...features.store import Features, open_features
from ...features.taps import Tap, Taps
from ...modeling_vit_custom import ViTCustomForImageClassification
from ..arguments.data_arguments import DataArguments
from ..arguments.model_arguments import ModelArguments
from ..arguments.training_arguments import ViTTrainingArguments
from ..inputs.augmentation import AUGMENTATIONS, BatchAugmentation
from ..trainer.assembly import shows_progress, train_views

TIMED = 32  # images
CROSS_VALIDATION = "cross_validation"  # in metrics.json, where no images were set aside for validation


@dataclass(frozen=True)
class Floor:
    """model: with the fitted head.   notes: for the screen.   record: for metrics.json.

    examples, held_out: the training examples that were answered by heads which were not fitted to them, and how well.
    features: in the first process alone.   timed: measures `pace`.
    """

    model: ViTCustomForImageClassification
    notes: list[str]
    record: dict[str, Any]
    examples: Examples | None
    held_out: Evaluation | None
    fitted: Fitted
    features: Features | None
    timed: Callable[[], float]

    @cached_property
    def pace(self) -> float:
        """Seconds in which an image is decoded and goes through the encoder."""
        return self.timed()

    def refit(self, indices: np.ndarray, splits: Splits, seed: int) -> Head:
        """Return the same kind of head on the same features, fitted to some of the examples; in the first process."""
        assert self.features is not None
        labels, kind = np.asarray(splits.train.labels)[indices], self.fitted.head.kind
        rows = self.features.of(self.fitted.tap, indices.tolist())
        return fit_head(rows, labels, splits.problem_type, len(splits.id2label), kind, seed)

    def answers(self, tap: Tap, head: Head, indices: np.ndarray) -> np.ndarray:
        """Return float32 [n, K]: what a head answers to some of the examples; in the first process."""
        assert self.features is not None
        features = self.features.of(tap, indices.tolist()).double()
        return (features @ head.weight.T + head.bias).float().numpy()


def build_floor(
    model: ViTCustomForImageClassification,
    processor: Any,
    splits: Splits,
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: ViTTrainingArguments,
) -> Floor:
    """Fit the head in the first process, on features that all processes compute; return the same in each of them.

    Raises UsageError for a head that does not fit the task, DataError for images that cannot be read.
    """
    allowed = KINDS_OF[splits.problem_type]
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
        labels = np.asarray(splits.train.labels)
        options = (model_args.head, count, training_args.seed)
        return fit(features, labels, splits.problem_type, outputs, *options)

    fitted: Fitted = processes.from_first(fitted_head)
    notes = [f"train: features of {count * len(splits.train):,} views in {seconds:.1f} s, {where}", *fitted.sentences()]
    record = {**fitted.record(), "features_seconds": round(seconds, 2), "views": count}
    examples = held_out = None
    if fitted.head.held_out is not None:
        indices, logits = fitted.head.held_out
        examples = splits.train.select(indices.tolist())
        held_out = score_examples(logits.float().numpy(), examples, splits)
    return Floor(with_head(model, fitted), notes, record, examples, held_out, fitted, features, pace)


def seconds_of_an_image(taps: Taps, views: Callable[[Sequence[int], int], torch.Tensor], examples: int) -> float:
    """Return what one takes, from a batch of those that there are: features that were found say nothing of it."""
    indices = list(range(min(examples, TIMED)))
    began = time.perf_counter()
    taps(views(indices, 0).to(taps.model.device, taps.model.dtype)).cpu()
    return (time.perf_counter() - began) / len(indices)


class Views:
    """The pixel values of the training images: as evaluation sees them in view 0, augmented in all further ones."""

    def __init__(
        self,
        model: ViTCustomForImageClassification,
        processor: Any,
        examples: Examples,
        data_args: DataArguments,
        seed: int,
    ):
        config: Any = model.config
        self.seed, self.device = seed, model.device
        if data_args.augmentation == "auto":
            data_args = replace(data_args, augmentation="standard")
        self.plain = DecodedViews(examples, eval_views(processor, config))
        self.larger = DecodedViews(examples, train_views(config, processor, data_args))
        self.to_pixel_values = PixelValues(processor)
        geometry = AUGMENTATIONS[data_args.augmentation]
        self.augment = BatchAugmentation(geometry, config.image_hw, self.to_pixel_values)

    @torch.inference_mode()
    def __call__(self, indices: Sequence[int], view: int) -> torch.Tensor:
        """[B] positions → float32 [B, C, h, w]."""
        if view == 0:
            return self.to_pixel_values(self.plain(indices).to(self.device))
        draws = torch.from_numpy(uniform(example_keys(self.seed, view, indices), DRAWS))
        views = self.larger(indices).to(self.device)
        return self.augment(views, torch.zeros(len(views)), draws.to(self.device))[0]
