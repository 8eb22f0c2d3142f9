"""The dataclasses of `train` and `pretrain` built from flags by name, for command line and Python alike."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

from ..arguments.data_arguments import DataArguments
from ..arguments.model_arguments import ModelArguments
from ..arguments.parsing import TRAIN, FlagParser, build_groups
from ..arguments.pretraining_arguments import PretrainingArguments
from ..arguments.recipes import as_values
from ..arguments.training_arguments import ViTTrainingArguments
from .auto import auto_recipe

PRETRAIN: Any = (PretrainingArguments, *TRAIN)


def training_groups(
    flags: Mapping[str, Any], recipe: str | PathLike[str] | None = None, parser: FlagParser | None = None
) -> tuple[ModelArguments, DataArguments, ViTTrainingArguments]:
    """Return the three groups of a training from flags by name, which win over those of the recipe.

    recipe: a path or a name; "auto" chooses one here, see `auto_recipe`.   parser: of `TRAIN`, if there is one already.
    Raises UsageError for flags or recipes that cannot be used, and DataError for images that "auto" cannot read.
    """
    parser = parser or FlagParser(TRAIN)
    if recipe != "auto":
        return build_groups(flags, recipe, parser)
    flags = parser.read(flags)
    chosen = auto_recipe(flags, *build_groups(flags, None, parser))
    groups = build_groups(as_values(chosen, "the recipe that was chosen") | flags, None, parser)
    groups[0].chosen_recipe = chosen
    return groups


def pretraining_groups(
    flags: Mapping[str, Any], recipe: str | PathLike[str] | None = None, parser: FlagParser | None = None
) -> tuple[PretrainingArguments, ModelArguments, DataArguments, ViTTrainingArguments]:
    """Return the four groups of a pre-training in the same way; the recipe cannot be "auto"."""
    return build_groups(flags, recipe, parser or FlagParser(PRETRAIN))
