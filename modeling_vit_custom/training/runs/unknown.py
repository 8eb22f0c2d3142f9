"""`--reject` and `--max_error`: images kept for the calibration, and the calibration of the finished model.

Shapes: N images, D width of the classifier's input, K classes.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...common.errors import DataError, UsageError
from ...data.examples import Examples, Splits
from ...data.splits import draw_subset
from ...features.selection import stratified_folds
from ...features.unknown import (
    give_unknown,
    limit_error,
    needed_for_error,
    needed_to_reject,
    reject_in_folds,
    reject_in_split,
)
from ...inference.forward import BatchResult, PreparedImages, run_batches
from ...inference.loading import load_classifier
from ...publishing.facts import promise
from ...tasks.registry import task_named
from ...unknown_vit_custom import ViTCustomUnknown, proven_bound
from ..arguments.data_arguments import DataArguments
from ..arguments.declarations import FITTED
from ..arguments.model_arguments import ModelArguments
from ..arguments.training_arguments import ViTTrainingArguments
from ..trainer.assembly import check_task

FEWEST, MOST, SHARE = 200, 2_000, 0.2  # images kept for the calibration, at most this share of the training images
FOLDS = 10
LOOKED_AT = 5_000  # the most training images from which the statistics of the classes are computed
MEASURED = 2_000  # the most images on which the finished model's answers are counted


@dataclass(frozen=True)
class Calibration:
    """A promise, and the images to keep it by.

    held_out: images that the model is not trained on; None: the training images, in folds.
    """

    reject: float | None
    max_error: float | None
    held_out: Examples | None
    seed: int
    batch_size: int

    @property
    def flag(self) -> str:
        return f"--reject {self.reject:g}" if self.reject else f"--max_error {self.max_error:g}"


def keep_for_calibration(
    splits: Splits, model_args: ModelArguments, data_args: DataArguments, training_args: ViTTrainingArguments
) -> tuple[Splits, Calibration | None]:
    """Return (the splits without the images kept for the calibration, the calibration); None if no flag asks for it.

    Raises UsageError or DataError if it is impossible: of streams, for tasks without classes, with too few images.
    """
    reject, max_error = data_args.reject, data_args.max_error
    if reject is None and max_error is None:
        return splits, None
    check_task(task_named(splits.problem_type), data_args, training_args)
    if reject is not None and max_error is not None:
        raise UsageError("--reject and --max_error draw one line in two ways: leave one of them out.")
    if data_args.streaming:
        raise UsageError("--reject and --max_error keep images at random, which --streaming has not at hand.")
    total, seed = len(splits.train), training_args.seed
    kept = min(max(FEWEST, round(0.15 * total)), MOST, int(SHARE * total))
    needed = needed_to_reject(reject) if reject is not None else needed_for_error(max_error or 0)
    calibration = Calibration(reject, max_error, None, seed, training_args.per_device_eval_batch_size)
    if kept < FEWEST and model_args.method in FITTED and reject is not None:
        if total < needed:
            raise DataError(f"{calibration.flag} needs {needed:,} training images, here are {total:,}.")
        return splits, calibration
    if kept < needed:
        raise DataError(
            f"{calibration.flag} needs {needed:,} images for the calibration; {SHARE:.0%} of the {total:,} training "
            f"images are {kept:,}. Give more images, or a larger share."
        )
    rest, chosen = draw_at_random(splits.train.targets.strata(), kept, seed)
    held_out, train = splits.train.select(chosen.tolist()), splits.train.select(rest.tolist())
    splits.notes.append(
        f"calibration: {kept:,} of {total:,} training images, drawn with seed {seed}, which nothing else uses"
    )
    return replace(splits, train=train), replace(calibration, held_out=held_out)


def draw_at_random(strata: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (the indices that stay, `count` or fewer drawn ones); of each class one stays, whichever class is drawn.

    The draw is not stratified: the images to come are not either.
    """
    order = np.random.default_rng([seed, 1]).permutation(len(strata))
    chosen, rest = order[:count], order[count:]
    lost = ~np.isin(strata[chosen], strata[rest])
    _, first = np.unique(strata[chosen[lost]], return_index=True)
    back = chosen[lost][first]
    return np.sort(np.concatenate([rest, back])), np.sort(np.setdiff1d(chosen, back))


