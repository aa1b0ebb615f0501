"""House limits: few loose modules, short files, few parameters, plain module names, complete import contracts."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "picie"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 350
MAX_PARAMETERS = 6
MAX_LAYERS = 12


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


def _layers() -> list[set[str]]:
    """The parts of each layer of the import contract, highest first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    (contract,) = (contract for contract in settings["contracts"] if contract["type"] == "layers")
    assert contract["exhaustive"]
    return [{part.strip() for part in layer.split("|")} for layer in contract["layers"]]


def test_every_part_of_the_package_is_in_one_of_few_layers() -> None:
    layers = _layers()
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert set().union(*layers) == parts - {"__init__"}
    assert len(layers) <= MAX_LAYERS


def test_imports_go_down_the_layers() -> None:
    graph = grimp.build_graph("picie", exclude_type_checking_imports=True, cache_dir=None)
    rank = {part: number for number, layer in enumerate(_layers()) for part in layer}
    upwards = {
        (importer, imported)
        for importer in graph.modules - {"picie"}
        for imported in graph.find_modules_directly_imported_by(importer) - {"picie"}
        if _part(imported) != _part(importer) and rank[_part(imported)] <= rank[_part(importer)]
    }
    assert upwards == set()


def _part(module: str) -> str:
    return module.split(".")[1]
