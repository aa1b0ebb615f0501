"""Recipes: named ablations, stored as TOML files with one table for each setting."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from picie.config import read_toml
from picie.errors import InputError, nearest


def recipe_names() -> list[str]:
    """Names that `--recipe` accepts."""
    return sorted(p.name.removesuffix(".toml") for p in _folder().iterdir() if p.name.endswith(".toml"))


def recipe_text(name: str) -> str:
    """The TOML text of a recipe, including its comments."""
    text: str = _folder().joinpath(f"{name}.toml").read_text("utf-8")
    return text


def read_recipe(name: str) -> dict[str, dict[str, Any]]:
    """Read the settings of a recipe.

    Args:
        name: one of `recipe_names()`, or the path of a TOML file.

    Returns:
        The settings by name: nested dictionaries as in a configuration file, optionally with
        `preset`.

    Raises:
        InputError: the recipe does not exist, or the file is not a recipe.
    """
    if name in recipe_names():
        content: dict[str, Any] = tomllib.loads(recipe_text(name))
    elif name.endswith(".toml"):
        content = read_toml(Path(name))
    else:
        raise InputError(f"--recipe: unknown recipe {name!r}; {nearest(name, recipe_names())}, or a .toml file of your own")
    invalid = next((key for key, value in content.items() if not isinstance(value, Mapping)), None)
    if invalid is not None or not content:
        problem = "it is empty" if invalid is None else f"{invalid!r} is not in a table"
        raise InputError(f"--recipe {name}: {problem}; write a [table] of options for each setting")
    return content


def _folder() -> Any:
    return resources.files("picie").joinpath("recipes")
