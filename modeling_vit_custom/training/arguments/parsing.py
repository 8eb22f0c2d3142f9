"""Parsing of flags, and of a recipe that they win over, into dataclasses: from a command line or Python values."""

import difflib
import sys
from collections.abc import Mapping, Sequence
from os import PathLike
from types import SimpleNamespace
from typing import Any, get_type_hints

from transformers import HfArgumentParser

from ...common.errors import UsageError
from ...common.model_names import named_model
from .data_arguments import DataArguments
from .model_arguments import ModelArguments
from .recipes import recipe_in, recipe_values
from .training_arguments import ViTTrainingArguments
from .values import flag_value


class FlagParser(HfArgumentParser):
    """HfArgumentParser for fields with facts: it hands all other metadata of a field to argparse."""

    def add_argument(self, *names: Any, facts: Any = None, **words: Any) -> Any:
        return super().add_argument(*names, **words)

    def error(self, message: str) -> Any:
        """End the process as argparse does, without a hundred lines of usage before the message."""
        self.exit(2, f"{self.prog}: {message}; --help says what it takes.\n")

    def given(self, words: Sequence[str] | None = None) -> tuple[dict[str, Any], str | None]:
        """Return (the flags that a command line gives, by name, the recipe that it names or None).

        words: of the command line; None: that of this process. Raises UsageError for a word that is no flag.
        """
        recipe, words = recipe_in(sys.argv[1:] if words is None else words)
        nothing = object()
        space = SimpleNamespace(**{action.dest: nothing for action in self._actions})
        _, strangers = self.parse_known_args(words, space)
        if strangers:
            raise UsageError(f"{strangers[0]} is no flag, or no value of the one before it; --help names all.")
        return {name: value for name, value in vars(space).items() if value is not nothing}, recipe

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return flags that are given as Python values or texts, as the command line would read them.

        Raises UsageError for a name that is no flag, and for a value that the command would not take.
        """
        hints: dict[str, Any] = {}
        for group in self.dataclass_types:
            hints |= get_type_hints(group)
        takes = {name.lstrip("-"): flag for flag in self._actions for name in flag.option_strings if flag.nargs != 0}
        read = {}
        for name, value in values.items():
            if name not in takes:
                nearest = difflib.get_close_matches(str(name), takes, n=1, cutoff=0)[0]
                raise UsageError(f"{name} is no flag: the nearest is {nearest}.")
            dest = takes[name].dest
            read[dest] = flag_value(value, takes[name], hints[dest])
        return read


TRAIN: Any = (ModelArguments, DataArguments, ViTTrainingArguments)


def build_groups(values: Mapping[str, Any], recipe: str | PathLike[str] | None, parser: FlagParser) -> Any:
    """Return one dataclass for each group of the parser, from flags by name, which win over those of a recipe.

    Raises UsageError for a recipe that does not exist, for flags as `FlagParser.read` does, and for two revisions.
    """
    chosen = {} if recipe is None else _with_revision(parser.read(recipe_values(recipe)))
    given = _with_revision(parser.read(values))
    names = [flags["model_name_or_path"] for flags in (chosen, given) if "model_name_or_path" in flags]
    if len({*names}) == 2:
        chosen.pop("model_revision", None)  # of the recipe's model, which is not used
    return parser.parse_dict(chosen | given)


def _with_revision(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the flags with a model REPO@REVISION split into model_name_or_path and model_revision."""
    if not (name := flags.get("model_name_or_path")):
        return flags
    source, revision = named_model(name, flags.get("model_revision"))
    return flags | {"model_name_or_path": source} | ({} if revision is None else {"model_revision": revision})


def parse_flags(words: Sequence[str]) -> Any:
    """Return the three groups of a training from a command line, which may name a recipe, but not "auto".

    Raises UsageError as `build_groups` does.
    """
    parser = FlagParser(TRAIN)
    return build_groups(*parser.given(words), parser)
