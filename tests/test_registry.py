"""The table of contents, and the names that the package makes public."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import picie
from picie import registry
from picie.conversion.base import Format
from picie.data.base import Dataset
from picie.data.scenes.dataset import Scenes
from picie.errors import InputError, nearest
from picie.methods.base import Method
from picie.views.base import Geometric, Photometric

TABLES = {
    "datasets": registry.DATASETS,
    "methods": registry.METHODS,
    "invariance": registry.INVARIANCE,
    "equivariance": registry.EQUIVARIANCE,
    "formats": registry.FORMATS,
}
MODULES = sorted(m.name for m in pkgutil.walk_packages(picie.__path__, "picie.") if not m.name.endswith("__main__"))


@pytest.mark.parametrize(("table", "name"), [(kind, name) for kind, table in TABLES.items() for name in table])
def test_every_entry_leads_to_something_documented(table: str, name: str) -> None:
    found = registry.find(TABLES[table], name, "here")
    assert inspect.isclass(found)
    assert found.__doc__
    assert not found.__doc__.isspace()
    base = {"methods": Method, "invariance": Photometric, "equivariance": Geometric, "formats": Format}.get(table)
    if base is not None:
        assert issubclass(found, base)
        assert not inspect.isabstract(found)
    if table in {"invariance", "equivariance"}:
        assert all(p.default is not p.empty for p in inspect.signature(found).parameters.values())
        found()  # the defaults are valid


def test_the_tables_miss_nothing() -> None:
    tables = ((Photometric, registry.INVARIANCE), (Geometric, registry.EQUIVARIANCE), (Method, registry.METHODS))
    for base, table in (*tables, (Format, registry.FORMATS)):
        listed = set(table.values())
        for module in MODULES:
            for name, thing in vars(importlib.import_module(module)).items():
                own = inspect.isclass(thing) and thing.__module__ == module and not name.startswith("_")
                if own and issubclass(thing, base) and thing is not base and not inspect.isabstract(thing):
                    assert f"{module}:{name}" in listed
    assert isinstance(Scenes(), Dataset)


def test_find_imports_what_is_named() -> None:
    with registry.trust_scope():
        registry.trust_all()
        assert registry.find(registry.METHODS, "fractions:Fraction", "method").__name__ == "Fraction"
        for name, message in (
            ("pice", r"method: unknown name 'pice'; did you mean 'picie'\? \(valid: mdc, picie\)"),
            ("no.such:Thing", r"method: 'no\.such:Thing': cannot import 'no\.such' .*PYTHONPATH"),
            ("fractions:Fractoin", r"fractions has no 'Fractoin'; did you mean 'Fraction'"),
        ):
            with pytest.raises(InputError, match=message):
                registry.find(registry.METHODS, name, "method")


def test_nearest_gives_the_closest_or_all() -> None:
    assert nearest("BLURR", ["hue", "blur"]) == "did you mean 'blur'? (valid: blur, hue)"
    assert nearest("zzz", ["hue", "blur"]) == "valid: blur, hue"
    many = [f"name{i}" for i in range(100)]
    assert nearest("name7", many) == "did you mean 'name7'?"
    assert nearest("zzz", many) == "valid: see `picie list`"


@pytest.mark.parametrize("module", MODULES)
def test_public_symbols_are_documented(module: str) -> None:
    """A method that implements a documented one of a base class may go without."""
    loaded = importlib.import_module(module)
    assert loaded.__doc__, module
    for name, thing in vars(loaded).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module:
            continue
        if inspect.isfunction(thing) or inspect.isclass(thing):
            assert thing.__doc__, f"{module}.{name}"
        if inspect.isclass(thing):
            for key, member in vars(thing).items():
                if inspect.isfunction(member) and not key.startswith("_"):
                    assert inspect.getdoc(getattr(thing, key)), f"{module}.{name}.{key}"


def test_the_public_interface_is_there_and_light() -> None:
    functions = {"convert", "evaluate", "resume", "score_folders", "train", "trust"}
    options = {"ConvertOptions", "FolderOptions", "ScoreOptions"}
    assert set(picie.__all__) == {"BatchPredictor", "Config", "Run", "Segmenter", "__version__"} | functions | options
    assert dir(picie) == sorted(picie.__all__)
    for name in picie.__all__:
        assert getattr(picie, name) is not None
    code = "import sys, picie; dir(picie); print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False False\n"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = picie.nothing


def test_nothing_is_printed_below_the_command_line() -> None:
    for path in Path(picie.__file__).parent.rglob("*.py"):
        calls = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)]
        prints = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
        printed = [c.lineno for c in prints if not any(k.arg == "file" for k in c.keywords)]  # to stdout, that is
        assert not printed, path
