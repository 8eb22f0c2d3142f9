"""Recipes: YAML files of flags."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ...common.errors import UsageError

RECIPES = Path(__file__).parents[2] / "recipes"


def recipe_flags(recipe: str) -> list[str]:
    """A recipe's YAML as flags; `recipe` is a path or the name of one in the package. Raises UsageError."""
    path = Path(recipe) if recipe.endswith((".yaml", ".yml")) else RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        raise UsageError(f"no recipe {recipe!r}: give a YAML file, or one of {', '.join(recipe_names())}.")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise UsageError(f"recipe {path} must be a mapping of flags to values.")
    return as_flags(values)


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """["--name", "value", …] of a recipe's YAML."""
    flags = []
    for name, value in values.items():
        flags += [f"--{name}", *(str(item) for item in (value if isinstance(value, list) else [value]))]
    return flags


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_first(argv: Sequence[str]) -> list[str]:
    """The words, with the name after --recipe in the place that a recipe has."""
    words = list(argv)
    if "--recipe" not in words[:-1]:
        return words
    at = words.index("--recipe")
    return [words[at + 1], *words[:at], *words[at + 2 :]]
