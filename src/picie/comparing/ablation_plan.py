"""The plan of an ablation: every setting with every seed, each a run in DIR/SETTING/seed-N."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picie.comparing.recipes import read_recipe
from picie.comparing.run_records import Run, options_of
from picie.config import Config, load
from picie.errors import InputError

Layer = str | Mapping[str, Any]
"""A "section.key=value", or a nested dictionary of such."""


@dataclass(frozen=True)
class Job:
    """One run of the plan.

    Attributes:
        setting: the name of its setting.
        folder: the run's folder.
        config: its configuration.
    """

    setting: str
    folder: Path
    config: Config

    @property
    def begun(self) -> bool:
        """Whether there is a run to go on with."""
        return (self.folder / "config.toml").is_file()

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.begun and Run.read(self.folder).finished


def variants(recipe: str | None, vary: Sequence[str]) -> dict[str, list[Layer]]:
    """The settings by name: those of a recipe, each with every combination of the values of `vary`.

    >>> list(variants(None, ["train.lr=1e-4|2e-4", "views.invariance=[]|blur"]))[:2]
    ['lr=1e-4, invariance=none', 'lr=1e-4, invariance=blur']

    Args:
        recipe: a name from `recipe_names()` or a TOML file; None: no settings but those of `vary`.
        vary: "section.key=value|value|..." strings.

    Raises:
        InputError: an unknown recipe, an option given twice or without values, or neither of the two.
    """
    if recipe is None and not vary:
        raise InputError("nothing varies; give --recipe NAME (see picie list recipes), or --vary 'section.key=value|value'")
    settings = {"": {}} if recipe is None else read_recipe(recipe)
    options = dict(_parse_vary(text) for text in vary)
    if len(options) < len(vary):
        raise InputError("--vary: an option is given twice; separate its values by |")
    last = [key.rpartition(".")[2] for key in options]
    shown = last if len(set(last)) == len(last) else list(options)
    found: dict[str, list[Layer]] = {}
    for name, setting in settings.items():
        for values in itertools.product(*options.values()):
            parts = [f"{key}={_shown(value)}" for key, value in zip(shown, values, strict=True)]
            layers = [f"{key}={value}" for key, value in zip(options, values, strict=True)]
            found[", ".join([name] * bool(name) + parts)] = [setting, *layers]
    return found


def _parse_vary(text: str) -> tuple[str, list[str]]:
    key, equals, values = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--vary {text!r} is no option with values; write e.g. --vary 'loss.temperature=0.1|0.3|1.0'")
    return key.strip(), [value.strip() for value in values.split("|")]


def _shown(value: str) -> str:
    return {"": "default", "[]": "none"}.get(value, value)


def plan(
    settings: Mapping[str, Sequence[Layer]],
    out: Path,
    seeds: int,
    base: Sequence[str] = (),
    preset: str | None = None,
    file: Path | None = None,
) -> list[Job]:
    """The runs: all settings with the first seed, then with the next, so that a stop leaves most settings alike.

    Args:
        settings: what `variants` gives; each lies over all of the following, and may bring its own `preset`.
        out: the folder of the ablation.
        seeds: how many, from the option `seed` on.
        base: "section.key=value" of all runs.
        preset: of all runs, as for `config.load`.
        file: of all runs, as for `config.load`.

    Raises:
        InputError: a value that does not fit, or two settings that mean the same.
    """
    configs: dict[str, Config] = {}
    folders: dict[str, str] = {}
    for name, (setting, *layers) in settings.items():
        own = dict(setting) if isinstance(setting, Mapping) else {}
        try:
            configs[name] = load(own.pop("preset", preset), file, [*base, own, *layers])
        except InputError as error:
            raise InputError(f"setting {name!r}: {error}") from error
        again = next((other for other in configs if other != name and _same(configs[other], configs[name])), None)
        if again is not None:
            raise InputError(f"settings {again!r} and {name!r} mean the same, but for seed and [run]; leave one out")
        taken = folders.setdefault(folder_name(name), name)
        if taken != name:
            raise InputError(f"settings {taken!r} and {name!r} would share a folder; rename one")
    return [
        Job(name, out / folder_name(name) / f"seed-{seed}", config.model_copy(update={"seed": seed}))
        for step in range(seeds)
        for name, config in configs.items()
        for seed in [config.seed + step]
    ]


def _same(first: Config, second: Config) -> bool:
    return options_of(first) | {"seed": 0} == options_of(second) | {"seed": 0}


def folder_name(setting: str) -> str:
    """A setting's folder: its name in characters that every file system and shell takes, marked where that loses any.

    >>> folder_name("lr=1e-4, invariance=blur")
    'lr=1e-4-invariance=blur'
    """
    plain = re.sub(r"[^\w.=+-]+", "-", setting, flags=re.ASCII).strip("-.")
    if re.fullmatch(r"[\w.=+, -]+", setting, flags=re.ASCII) and len(plain) <= 100:
        return plain
    return f"{plain[:80]}-{hashlib.sha256(setting.encode()).hexdigest()[:8]}"
