"""What the documents say of the code must be so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from picie import config, registry
from picie.cli import main

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
