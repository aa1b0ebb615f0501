"""`picie train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from pydantic import BaseModel

from picie.cli.options import Exclude, Include, Trust, data_options, join_options, named_flags
from picie.config import Config, all_sections, load
from picie.errors import InputError
from picie.runtime import distributed
from picie.training.keywords import SHORT_NAMES, default_folder

_FLAGS = {"clusters": "-k", "batch_size": "--batch-size"}


def train(
    data: Annotated[
        Optional[str], typer.Argument(help="Folder of images, 'shards/*.tar', or a name of `picie list datasets`.")
    ] = None,
    overrides: Annotated[Optional[list[str]], typer.Argument(metavar="[section.key=value]...", help="Any option.")] = None,
    preset: Annotated[Optional[str], typer.Option(help="Named settings; see `picie list presets`.")] = None,
    config: Annotated[Optional[Path], typer.Option(help="TOML file with settings; overrides the preset.")] = None,
    out: Annotated[Optional[Path], typer.Option(help="The run's folder. [default: runs/DATA-METHOD-kK-sSEED]")] = None,
    clusters: Annotated[Optional[int], typer.Option("--clusters", "-k", help="Number of clusters K. [default: 27]")] = None,
    epochs: Annotated[Optional[int], typer.Option(help="Number of epochs; 0 clusters the untrained network.")] = None,
    seed: Annotated[Optional[int], typer.Option(help="Random seed.")] = None,
    method: Annotated[Optional[str], typer.Option(help="picie or mdc; see `picie list methods`.")] = None,
    backbone: Annotated[Optional[str], typer.Option(help="timm model; see `picie list backbones`.")] = None,
    size: Annotated[Optional[int], typer.Option(help="Side of a view in pixels, cut from a frame twice as large.")] = None,
    batch_size: Annotated[Optional[int], typer.Option(help="Images per training step.")] = None,
    include: Include = None,
    exclude: Exclude = None,
    lr: Annotated[Optional[float], typer.Option(help="Initial learning rate.")] = None,
    device: Annotated[Optional[str], typer.Option(help="auto, cpu, cuda, cuda:N or mps. [default: auto]")] = None,
    workers: Annotated[Optional[int], typer.Option(help="Decoding threads. [default: depends on the cores]")] = None,
    resume: Annotated[Optional[Path], typer.Option(metavar="DIR", help="Resume the run in DIR where it stopped.")] = None,
    trust: Trust = False,
) -> None:
    """Train on a folder of images; labels are not needed.

    DATA is searched for images recursively. A folder with images/{train,val}, labels/{train,val}
    (index PNGs) and classes.toml is also scored during training.
    """
    given = list(overrides or [])
    if data is not None and "=" in data and not Path(data).exists():
        given.insert(0, data)  # `picie train --resume DIR run.workers=4` has no DATA
        data = None
    flags: dict[str, Any] = {
        "clusters": clusters,
        "epochs": epochs,
        "seed": seed,
        "method": method,
        "backbone": backbone,
        "size": size,
        "batch_size": batch_size,
        "include": ",".join(include) if include else None,
        "exclude": ",".join(exclude) if exclude else None,
        "lr": lr,
        "device": device,
        "workers": workers,
    }
    options = join_options({SHORT_NAMES[name]: value for name, value in flags.items() if value is not None}, given)
    named = [(SHORT_NAMES[name], _FLAGS.get(name, f"--{name}")) for name, value in flags.items() if value is not None]
    if resume is not None:
        if data is not None or preset is not None or config is not None or out is not None:
            raise InputError(
                "--resume DIR takes the data and settings from the run; leave out DATA, --preset, --config and --out"
            )
        from picie.training import api

        with named_flags(named):
            _print_run(api.resume(resume, options))
        return
    with named_flags(named):
        settings = load(preset, config, [*data_options(data, options), *options])
        if settings.data.name == "folder" and settings.data.root is None:
            raise InputError("DATA is missing; give a folder of images, e.g. picie train photos/")
        # imports torch and timm, which takes seconds; check the options first
        from picie.training import api

        _print_run(api.train(settings, out or default_folder(settings)))


def _print_run(run: Path) -> None:
    if distributed.is_main():
        typer.echo(f"{run}")


def all_options() -> str:
    """Return the table of all section.key options for `picie train --help`."""
    lines = ["\b", "All options, as section.key=value (TOML values; a bare word is a string; key= restores the default):"]
    sections = all_sections()
    lines += [_option_line(name, field) for name, field in Config.model_fields.items() if name not in sections]
    for name, section in sections.items():
        lines += _option_lines(f"{name}.", section)
    return "\n".join(lines)


def _option_lines(prefix: str, section: type[BaseModel]) -> list[str]:
    return ["", "\b"] + [_option_line(prefix + key, field) for key, field in section.model_fields.items()]


def _option_line(key: str, field: Any) -> str:
    default = field.default
    shown = ",".join(spec["name"] for spec in default) if isinstance(default, tuple) else default
    unset = " " if default is None else f" [{json.dumps(shown) if isinstance(shown, bool) else shown}]"
    choices = getattr(field.annotation, "__args__", ())
    words = [c for c in choices if isinstance(c, str)]
    return f"  {key}{unset}  {field.description}" + (f" ({', '.join(words)})" if words else "")
