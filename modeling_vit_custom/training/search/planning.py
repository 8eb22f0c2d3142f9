"""The plan of `--method search`: which settings are tried, on which images, and for how long."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...data.examples import Examples, Splits
from ...data.splits import draw_validation
from ...features.selection import stratified_folds
from ..inputs.looks import looks_of

BUDGET = 10.0  # times the seconds for all features: time of a search without --max_minutes
LONGEST = 600.0  # seconds: its upper limit on a CPU
ENOUGH = 500  # images: a single held-out part of so many tells settings apart
HELD_OUT = 0.2  # share of the training images that makes such a part
FOLDS = 2  # if there are fewer images, all are held out in turn, in so many folds
LEAST_PASSES = 6.0  # for each setting; if time is short, fewer settings are tried
MOST_PASSES = 30.0
FEWEST_PASSES = 0.5  # if there is no time for so many, nothing is tried


@dataclass(frozen=True)
class Setting:
    """How a model with a fitted head is fine-tuned.

    blocks: how many last blocks are trained, with all that follows them.   epochs: passes over the images.
    bfloat16: whether steps compute in it; weights stay float32.   rank: of LoRA adapters; 0: weights are trained.
    """

    blocks: int
    learning_rate: float
    epochs: float
    augmentation: str
    bfloat16: bool = False
    rank: int = 0

    def __str__(self) -> str:
        what = "the last block" if self.blocks == 1 else f"the last {self.blocks} blocks"
        if self.rank:
            what = f"adapters of rank {self.rank}"
        return (
            f"fine-tuning {what} (learning rate {self.learning_rate:g}, {self.augmentation} augmentation, "
            f"{self.epochs:.1f} passes)"
        )

    def record(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Part:
    """The images that a trial learns, and those held out to measure it.

    learned: positions of training examples.   asked: positions of the held-out ones, in the training or the validation
    images.   of_validation: whether these are the validation images.
    """

    learned: np.ndarray
    asked: np.ndarray
    of_validation: bool = False

    def examples(self, splits: Splits) -> Examples:
        """Return the held-out examples."""
        if not self.of_validation:
            return splits.train.select(self.asked.tolist())
        assert splits.validation is not None
        return splits.validation


def parts_of(splits: Splits, seed: int) -> list[Part]:
    """Return the parts on which settings are compared; empty if no class has an image to spare.

    One part is held out if it has ENOUGH images: the validation images, or else a share of the training images. If
    neither has, all training images are held out in turn.
    """
    groups = splits.train.targets.strata()
    if splits.validation is not None and len(splits.validation) >= ENOUGH:
        return [Part(np.arange(len(groups)), np.arange(len(splits.validation)), of_validation=True)]
    if HELD_OUT * len(groups) >= ENOUGH:
        learned, asked, _ = draw_validation(groups, HELD_OUT, seed)
        return [Part(learned, asked)]
    if np.bincount(groups).max() < FOLDS:
        return []
    everything = np.arange(len(groups))
    return [Part(np.setdiff1d(everything, asked), asked) for asked in stratified_folds(groups, FOLDS, seed)]


# (share of the blocks, learning rate, rank of adapters, index of the augmentation), most promising first
SETTINGS = (
    (1.0, 2e-4, 0, 0),
    (1.0, 2e-4, 0, 1),
    (1.0, 1e-4, 0, 0),
    (1.0, 4e-4, 0, 0),
    (2 / 3, 2e-4, 0, 0),
    (1.0, 1e-3, 8, 0),
)


@dataclass(frozen=True)
class Cost:
    """Seconds of one image.

    learned: a training step through all blocks of the model.   answered: a forward pass.   features: computing them.
    bfloat16: whether the first two are computed in it.
    """

    learned: float
    answered: float
    features: float
    bfloat16: bool

    def of_pass(self, blocks: int, kept: int) -> float:
        """Return the seconds of an image if the last `blocks` of the kept ones are trained; others only go forward."""
        return self.learned * (kept + 2 * blocks) / (3 * kept)


def plan(
    kept: int,
    cost: Cost,
    examples: int,
    parts: Sequence[Part],
    seconds: float | None,
    augmentations: Sequence[str],
    accelerator: bool,
    folds: int = 1,
) -> tuple[list[Setting], float]:
    """Return (the settings that there is time for, the seconds that they and the last fine-tuning may take).

    All settings are tried on the first part, the best one also on the other parts and then on all images.
    kept: number of blocks of the model with the fitted head.   seconds: left of --max_minutes, or None.
    folds: of --folds, each of which is fine-tuned as well; 1 without.
    """
    if seconds is None:
        seconds = BUDGET * cost.features * examples
        seconds = seconds if accelerator else min(seconds, LONGEST)
    options = [
        (max(1, round(share * kept)), rate, rank, augmentations[which])
        for share, rate, rank, which in SETTINGS
        if which < len(augmentations)
    ]
    first, others = len(parts[0].learned), sum(len(part.learned) for part in parts[1:])
    last = folds * examples  # K folds learn each image K - 1 times, the last fine-tuning once

    def passes(count: int) -> float:
        """Return how many passes each training can make if `count` settings are tried."""
        asked = count * len(parts[0].asked) + sum(len(part.asked) for part in parts[1:])
        once = sum(cost.of_pass(blocks, kept) for blocks, *_ in options[:count]) * first
        most = max(cost.of_pass(blocks, kept) for blocks, *_ in options[:count])
        return (seconds - cost.answered * asked) / (once + most * (others + last))

    counts = [count for count in range(1, len(options) + 1) if passes(count) >= LEAST_PASSES]
    count = max(counts, default=1)
    epochs = min(MOST_PASSES, passes(count))
    if epochs < FEWEST_PASSES:
        return [], seconds
    return [
        Setting(blocks, rate, round(epochs, 2), augmentation, cost.bfloat16, rank)
        for blocks, rate, rank, augmentation in options[:count]
    ], seconds


def augmentations_for(asked: str, examples: Examples) -> list[str]:
    """Return the augmentations to try, most promising first: the one asked for, or two by the images if "auto"."""
    if asked != "auto":
        return [asked]
    _, grey = looks_of(examples)
    return ["light", "standard"] if grey else ["standard", "light"]