def calibrate(calibration: Calibration, trainer: Any, splits: Splits) -> tuple[dict[str, Any], str]:
    """Make the trained model, which the run's folder already holds, answer "unknown"; save it again.

    Returns (metrics.json's "unknown", a sentence). The first process calibrates the saved model, as it will serve.
    """
    found, record, sentence = trainer.processes.from_first(lambda: _calibrated(calibration, trainer, splits))
    if found is not None:
        give_unknown(trainer.net, found)
        trainer.save_model()
    return record, sentence


def _calibrated(
    calibration: Calibration, trainer: Any, splits: Splits
) -> tuple[ViTCustomUnknown | None, dict[str, Any], str]:
    model, processor = load_classifier(str(Path(trainer.args.output_dir)), device=trainer.args.device)
    answers = Answers(model, processor, calibration.batch_size)
    found = _found(calibration, answers, splits.train)
    if found is None:
        asked = f"no probability was found above which at most {calibration.max_error:.1%} of the answers are wrong"
        return None, {"asked": calibration.flag, "found": False}, f"UNKNOWN IS NEVER ANSWERED: {asked}"
    give_unknown(model, found)
    options = found.options
    record = {**options, "bound": proven_bound(options)}
    sentence = f'the model says "unknown" {promise(options)}'
    split, examples = ("test", splits.test) if splits.test is not None else ("validation", splits.validation)
    if examples is not None:
        drawn = draw_subset(examples.targets.strata(), MEASURED, calibration.seed)
        record[split] = answers.counted(examples.select(drawn.tolist()))
        row = record[split]
        sentence += f"; of {row['n']:,} {split} images {row['unknown']:.1%}"
        if row["error"] is not None:
            sentence += f", and {row['error']:.1%} of the other answers are wrong"
    return found, record, sentence


def _found(calibration: Calibration, answers: "Answers", train: Examples) -> ViTCustomUnknown | None:
    classes, held_out = answers.model.config.num_labels, calibration.held_out
    if calibration.max_error is not None:
        assert held_out is not None
        outputs, targets = answers(held_out)[1].numpy(), held_out.targets
        right = task_named(targets.problem_type).score(outputs, targets.values) == 1
        return limit_error(outputs, right, calibration.max_error)
    assert calibration.reject is not None
    if held_out is None:
        folds = stratified_folds(train.targets.strata(), min(FOLDS, len(train)), calibration.seed)
        return reject_in_folds(answers(train)[0], train.targets.values, folds, classes, calibration.reject)
    drawn = train.select(draw_subset(train.targets.strata(), LOOKED_AT, calibration.seed).tolist())
    vectors = answers(drawn)[0], drawn.targets.values
    return reject_in_split(*vectors, answers(held_out)[0], classes, calibration.reject)


@dataclass(frozen=True)
class Answers:
    """A model's answers to images, as `predict` computes them."""

    model: Any
    processor: Any
    batch_size: int

    def __call__(self, examples: Examples) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return (the classifier's inputs [N, D], its logits [N, K], whether each image is unknown, [N] or None).

        Raises DataError for an image that cannot be read.
        """
        images = PreparedImages(examples.images, examples.names, self.processor)
        batches = [list(range(len(images)))[i : i + self.batch_size] for i in range(0, len(images), self.batch_size)]
        found = BatchResult.joined(list(run_batches(self.model, images, batches, with_pooled=True)))
        for error in found.errors.values():
            raise DataError(error)
        assert found.pooled is not None
        with torch.inference_mode():
            vectors = self.model.pre_logits(found.pooled.to(self.model.device)).cpu()
        return vectors, found.outputs, found.unknown

    def counted(self, examples: Examples) -> dict[str, Any]:
        """Return {n, share of unknown images, share of wrong answers among the others}; None where there are none."""
        _, outputs, unknown = self(examples)
        assert unknown is not None
        answered = (~unknown).numpy()
        right = task_named(examples.targets.problem_type).score(outputs.numpy(), examples.targets.values)
        error = float(1 - right[answered].mean()) if answered.any() else None
        return {"n": len(examples), "unknown": float(unknown.float().mean()), "error": error}
