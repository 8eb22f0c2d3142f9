"""`--recipe auto`: a recipe from the data, the time and the hardware, each choice with its reason.

It is a recipe like any other: flags that are given win. OUTPUT_DIR/recipe.yaml keeps it, to be read, changed, used
again, and followed when the run goes on. Its rules are rules of thumb, from the runs in README's table and those of
`recipes/`. They try nothing out, but for a checkpoint and few images they choose `--method search`, which does.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...configuration_vit_custom import ViTCustomConfig
from ..arguments.declarations import IN_STEPS
from ..inputs.looks import LOOKED_AT

# Assumed training speed in floating point operations per second, of a core and of an accelerator.
CORE, ACCELERATOR = 15e9, 20e12
MINUTES = {False: 30.0, True: 240.0}  # assumed without --max_minutes; key: whether on an accelerator
SOME, MANY = 5_000, 20_000  # images


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint to start from.   parameters: how many.   config: as stored, but with --image_size if given."""

    parameters: int
    config: Any


@dataclass(frozen=True)
class Facts:
    """The facts that the rules look at.

    images: for training.   side: median of the shorter sides, in pixels.   grey: whether no image has colours.
    minutes: of --max_minutes, or None.   memory: bytes of the accelerator.   method: of --method, or None.
    in_steps: whether flags were given that say how to train in steps.
    """

    images: int
    side: int
    grey: bool
    single_label: bool
    minutes: float | None
    cores: int
    accelerator: str | None = None
    memory: int = 0
    checkpoint: Checkpoint | None = None
    method: str | None = None
    in_steps: bool = False

    @property
    def time(self) -> float:
        """Minutes of the run: those given, else those assumed."""
        return self.minutes or MINUTES[self.accelerator is not None]

    def passes(self, config: ViTCustomConfig) -> float:
        """Return how many passes over the data are likely to fit into the time."""
        speed = ACCELERATOR if self.accelerator else CORE * self.cores
        return 60 * self.time * speed / (3 * operations(config) * self.images)


@dataclass(frozen=True)
class Choice:
    flag: str
    value: Any
    why: str


def operations(config: ViTCustomConfig) -> float:
    """Return the approximate floating point operations of one image's forward pass.

    They are two for each weight and token, and those of attention.
    """
    tokens = config.grid_hw[0] * config.grid_hw[1] + config.num_prefix_tokens
    width, hidden = config.hidden_size, config.intermediate_size
    return 2.0 * config.num_hidden_layers * tokens * (4 * width**2 + 2 * width * hidden + 2 * tokens * width)


def choose(facts: Facts) -> list[Choice]:
    """Return the choices of the recipe, in the order in which they are printed."""
    return list(_from_scratch(facts) if facts.checkpoint is None else _from_checkpoint(facts, facts.checkpoint))


def _from_scratch(facts: Facts) -> Iterator[Choice]:
    size, patch, sizes = _input_size(facts)
    configs = {
        name: ViTCustomConfig.from_variant(f"{name}/{patch}", image_size=size, num_channels=1 if facts.grey else 3)
        for name in sizes
    }
    enough = 100 if facts.images < SOME else 30 if facts.images < MANY else 15  # passes; few images bear more of them
    affordable = [name for name in sizes if facts.passes(configs[name]) >= enough]
    name = affordable[-1] if affordable else sizes[0]
    passes = facts.passes(configs[name])
    yield Choice(
        "variant",
        f"{name}/{patch}",
        f"no checkpoint; of {', '.join(sizes)} the largest for which {facts.time:g} minutes on "
        f"{facts.accelerator or f'{facts.cores} cores'} are {enough} passes or more over {facts.images:,} "
        f"images (about {passes:,.0f})",
    )
    yield Choice("image_size", size, f"the images' shorter side is {facts.side} pixels in the middle")
    if facts.grey:
        yield Choice("config_overrides", "num_channels=1", f"none of {LOOKED_AT} images has colours")
    if facts.minutes is None:
        yield Choice("num_train_epochs", enough, "no --max_minutes; the fewer images, the more passes they bear")
    epochs = enough if facts.minutes is None else min(1000, max(1, round(passes)))
    yield from _augmentation(facts, epochs)
    small = name in ("nano", "micro", "mini")
    yield Choice("muon", True, "from scratch it learns more in each step than AdamW")
    yield Choice("learning_rate", 3e-3 if small else 1e-3, "what the variant was tuned with")
    yield Choice("weight_decay", 0.1, "the same")
    batch = 32 if facts.images < SOME else 64 if small else 128
    yield Choice("per_device_train_batch_size", batch, f"{facts.images:,} images")
    if name not in ("nano", "micro") and epochs >= 30:
        yield Choice("drop_path_rate", 0.1, "a deep model and many passes")
    if epochs * facts.images / batch > 2_000:
        yield Choice("ema_decay", 0.998, "some thousand steps, of which the average is better than the last")
    yield from _validations(epochs)


