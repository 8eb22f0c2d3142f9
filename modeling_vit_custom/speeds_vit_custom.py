"""Speeds: settings that make a trained classifier faster at a price; `vit-custom speed_table` measures both.

A configuration stores some by their speed-up: speeds={"2x": {"token_merging": "1.4x", "shrink_to": [176, 176]}}.
"""

import re
from collections.abc import Mapping
from typing import Any

from .labels_vit_custom import reject_field

SETTINGS = ("token_merging", "shrink_to")
MERGING_TARGET = re.compile(r"(\d{1,3}(?:\.\d{1,3})?)x")  # such as "2x"
_NAME = re.compile(r"\w[\w.+-]{0,31}")


def check_speed_fields(token_merging: Any, shrink_to: Any, speeds: Any, config: Any) -> None:
    """Raise ValueError, with field, value and fix, for settings that are impossible with this configuration."""
    check_merging("token_merging", token_merging, config.num_hidden_layers)
    _check_size("shrink_to", shrink_to, config.patch_hw)
    for name, settings in (speeds or {}).items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            reject_field("speeds", name, "name each by letters and digits, such as '2x'")
        if not isinstance(settings, Mapping) or (unknown := sorted(set(settings) - set(SETTINGS))):
            wrong = unknown if isinstance(settings, Mapping) else settings
            reject_field(f"speeds[{name!r}]", wrong, f"a speed consists of {' and '.join(SETTINGS)}")
        check_merging(f"speeds[{name!r}]", settings.get("token_merging"), config.num_hidden_layers)
        _check_size(f"speeds[{name!r}]", settings.get("shrink_to"), config.patch_hw)


def apply_speed_preset(config: Any, name: str) -> None:
    """Apply speed `name` to `config`; if there is no "2x", apply the next faster one.

    Raises ValueError if there is none, listing the stored ones.
    """
    speeds = config.speeds or {}
    if name not in speeds and (wanted := MERGING_TARGET.fullmatch(name)):
        gains = {known: float(gain[1]) for known in speeds if (gain := MERGING_TARGET.fullmatch(known))}
        name = min((known for known in gains if gains[known] >= float(wanted[1])), key=gains.__getitem__, default=name)
    if name not in speeds:
        known = f"has {', '.join(map(repr, config.speeds))}" if config.speeds else "has none yet"
        raise ValueError(f"speed={name!r}: this checkpoint {known}; `vit-custom speed_table` measures and stores them.")
    for field in SETTINGS:
        setattr(config, field, speeds[name].get(field))


def check_merging(field: str, setting: Any, layers: int) -> None:
    """Raise ValueError unless `setting` is valid for `token_merging` in a model of `layers` blocks."""
    forms = f"give None, a number of patches, one for each of {layers} blocks, or a target such as '2x'"
    if isinstance(setting, str):
        if not (target := MERGING_TARGET.fullmatch(setting)) or float(target[1]) < 1:
            reject_field(field, setting, forms)
    elif setting is not None:
        counts = setting if isinstance(setting, list | tuple) else [setting] * layers
        if len(counts) != layers or any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in counts):
            reject_field(field, setting, forms)


def _check_size(field: str, size: Any, patch_hw: tuple[int, int]) -> None:
    if size is None:
        return
    sides = list(size) if isinstance(size, list | tuple) else [size, size]
    whole = len(sides) == 2 and all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    if not whole or any(side < cell or side % cell for side, cell in zip(sides, patch_hw, strict=True)):
        reject_field(
            field, size, f"give whole patches of {patch_hw[0]}x{patch_hw[1]} pixels: one number or (height, width)"
        )
