"""What the documents say of the code must be so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from picie import config, registry
from picie.cli.main import app, main

ROOT = Path(__file__).parents[1]
GENERATED = ("commands.md", "options.md")  # by docs/reference_pages.py
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "src/picie").glob("*/*.toml")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_nothing_is_left_to_be_filled_in(path: Path) -> None:
    assert not re.findall(r"[A-Z]+_(?:TABLE|TEXT|NOTES|TIME)\b|TODO|FIXME", path.read_text("utf-8"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_to_files(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text("utf-8")):
        assert target in GENERATED or (path.parent / target).exists(), target


def test_options_in_the_documents_exist() -> None:
    known = {f"{s}.{key}" for s, f in config.Config.model_fields.items() for key in getattr(f.annotation, "model_fields", {})}
    sections = {name.split(".")[0] for name in known}
    for path in DOCUMENTS:
        for name in re.findall(r"\b([a-z]+\.[a-z_]+)(?==| x |`)", path.read_text("utf-8")):
            if name.split(".")[0] in sections and not name.endswith((".py", ".md", ".toml", ".json", ".jsonl", ".pt")):
                assert name in known, f"{path.name}: {name}"


def test_the_file_map_names_every_file(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    file_map = text[text.index("## File map") :]
    for path in (ROOT / "src/picie").rglob("*.py"):
        if not path.name.startswith("__") and path.name not in {"base.py", "errors.py", "version.py"}:
            assert re.search(rf"\b{path.stem}\b", file_map), path
    assert main(["--help"]) == 0
    for command in re.findall(r"^  ([a-z]+) ", capsys.readouterr().out, re.MULTILINE):
        assert re.search(rf"\b{command}\b", text), command


def test_the_list_of_transforms_is_told_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "transforms"]) == 0
    told = capsys.readouterr().out
    assert all(f"{name}(" in told for name in (*registry.INVARIANCE, *registry.EQUIVARIANCE))


def commands(command: Any = None, path: str = "picie") -> set[str]:
    """Every command, with its groups: "picie train", "picie data check"."""
    command = command or typer.main.get_command(app)
    found = {path}
    for name, sub in getattr(command, "commands", {}).items():
        found |= commands(sub, f"{path} {name}")
    return found


def test_commands_in_the_documents_exist() -> None:
    known, groups = commands(), {"picie data", "picie clusters"}
    for path in [*DOCUMENTS, *(ROOT / "src/picie").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]:
        text = path.read_text("utf-8")
        said = re.findall(r"`(picie [a-z][a-z-]+(?: [a-z-]+)?)", text)
        if path.suffix == ".md":
            blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
            said += re.findall(r"^(?: {4}(?:\.venv/bin/)?|)(picie [a-z][a-z-]+(?: [a-z-]+)?)", blocks, re.MULTILINE)
            said += re.findall(r"^ {4}(?:\.venv/bin/)?(picie [a-z][a-z-]+(?: [a-z-]+)?)", text, re.MULTILINE)
        for words in map(str.split, said):
            name = " ".join(words[: 3 if " ".join(words[:2]) in groups else 2])
            assert name in known, f"{path.name}: {name}"
