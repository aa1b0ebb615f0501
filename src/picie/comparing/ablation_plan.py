"""The plan of an ablation: every setting is run with every seed, in DIR/SETTING/seed-N.

With several tasks, every setting is run on every task, in DIR/SETTING/TASK/seed-N.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from picie.comparing.recipes import read_recipe
from picie.comparing.run_records import Run, options_of
from picie.config import Config, Layer, load
from picie.errors import InputError


@dataclass(frozen=True)
class Job:
    """One run of the plan.

    Attributes:
        setting: the name of its setting.
        task: the name of its task; "" if there is only one, without a name.
        folder: the run's folder.
        config: its configuration.
    """

    setting: str
    task: str
    folder: Path
    config: Config

    @property
    def begun(self) -> bool:
        """Whether the folder holds a run, which can be resumed."""
        return (self.folder / "config.toml").is_file()

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return self.begun and Run.read(self.folder).finished


def variants(recipe: str | None, vary: Sequence[str]) -> dict[str, list[Layer]]:
    """Combine the settings of a recipe with every combination of the values of `vary`.

    >>> list(variants(None, ["train.lr=1e-4|2e-4", "views.invariance=[]|blur"]))[:2]
    ['lr=1e-4, invariance=none', 'lr=1e-4, invariance=blur']

    Args:
        recipe: a name from `recipe_names()` or the path of a TOML file; None uses `vary` alone.
        vary: "section.key=value|value|..." strings.

    Returns:
        The options of each setting, by its name.

    Raises:
        InputError: the recipe does not exist, an option is given twice or without values, or
            neither argument is given.
    """
    if recipe is None and not vary:
        raise InputError("nothing to vary; give --recipe NAME (see picie list recipes), or --vary 'section.key=value|value'")
    settings = {"": {}} if recipe is None else read_recipe(recipe)
    options = dict(_parse_vary(text) for text in vary)
    if len(options) < len(vary):
        raise InputError("--vary: an option is given twice; separate its values with |")
    short = [key.rpartition(".")[2] for key in options]
    shown = short if len(set(short)) == len(short) else list(options)
    combined: dict[str, list[Layer]] = {}
    for name, setting in settings.items():
        for values in itertools.product(*options.values()):
            parts = [f"{key}={_shown(value)}" for key, value in zip(shown, values, strict=True)]
            layers = [f"{key}={value}" for key, value in zip(options, values, strict=True)]
            combined[", ".join([name] * bool(name) + parts)] = [setting, *layers]
    return combined


def _parse_vary(text: str) -> tuple[str, list[str]]:
    key, equals, values = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--vary {text!r} is not an option with values; write e.g. --vary 'loss.temperature=0.1|0.3|1.0'")
    return key.strip(), [value.strip() for value in values.split("|")]


def _shown(value: str) -> str:
    return {"": "default", "[]": "none"}.get(value, value)


@dataclass(frozen=True)
class Grid:
    """What an ablation runs: each setting, on each task, with each seed.

    Attributes:
        settings: result of `variants`; a setting overrides its task and the options of all runs,
            and may name its own `preset`.
        seeds: number of seeds, counted up from the option `seed`.
        tasks: the options of each task, by its name, see `picie.comparing.tasks`.
    """

    settings: Mapping[str, Sequence[Layer]]
    seeds: int
    tasks: Mapping[str, Sequence[Layer]] = field(default_factory=lambda: {"": ()})


def plan(
    grid: Grid,
    out: Path,
    base: Sequence[str] = (),
    preset: str | None = None,
    file: Path | None = None,
) -> list[Job]:
    """Plan the runs of an ablation.

    All settings are run on all tasks with the first seed, then with the next one, so that an
    interrupted ablation has a similar number of seeds for each setting.

    Args:
        grid: the settings, tasks and seeds.
        out: folder of the ablation.
        base: "section.key=value" options of all runs.
        preset: preset of all runs, as for `config.load`.
        file: configuration file of all runs, as for `config.load`.

    Raises:
        InputError: a value is invalid, or two settings are the same.
    """
    for names in (grid.settings, grid.tasks):
        folders: dict[str, str] = {}
        for name in filter(None, names):
            other = folders.setdefault(folder_name(name), name)
            if other != name:
                raise InputError(f"{other!r} and {name!r} would share a folder; rename one")
    configs: dict[tuple[str, str], Config] = {}
    for task, options in grid.tasks.items():
        for name, (setting, *layers) in grid.settings.items():
            setting = dict(setting) if isinstance(setting, Mapping) else {}
            try:
                config = load(setting.pop("preset", preset), file, [*base, *options, setting, *layers])
            except InputError as error:
                where = f"setting {name!r}" + f", task {task!r}" * bool(task)
                raise InputError(f"{where}: {error}") from error
            duplicate = next((n for n in grid.settings if (task, n) in configs and _same(configs[task, n], config)), None)
            if duplicate is not None:
                raise InputError(f"settings {duplicate!r} and {name!r} are the same except for seed and [run]; remove one")
            configs[task, name] = config
    return [
        Job(
            name,
            task,
            out / folder_name(name) / (folder_name(task) if task else "") / f"seed-{seed}",
            config.model_copy(update={"seed": seed}),
        )
        for step in range(grid.seeds)
        for (task, name), config in configs.items()
        for seed in [config.seed + step]
    ]


def _same(first: Config, second: Config) -> bool:
    return options_of(first) | {"seed": 0} == options_of(second) | {"seed": 0}


def folder_name(setting: str) -> str:
    """Name of a setting's folder, using only characters that are safe in file systems and shells.

    A hash is appended if characters had to be replaced or the name is long.

    >>> folder_name("lr=1e-4, invariance=blur")
    'lr=1e-4-invariance=blur'
    """
    plain = re.sub(r"[^\w.=+-]+", "-", setting, flags=re.ASCII).strip("-.")
    if re.fullmatch(r"[\w.=+, -]+", setting, flags=re.ASCII) and len(plain) <= 100:
        return plain
    return f"{plain[:80]}-{hashlib.sha256(setting.encode()).hexdigest()[:8]}"
