"""Files name code of other people: it is imported only where the user says so."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tomli_w
import torch

from picie import Segmenter, registry
from picie.errors import InputError

Cli = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]

MODULE = "code_of_a_stranger"
NAME = f"{MODULE}:Thing"
OPTIONS = {
    "method": NAME,
    "model.backbone": NAME,
    "loss.name": NAME,
    "data.name": NAME,
    "views.invariance": [{"name": NAME}],
    "views.equivariance": [{"name": NAME}],
}


@pytest.fixture(autouse=True)
def traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that the stranger's module writes when it is imported."""
    folder, trace = tmp_path / "stranger", tmp_path / "was_imported"
    folder.mkdir()
    (folder / f"{MODULE}.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass Thing: pass\n", "utf-8")
    monkeypatch.syspath_prepend(folder)
    with registry.trust_scope():
        yield trace
    sys.modules.pop(MODULE, None)


def plant(run: Path, option: str) -> Path:
    """Let the run's files name the stranger's code in `option`."""
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    section, _, key = option.partition(".")
    if key:
        state["config"][section][key] = OPTIONS[option]
    else:
        state["config"][section] = OPTIONS[option]
    torch.save(state, run / "checkpoint.pt")
    (run / "config.toml").write_text(tomli_w.dumps(_without_none(state["config"])), "utf-8")
    return run


def _without_none(values: dict[str, object]) -> dict[str, object]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value for key, value in values.items() if value is not None
    }


VIEWS = {"views.invariance", "views.equivariance"}
UNUSED = {  # a command does not look up what it does not need
    "evaluate": VIEWS,
    "predict": {"data.name", *VIEWS},
    "export": {"data.name", *VIEWS},
    "report": {"data.name", *VIEWS},  # it leaves out what it would need them for, and says so
    "name": {"data.name", *VIEWS},
    "suggest-k": VIEWS,
    "app": {"data.name", *VIEWS},
    "resume": set(),
    "compare": set(OPTIONS) - {"method"},
}
SLOW = {"app", "export"}  # it serves until it is interrupted; it takes half a minute
CASES = [(command, option) for command in UNUSED for option in OPTIONS if command not in SLOW or option not in UNUSED[command]]


@pytest.mark.parametrize(("command", "option"), CASES)
def test_opening_a_run_imports_no_code_that_it_names(
    cli: Cli, own_run: Path, labelled_folder: Path, tmp_path: Path, traces: Path, command: str, option: str
) -> None:
    run, images = plant(own_run, option), labelled_folder / "images" / "val"
    arguments = {
        "evaluate": ("evaluate", run, "--bootstrap", 0),
        "predict": ("predict", run, images, "--out", tmp_path / "out"),
        "export": ("export", run, tmp_path / "net.pt2"),
        "report": ("report", run),
        "name": ("name", run, "0=sky"),
        "suggest-k": ("clusters", "suggest-k", run, "--to", 3),
        "app": ("app", run, "--port", 0),
        "resume": ("train", "--resume", run, "train.epochs=3"),
        "compare": ("compare", run),
    }[command]
    status, _, error = cli(*arguments)
    assert not traces.exists()
    if option not in UNUSED[command]:
        assert status == 2, error
        assert error.count("\n") == 1, error
        assert f"{NAME!r} is not part of picie" in error
        assert f"import {MODULE!r}" in error
        assert "--trust" in error
    else:
        assert status == 0, error


def test_trust_lets_the_command_import_it(cli: Cli, own_run: Path, traces: Path) -> None:
    cli("evaluate", plant(own_run, "loss.name"), "--trust")
    assert traces.exists()
    assert not registry.trusts_code()  # for that command alone


def test_names_on_the_command_line_are_the_users(cli: Cli, labelled_folder: Path, tmp_path: Path, traces: Path) -> None:
    status, _, error = cli("train", labelled_folder, "--out", tmp_path / "run", f"views.invariance=blur,{NAME}")
    assert status == 2
    assert "is not a Photometric transform" in error
    assert traces.exists()


@pytest.mark.parametrize("given", ["config", "recipe"])
def test_files_of_settings_need_trust(
    refused: Refused, labelled_folder: Path, tmp_path: Path, traces: Path, given: str
) -> None:
    file = tmp_path / "settings.toml"
    if given == "config":
        file.write_text(f'[loss]\nname = "{NAME}"\n', "utf-8")
        command = ("train", labelled_folder, "--config", file, "--out", tmp_path / "run")
    else:
        file.write_text(f'[a.loss]\nname = "{NAME}"\n', "utf-8")
        command = ("ablate", labelled_folder, "--recipe", file, "--out", tmp_path / "runs", "--seeds", 1)
    assert "is not part of picie" in refused(*command)
    assert not traces.exists()


def test_python_code_says_which_names_it_trusts(own_run: Path, traces: Path) -> None:
    plant(own_run, "loss.name")
    with pytest.raises(InputError, match="not part of picie"):
        Segmenter.load(own_run, "cpu")
    registry.trust([NAME])
    with pytest.raises(InputError, match=r"loss\.options|Thing"):  # it has no arguments
        Segmenter.load(own_run, "cpu")
    assert traces.exists()


def test_no_part_of_the_package_but_the_tables_can_be_named(refused: Refused, own_run: Path) -> None:
    state = torch.load(own_run / "checkpoint.pt", weights_only=True)
    state["config"]["loss"]["name"] = "picie.cli.main:main"
    torch.save(state, own_run / "checkpoint.pt")
    assert "is not part of picie" in refused("evaluate", own_run)
