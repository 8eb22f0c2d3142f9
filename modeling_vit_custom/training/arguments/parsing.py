"""From flags, or a recipe and flags that win over it, to their dataclasses."""

from collections.abc import Sequence
from typing import Any

from transformers import HfArgumentParser

from ...common.errors import UsageError
from .data_arguments import DataArguments
from .model_arguments import ModelArguments
from .recipes import recipe_first, recipe_flags
from .training_arguments import ViTTrainingArguments


class FlagParser(HfArgumentParser):
    """HfArgumentParser, which hands all metadata of a field to argparse, for fields with facts."""

    def add_argument(self, *names: Any, facts: Any = None, **words: Any) -> Any:
        return super().add_argument(*names, **words)


TRAIN = (ModelArguments, DataArguments, ViTTrainingArguments)


def parse_flags(flags: Sequence[str], groups: Any = TRAIN, parser: FlagParser | None = None) -> Any:
    """Return one dataclass for each of `groups`, from flags that may begin with a recipe.

    parser: of these groups; it writes the help. Raises UsageError for a flag that there is none of.
    """
    flags = recipe_first(flags)
    if flags and not flags[0].startswith("-"):
        flags[:1] = recipe_flags(flags[0])
    parser = parser or FlagParser(groups)
    *parsed, strangers = parser.parse_args_into_dataclasses(flags, return_remaining_strings=True)
    if strangers:
        raise UsageError(f"{strangers[0]} is no flag, or no value of the one before it; --help names all.")
    return tuple(parsed)
