"""What `--method search` tries, on which images, and for how long: a plan of trainings that fit a time."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ...data.examples import Examples, Splits
from ...data.labels import strata
from ...data.splits import draw_validation
from ...features.selection import stratified_folds
from ..inputs.looks import looks_of

BUDGET = 10.0  # times the seconds of all features that a search may take without --max_minutes
LONGEST = 600.0  # seconds of it on a CPU
ENOUGH = 500  # images, of which a single part tells settings apart
HELD_OUT = 0.2  # share of the training images that is such a part
FOLDS = 2  # in which all of fewer images are held out in turn
LEAST_PASSES = 6.0  # of a setting, below which fewer settings are tried
MOST_PASSES = 30.0
FEWEST_PASSES = 0.5  # with which it is worth a trial


@dataclass(frozen=True)
class Setting:
    """How a model with a fitted head is fine-tuned.

    blocks: how many of the last ones are trained, with norms and head.   epochs: passes over the images.
    bfloat16: whether steps compute in it; weights stay float32.   rank: of adapters, 0 where weights are trained.
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
    """What a trial learns, and what it is asked then.

    learned: positions of training examples.   asked: positions of others, in the training or the validation images.
    """

    learned: np.ndarray
    asked: np.ndarray
    of_validation: bool = False

    def examples(self, splits: Splits) -> Examples:
        """Return those that are asked."""
        if not self.of_validation:
            return splits.train.select(self.asked.tolist())
        assert splits.validation is not None
        return splits.validation


def parts_of(splits: Splits, seed: int) -> list[Part]:
    """Return how settings are compared: by the validation images or by a share of the training images if these are
    enough, else by all training images in turn; not at all where no class has an image to spare.
    """
    groups = strata(np.asarray(splits.train.labels), splits.problem_type)
    if splits.validation is not None and len(splits.validation) >= ENOUGH:
        return [Part(np.arange(len(groups)), np.arange(len(splits.validation)), of_validation=True)]
    if HELD_OUT * len(groups) >= ENOUGH:
        learned, asked, _ = draw_validation(groups, HELD_OUT, seed)
        return [Part(learned, asked)]
    if np.bincount(groups).max() < FOLDS:
        return []
    everything = np.arange(len(groups))
    return [Part(np.setdiff1d(everything, asked), asked) for asked in stratified_folds(groups, FOLDS, seed)]


# (share of the blocks, learning rate, rank of adapters, which of the augmentations): the most likely ones first
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
    """Seconds of one image: learned by all blocks that are kept, answered, and looked at for features.

    bfloat16: whether the first two are computed in it.
    """

    learned: float
    answered: float
    features: float
    bfloat16: bool

    def of_pass(self, blocks: int, kept: int) -> float:
        """Seconds of an image that is learned by the last `blocks` of those kept: the others go forward alone."""
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
    """Return the settings there is time for, and the seconds that they may take with the last fine-tuning.

    All are tried on the first part, the best one on the others, and then on all images.
    kept: blocks of the model with the fitted head.   seconds: that are left of --max_minutes, or None.
    folds: of --folds, each of which is fine-tuned as well.
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
    last = folds * examples  # in all folds each image is learned once less than there are folds

    def passes(count: int) -> float:
        """How many of them each training can make where so many settings are tried."""
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
    """Return the augmentations to be tried, the most likely one first: the one that was asked for, or by the images."""
    if asked != "auto":
        return [asked]
    _, grey = looks_of(examples)
    return ["light", "standard"] if grey else ["standard", "light"]


def computes_faster_in_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies matrices of bfloat16 by instructions of its own, and may use them."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    has: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.10 does not know
    held_back = any(name in os.environ for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"))
    return bool(has.get("avx512_bf16") or has.get("amx_bf16")) and not held_back
