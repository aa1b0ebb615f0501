"""What the documents say about the code must be true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from picie import config, registry
from picie.cli.main import app, main

ROOT = Path(__file__).parents[1]
GENERATED = {ROOT / f"docs/{name}.md" for name in ("reference/commands", "reference/options", "development/contributing")}
MARKDOWN = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTS = [*MARKDOWN, *sorted((ROOT / "src/picie").glob("*/*.toml"))]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_no_placeholder_is_left(path: Path) -> None:
    assert not re.findall(r"[A-Z]+_(?:TABLE|TEXT|NOTES|TIME|SECTION)\b|TODO|FIXME|\bMAKETEST\b", path.read_text("utf-8"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_to_files(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text("utf-8")):
        linked = (path.parent / target).resolve()
        assert linked in GENERATED or linked.exists(), target


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a Markdown file, without code blocks, tables, headings, images and definitions of links."""
    fenced = False
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not re.match(r" {4}|\s*(\||#|!\[|\[[^\]]+\]: )", line):
            yield number, line


@pytest.mark.parametrize("path", MARKDOWN, ids=name_of)
def test_prose_stays_under_100_columns(path: Path) -> None:
    assert [f"{number}: {line}" for number, line in prose(path) if len(line) >= 100] == []


def test_prose_finds_a_long_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{'word ' * 30}\n```\n{'code ' * 30}\n```\n| {'cell ' * 30} |\n", "utf-8")
    assert [number for number, line in prose(page) if len(line) >= 100] == [1]


def test_the_readme_is_short_and_shows_a_picture() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 150
    (picture,) = re.findall(r"^!\[.*\]\((.*)\)$", "\n".join(lines), re.MULTILINE)
    assert (ROOT / picture).stat().st_size < 400_000


def test_options_in_the_documents_exist() -> None:
    known = {f"{name}.{key}" for name, section in config.all_sections().items() for key in section.model_fields}
    sections = {name.split(".")[0] for name in known}
    for path in DOCUMENTS:
        for name in re.findall(r"\b([a-z]+\.[a-z_]+)(?==| x |`)", path.read_text("utf-8")):
            if name.split(".")[0] in sections and not name.endswith((".py", ".md", ".toml", ".yaml", ".json", ".jsonl", ".pt")):
                assert name in known, f"{path.name}: {name}"


def test_the_map_names_every_module() -> None:
    text = (ROOT / "docs/development/house.md").read_text("utf-8")
    for path in (ROOT / "src/picie").rglob("*.py"):
        if not path.name.startswith("__"):
            assert re.search(rf"\b{path.stem}\b", text), path
    for package in {path.parent for path in (ROOT / "src/picie").rglob("*.py")} - {ROOT / "src/picie"}:
        assert f"{package.name}/" in text or f"{package.name}:" in text, package


def test_the_map_names_no_module_that_is_gone() -> None:
    text = (ROOT / "docs/development/house.md").read_text("utf-8")
    text = text[text.index("## Modules") : text.index("## Outside")]
    modules = {path.stem for path in (ROOT / "src/picie").rglob("*.py")} | {"presets", "recipes", "static", "picie"}
    for cell in re.findall(r"^\| ([a-z_/:, 0-9]+) \|", text, re.MULTILINE):
        for name in cell.replace(":", ",").split(","):
            assert name.strip().split("/")[-1] in {*modules, "module", *(p.name for p in (ROOT / "src/picie").iterdir())}, name


def test_the_readme_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert main(["--help"]) == 0
    for command in re.findall(r"^  ([a-z][a-z-]+) ", capsys.readouterr().out, re.MULTILINE):
        assert re.search(rf"\b{command}\b", text), command


def test_the_list_of_transforms_names_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "transforms"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name}(" in listed for name in (*registry.INVARIANCE, *registry.EQUIVARIANCE))


@pytest.mark.parametrize("path", MARKDOWN, ids=name_of)
def test_files_in_the_documents_exist(path: Path) -> None:
    if path.name in ("CHANGELOG.md", "log.md"):
        return  # they speak of files of their time
    homes = (ROOT, ROOT / "src/picie", ROOT / "docs")
    for name in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|toml|md|json|ipynb))`", path.read_text("utf-8")):
        assert any((home / name).is_file() for home in homes), name


def commands(command: Any = None, path: str = "picie") -> set[str]:
    """Every command, with its groups: "picie train", "picie data check"."""
    command = command or typer.main.get_command(app)
    names = {path}
    for name, sub in getattr(command, "commands", {}).items():
        names |= commands(sub, f"{path} {name}")
    return names


def test_commands_in_the_documents_exist() -> None:
    known, groups = commands(), {"picie data", "picie clusters"}
    for path in [*DOCUMENTS, *(ROOT / "src/picie").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]:
        if path.name in ("CHANGELOG.md", "log.md"):
            continue  # they speak of commands of their time
        text = path.read_text("utf-8")
        mentioned = re.findall(r"`(picie [a-z][a-z-]+(?: [a-z-]+)?)", text)
        if path.suffix == ".md":
            blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
            mentioned += re.findall(r"^ *(?:\.venv/bin/)?(picie [a-z][a-z-]+(?: [a-z-]+)?)", blocks, re.MULTILINE)
            mentioned += re.findall(r"^ {4}(?:\.venv/bin/)?(picie [a-z][a-z-]+(?: [a-z-]+)?)", text, re.MULTILINE)
        for words in map(str.split, mentioned):
            name = " ".join(words[: 3 if " ".join(words[:2]) in groups else 2])
            assert name in known or (name == "picie bench" and path.name == "reproduction.md"), f"{path.name}: {name}"


OPTION = re.compile(r"^ *picie ([a-z][a-z-]*(?: [a-z-]+)?).*$", re.MULTILINE)


@pytest.mark.parametrize("path", MARKDOWN, ids=name_of)
def test_flags_in_the_documents_exist(path: Path) -> None:
    root = typer.main.get_command(app)
    for block in re.findall(r"```sh\n(.*?)```", path.read_text("utf-8"), re.DOTALL):
        for line in OPTION.finditer(block.replace("\\\n", " ")):
            command: Any = root
            for word in line[1].split():
                command = getattr(command, "commands", {}).get(word, command)
            flags = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
            for flag in re.findall(r"(?<= )(--[a-z][a-z-]*)", line[0].split("#")[0]):
                assert flag in flags | {"--help"}, f"{line[0]}: {flag}"
