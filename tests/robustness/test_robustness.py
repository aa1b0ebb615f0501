"""A few damaged inputs of each kind; `make fuzz` runs many."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.robustness.harness import run_case, run_command
from tests.robustness.inputs import KINDS, prepare

CASES = 6


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the cases start from."""
    return prepare(tmp_path_factory.mktemp("robustness"))


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_input_ends_as_one_line(kind: str, source: Path) -> None:
    findings = [finding for seed in range(CASES) for finding in run_case(kind, KINDS[kind], seed, source)[1]]
    assert not findings, "\n\n".join(map(str, findings))


def test_a_traceback_a_hang_and_a_warning_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> int:
        raise ZeroDivisionError("by hand")

    def hang(_: object) -> int:
        while True:
            pass

    monkeypatch.setattr("tests.robustness.harness.LIMIT", 0.2)
    for replacement, problem in ((fail, "ZeroDivisionError: by hand"), (hang, "took longer"), (lambda _: 3, "exit status 3")):
        monkeypatch.setattr("tests.robustness.harness.main", replacement)
        assert problem in run_command(["list", "methods"])
    monkeypatch.setattr("tests.robustness.harness.main", lambda _: 2)
    assert "the last line on stderr" in run_command(["list", "methods"])
