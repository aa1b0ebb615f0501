"""A tiny benchmark, and one without processes of its own, which take seconds to begin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import TINY

from benchmarks import bench, settings
from benchmarks.cli import main
from picie.config import Config

_SET = ("model.backbone", "train.epochs", "run.report", "evaluate.scale")
OPTIONS = tuple(option for option in TINY if not option.startswith(_SET))
"""The options of the tiny configuration that the benchmark does not set itself."""


@pytest.fixture
def setting(labelled_folder: Path) -> Callable[..., Config]:
    """setting("section.key=value", ..., root=None): a tiny setting on 6 + 2 images, with epochs for 2 rounds."""

    def make(*overrides: str, root: Path = labelled_folder) -> Config:
        return settings.setting("test_efficientnet", [*OPTIONS, f"data.root={root}", *overrides], 2 + settings.EXTRA_EPOCHS)

    return make


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lets every process of a benchmark be this one; what would have run in them, in order."""
    names = []

    def call(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        names.append(function.__name__)
        return function(*arguments, **options)

    monkeypatch.setattr(bench, "in_process", call)
    monkeypatch.setattr("benchmarks.naive.cores", lambda: 0)  # the DataLoader's workers, too
    return names


@pytest.fixture
def bench_cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """bench_cli("--freeze", ...): (exit status, stdout, stderr) of the benchmark, in this process."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return status, out, err

    return call


@pytest.fixture
def refused_bench(bench_cli: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """refused_bench(...): the message of a benchmark that must end with status 2 and one line on stderr."""

    def call(*arguments: object) -> str:
        status, out, err = bench_cli(*arguments)
        assert status == 2, f"status {status}: {err}"
        assert (out, err.count("\n")) == ("", 1), err
        assert err.startswith("benchmarks: error: "), err
        return err.removeprefix("benchmarks: error: ").rstrip("\n")

    return call
