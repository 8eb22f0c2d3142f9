"""Which of our models another library can express: supported values of our configuration fields; choice of the target.

Shapes: B images, C channels, H×W pixels, K classes, D width, N tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from ..configuration_vit_custom import ViTCustomConfig
from ..image_processing_vit_custom import ViTCustomImageProcessor
from .engine import ConversionError, State


@dataclass(frozen=True)
class Condition:
    """Supported values of a field, given as a rule.   holds: (configuration, value) → supported?   words: the rule."""

    holds: Callable[[ViTCustomConfig, Any], bool]
    words: str


# Field -> supported values; a field without an entry may have any value.
Expresses = dict[str, tuple[Any, ...] | Condition]

ANY = Condition(lambda config, value: True, "any value")
GIVEN = Condition(lambda config, value: value is not None, "a number")
SOME = Condition(lambda config, value: value > 0, "1 or more")
SQUARE = Condition(lambda config, value: isinstance(value, int) or value[0] == value[1], "a square")

# Fields that affect training only, with the value that has no effect.
_TRAINING: dict[str, Any] = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
    "initializer_range": 0.02,
    "problem_type": None,
}


def refusals(expresses: Expresses, config: ViTCustomConfig) -> list[str]:
    """Return a text for each field that cannot be expressed: its value, and the supported ones."""
    said = []
    for name, values in expresses.items():
        value = getattr(config, name)
        if isinstance(values, Condition) and not values.holds(config, value):
            said.append(f"{name}={value!r} (only {values.words})")
        elif isinstance(values, tuple) and value not in values:
            said.append(f"{name}={value!r} (only {' or '.join(map(repr, values))})")
    return said


@dataclass(frozen=True)
class Exported:
    """Our tensors in a model of another library.

    kind: its class or architecture.   run: (that model or a copy of it, [B, C, H, W]) → as `check.Reference.run`.
    save: writes a folder in the library's format, with the settings of our image processor.
    save_tensors: writes the tensors alone, under the names that the library uses in files.
    prepare: Pillow images → [B, C, H, W], by the library's own preprocessing; None without an image processor.
    """

    kind: str
    model: nn.Module
    run: Callable[[Any, torch.Tensor], Mapping[str, torch.Tensor]]
    save: Callable[[Path], None]
    save_tensors: Callable[[Path], None]
    notes: list[str] = field(default_factory=list)
    prepare: Callable[[Sequence[Image.Image]], torch.Tensor] | None = None


@dataclass(frozen=True)
class Target:
    """A kind of model of another library.

    resampling: how it resamples positions, a key of RESIZE_RULES;   from_square: whether it treats every grid as
    square.   training: the training fields that it has.
    build: (configuration, our tensors under their full names, image processor, or None to write the tensors alone) →
    its model.
    """

    name: str
    expresses: Expresses
    resampling: str
    training: Sequence[str]
    build: Callable[[ViTCustomConfig, State, ViTCustomImageProcessor | None], Exported]
    from_square: bool = False

    def notes(self, config: ViTCustomConfig) -> list[str]:
        """Return notes on what differs in training, and at image sizes other than the native one."""
        notes = [
            f"{name}={value!r}: {self.name} has no such setting; it matters in training only"
            for name, none in _TRAINING.items()
            if name not in self.training and (value := getattr(config, name)) != none
        ]
        if config.position_embedding == "sincos2d":
            notes.append("position_embedding='sincos2d': written as a learned table, which training would change")
        ours, (h, w) = config.position_interpolation, config.grid_hw
        differs = ours != self.resampling or (self.from_square and h != w)
        if config.position_embedding != "none" and differs:
            how = f"{self.resampling!r}{', from a square' * self.from_square}"
            height, width = config.image_hw
            notes.append(
                f"position_interpolation={ours!r}: {self.name} resamples by {how}; images of another size than "
                f"{height}x{width} give other numbers there"
            )
        return notes


def choose(targets: Sequence[Target], config: ViTCustomConfig, name: str | None = None) -> Target:
    """Return the first target that can express `config`; with `name`, only that target is considered.

    Raises ConversionError if there is none. It names the fields that the closest targets cannot express.
    """
    wanted = [target for target in targets if name in (None, target.name)]
    if not wanted:
        raise ConversionError(f"--family {name} is unknown; known are: {', '.join(target.name for target in targets)}.")
    refused = {target.name: refusals(target.expresses, config) for target in wanted}
    fewest = min(map(len, refused.values()))
    if fewest == 0:
        return next(target for target in wanted if not refused[target.name])
    closest = {", ".join(said): name for name, said in reversed(refused.items()) if len(said) == fewest}
    said = "; ".join(f"{name} has no place for {fields}" for fields, name in reversed(closest.items()))
    raise ConversionError(f"{said}." if name else f"no kind of model there expresses this one. The closest: {said}.")


def require_same_processing(
    config: ViTCustomConfig, processor: ViTCustomImageProcessor, read_back: Mapping[str, Any], whose: str
) -> list[str]:
    """Check that the target's preprocessing equals ours; return notes on what only ours does.

    read_back: settings of the target's image processor.   Raises ConversionError if they differ from `processor`.
    """
    ours, theirs = (
        {name: _plain(value) for name, value in one.to_dict().items()}
        for one in (processor, ViTCustomImageProcessor.for_model(config, **read_back))
    )
    background, rounding = ours.pop("background_color"), ours.pop("rounding")
    if differing := [f"{name}={value}" for name, value in ours.items() if theirs.get(name) != value]:
        raise ConversionError(
            f"{whose} has no image processor with {', '.join(differing)}: change that in preprocessor_config.json, or "
            "write the tensors alone (OUT.safetensors)."
        )
    notes = [f"transparency (here on background_color={background}), 16 bits and rotation by EXIF are up to {whose}"]
    if rounding != theirs["rounding"] and ours["do_center_crop"]:
        notes.append(f"rounding={rounding!r}: {whose} may cut one pixel further, {theirs['rounding']!r}")
    if config.num_channels == 1:
        notes.append(f"num_channels=1: give {whose} grey images; here colours are made grey")
    return notes


def _plain(value: Any) -> Any:
    """The value as JSON returns it: lists instead of tuples."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
