"""Recipes: YAML files of flags."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ...common.errors import UsageError

RECIPES = Path(__file__).parents[2] / "recipes"


def recipe_values(recipe: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the flags of a recipe by name; `recipe` is a path, or a name in the package. Raises UsageError."""
    name = os.fspath(recipe)
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        raise UsageError(f"no recipe {name!r}: give a YAML file, or one of {', '.join(recipe_names())}.")
    return as_values(path.read_text(encoding="utf-8"), f"recipe {path}")


def as_values(text: str, title: str) -> dict[str, Any]:
    """Return the flags of a recipe's YAML by name. Raises UsageError, which names `title`, if it is no mapping."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{title} is no YAML: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{title} must be a mapping of flags to values.")
    return values


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_in(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return (the recipe that a command line names after --recipe or as its first word, or None, the other words)."""
    words = list(words)
    if "--recipe" in words[:-1]:
        at = words.index("--recipe")
        return words[at + 1], words[:at] + words[at + 2 :]
    if words and not words[0].startswith("-"):
        return words[0], words[1:]
    return None, words
