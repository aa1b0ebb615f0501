"""Ablations by name: TOML files that hold a table for each setting, and what they say."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from picie.config import read_toml
from picie.errors import InputError, nearest


def recipe_names() -> list[str]:
    """Names that `--recipe` takes."""
    return sorted(p.name.removesuffix(".toml") for p in _folder().iterdir() if p.name.endswith(".toml"))


def recipe_text(name: str) -> str:
    """The TOML text of a recipe, its opening comment included."""
    text: str = _folder().joinpath(f"{name}.toml").read_text("utf-8")
    return text


def read_recipe(name: str) -> dict[str, dict[str, Any]]:
    """The settings of a recipe by name: nested dictionaries as in a configuration file, and maybe `preset`.

    Args:
        name: one of `recipe_names()`, or a TOML file of one's own.

    Raises:
        InputError: an unknown recipe, or a file that is none.
    """
    if name in recipe_names():
        content: dict[str, Any] = tomllib.loads(recipe_text(name))
    elif name.endswith(".toml"):
        content = read_toml(Path(name))
    else:
        raise InputError(f"--recipe: unknown recipe {name!r}; {nearest(name, recipe_names())}, or a .toml file of your own")
    wrong = next((key for key, value in content.items() if not isinstance(value, Mapping)), None)
    if wrong is not None or not content:
        at = "it is empty" if wrong is None else f"{wrong!r} stands outside a table"
        raise InputError(f"--recipe {name}: {at}; write a [table] of options for each setting")
    return content


def _folder() -> Any:
    return resources.files("picie").joinpath("recipes")