def _input_size(facts: Facts) -> tuple[int, int, tuple[str, ...]]:
    """Image size and patch size in pixels, and the variants to choose from, small to large."""
    compact = ("nano", "micro", "mini")
    if facts.side <= 40:
        return 32, 8, compact
    if facts.side <= 80:
        return 64, 8, compact
    if facts.side <= 160 or facts.accelerator is None:
        return 128, 16, compact
    return 224, 16, ("ti",) if facts.images < 50_000 else ("ti", "s") if facts.images < 1_000_000 else ("ti", "s", "b")


def _augmentation(facts: Facts, epochs: int) -> Iterator[Choice]:
    if epochs < 8:
        yield Choice("augmentation", "none", "in so few passes no image is seen often enough to be learnt by heart")
    elif facts.grey:
        yield Choice("augmentation", "light", "grey images may be digits or text, which must not be mirrored")
    elif facts.side <= 40:
        yield Choice("augmentation", "shift", "of small images a crop would show too little")
    else:
        yield Choice("augmentation", "standard", "photographs: random crops, mirrored")
    if facts.single_label and not facts.grey and epochs >= 50:
        yield Choice("mixup", 0.8, "many passes over few images")
        yield Choice("cutmix", 1.0, "the same")
    if facts.single_label and epochs >= 8:
        yield Choice("label_smoothing_factor", 0.1, "so that the model does not grow too sure of what it sees often")


def _from_checkpoint(facts: Facts, checkpoint: Checkpoint) -> Iterator[Choice]:
    config, passes = checkpoint.config, facts.passes(checkpoint.config)
    shrunk = 8 * math.lcm(*config.patch_hw)
    if passes < 3 and min(config.image_hw) > shrunk:
        why = f"{facts.time:g} minutes are about {passes:.1f} passes at {config.image_hw[0]} pixels"
        yield Choice("image_size", shrunk, f"{why}: smaller images cost less, and positions follow")
        passes *= (config.image_hw[0] * config.image_hw[1]) / shrunk**2
    method, why = (facts.method, "asked for") if facts.method else _method(facts, checkpoint, passes)
    yield Choice("method", method, why)
    if method in IN_STEPS:
        return
    if method in ("full", "head_then_full"):
        yield Choice("layer_decay", 0.75, "early layers are general and change least")
        yield Choice("learning_rate", 1e-4, "of the last layers; before the decay by depth")
        yield Choice("drop_path_rate", 0.1, "against learning few images by heart")
    epochs = 20 if method == "linear_probe" else 10 if facts.images < SOME else 5
    if facts.minutes is None:
        yield Choice("num_train_epochs", epochs, f"{facts.images:,} images")
    if method != "linear_probe" and facts.side <= 40:
        yield Choice("augmentation", "light" if facts.grey else "shift", "of small images a crop would show too little")
    yield from _validations(epochs if facts.minutes is None else round(passes))


def _method(facts: Facts, checkpoint: Checkpoint, passes: float) -> tuple[str, str]:
    state = 20 * checkpoint.parameters  # bytes of weights, gradients, Adam's two moments, and activations
    if facts.memory and state > facts.memory / 2:
        return "lora", f"{checkpoint.parameters:,} parameters with gradients and Adam's state fill the accelerator"
    if not facts.in_steps and facts.images < MANY:
        return "search", f"{facts.images:,} images: a head fitted to features, and fine-tuned where that is better"
    if passes < 1:
        return "linear_probe", f"the time is about {passes:.1f} passes: not enough to train everything"
    if facts.images < SOME:
        return "head_then_full", f"{facts.images:,} images: a head fitted first keeps the features from being spoilt"
    return "full", f"{facts.images:,} images are enough to train everything"


def _validations(epochs: int) -> Iterator[Choice]:
    if epochs > 20 or epochs < 3:
        for name in ("eval", "save"):
            yield Choice(f"{name}_strategy", "steps", "ten times in all, however many passes there are")
            yield Choice(f"{name}_steps", 0.1, "the same")
