"""MkDocs hook: generates reference/commands.md and reference/options.md from the code, so that they always agree with it.

It also renders CONTRIBUTING.md, which lives at the top of the repository, as development/contributing.md.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from picie import registry
from picie.cli.main import app
from picie.config import Config, all_sections, preset_names, preset_text


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    files.append(File.generated(config, "reference/commands.md", content="\n".join(_commands())))
    files.append(File.generated(config, "reference/options.md", content="\n".join(_options())))
    files.append(File.generated(config, "development/contributing.md", content=_contributing()))
    return files


def _contributing() -> str:
    """CONTRIBUTING.md with its links, which start at the top of the repository, rewritten for docs/development."""
    return (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text("utf-8").replace("](docs/", "](../")


def _commands() -> Iterator[str]:
    yield "# Commands\n"
    yield "The output of `--help` for each command. Options as `section.key=value`: see [options](options.md).\n"
    root = typer.main.get_command(app)
    yield from _help(root, "picie", None)


def _help(command: Any, path: str, parent: Any) -> Iterator[str]:
    context = command.make_context(path.split()[-1], [], parent=parent, resilient_parsing=True)
    text = command.get_help(context).split("\n  All options, as section.key=value")[0].rstrip()
    yield f"{'#' * (1 + len(path.split()))} {path}\n\n```text\n{text}\n```\n"
    for name, sub in getattr(command, "commands", {}).items():
        yield from _help(sub, f"{path} {name}", context)


def _options() -> Iterator[str]:
    yield "# Options, presets and transforms\n"
    yield "Every option, as `section.key=value` on the command line of `picie train` or in a TOML file (`--config`).\n"
    sections = all_sections()
    for name, field in Config.model_fields.items():
        if name not in sections:
            yield f"\n## {name}\n\n`{name}` (default `{json.dumps(field.default)}`): {field.description}."
    for name, section in sections.items():
        yield f"\n## [{name}]\n\n{inspect.cleandoc(section.__doc__ or '')}\n"
        yield "| option | default | meaning |\n|---|---|---|"
        yield from (_row(f"{name}.{key}", option) for key, option in section.model_fields.items())
    yield "\n## Transforms\n\n| list | name | what it does |\n|---|---|---|"
    for option, entries in (("invariance", registry.INVARIANCE), ("equivariance", registry.EQUIVARIANCE)):
        for name in entries:
            made = registry.find(entries, name, "docs")
            yield f"| `views.{option}` | `{name}` | {_first_line(made)} |"
    yield "\n## Presets\n"
    for name in preset_names():
        yield f"\n### {name}\n\n```toml\n{preset_text(name).rstrip()}\n```\n"


def _row(key: str, field: Any) -> str:
    default = field.default
    shown = [spec["name"] for spec in default] if isinstance(default, tuple) else default
    words = [c for c in getattr(field.annotation, "__args__", ()) if isinstance(c, str)]
    choices = f" ({', '.join(words)})" if words else ""
    return f"| `{key}` | {'' if shown is None else f'`{json.dumps(shown)}`'} | {field.description}{choices} |"


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0]
