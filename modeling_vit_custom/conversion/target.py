"""What other libraries' models can express of ours: values of our configuration's fields, and the closest target.

Shapes: B images, C channels, H×W pixels, K classes, D width, N tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..configuration_vit_custom import ViTCustomConfig
from ..image_processing_vit_custom import ViTCustomImageProcessor
from .engine import ConversionError, State


@dataclass(frozen=True)
class Condition:
    """Values of a field that are no short list.   holds: (configuration, value) → whether it may be;   words: when."""

    holds: Callable[[ViTCustomConfig, Any], bool]
    words: str


# The values a field may have; a field without an entry may have any.
Expresses = dict[str, tuple[Any, ...] | Condition]

ANY = Condition(lambda config, value: True, "any value")
GIVEN = Condition(lambda config, value: value is not None, "a number")
SOME = Condition(lambda config, value: value > 0, "1 or more")
SQUARE = Condition(lambda config, value: isinstance(value, int) or value[0] == value[1], "a square")

# Fields that change training only, with the value that changes nothing.
_TRAINING: dict[str, Any] = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
    "initializer_range": 0.02,
    "problem_type": None,
}


def refusals(expresses: Expresses, config: ViTCustomConfig) -> list[str]:
    """Each field that cannot be expressed: its value, and what would do."""
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
    save: writes the library's own folder, with the settings of our image processor.
    save_tensors: writes the tensors alone, under the names of the library's files.
    """

    kind: str
    model: nn.Module
    run: Callable[[Any, torch.Tensor], Mapping[str, torch.Tensor]]
    save: Callable[[Path], None]
    save_tensors: Callable[[Path], None]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Target:
    """A kind of model of another library.

    resampling: how it resamples positions, a key of RESIZE_RULES;   from_square: whether it takes every grid for one.
    training: the fields of training it has.
    build: (configuration, our tensors under their full names, image processor or None where the tensors alone are
    wanted) → its model.
    """

    name: str
    expresses: Expresses
    resampling: str
    training: Sequence[str]
    build: Callable[[ViTCustomConfig, State, ViTCustomImageProcessor | None], Exported]
    from_square: bool = False

    def notes(self, config: ViTCustomConfig) -> list[str]:
        """What differs in training, and at other sizes than the native one."""
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
    """The first target that expresses `config`, or the one named.

    Raises ConversionError naming each field that the closest, of which there may be several, cannot express.
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
    """Notes on what is ours alone. Raises ConversionError unless these settings, read back, are those of ours."""
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
    """As it comes back from JSON."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
