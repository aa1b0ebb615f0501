"""House limits: few loose modules, short files, few parameters, plain module names, complete import contracts."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "picie"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 350
MAX_PARAMETERS = 6


def test_at_most_six_modules_are_loose_at_the_top() -> None:
    loose = [file.stem for file in PACKAGE.glob("*.py") if file.stem not in {"__init__", "__main__"}]
    assert len(loose) <= 6, loose


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_file_is_longer_than_the_limit(file: Path) -> None:
    assert len(file.read_text("utf-8").splitlines()) <= MAX_LINES


def _functions(file: Path) -> Iterator[tuple[str, int]]:
    """(name and line, number of parameters without self and cls) of each function of a file."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = node.args
            names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
            names += [a.arg for a in (arguments.vararg, arguments.kwarg) if a is not None]
            yield f"{node.name}:{node.lineno}", len([name for name in names if name not in {"self", "cls"}])


@pytest.mark.parametrize(
    "file", [f for f in MODULES if f.parent.name != "cli"], ids=lambda file: str(file.relative_to(PACKAGE))
)
def test_no_function_has_more_parameters_than_the_limit(file: Path) -> None:
    assert not {name: count for name, count in _functions(file) if count > MAX_PARAMETERS}


def test_no_module_has_a_name_that_says_nothing() -> None:
    names = {part for file in MODULES for part in file.relative_to(PACKAGE).with_suffix("").parts}
    assert not names & {"utils", "util", "helpers", "helper", "common", "misc"}


def test_the_import_contracts_cover_every_part_of_the_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    (layers,) = (contract for contract in settings["contracts"] if contract["type"] == "layers")
    assert layers["exhaustive"]
    covered = {name.strip() for layer in layers["layers"] for name in layer.split("|")}
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert covered == parts - {"__init__"}
