"""A few mutated inputs of each kind end as documented; `make fuzz` tries thousands."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.robustness import harness
from tests.robustness.kinds import KINDS, Fixture, make_fixture
from tests.robustness.mutate import change_bytes, change_values


@pytest.fixture(scope="module")
def fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fixture]:
    yield make_fixture(tmp_path_factory.mktemp("robustness"))


@pytest.mark.parametrize("numbers", [range(2), pytest.param(range(2, 10), marks=pytest.mark.long)], ids=["few", "more"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_input_ends_with_a_documented_status_and_no_traceback(fixture: Fixture, kind: str, numbers: range) -> None:
    report = harness.try_inputs(fixture, {kind: numbers})
    assert report.inputs == len(numbers)
    assert report.failures == []


def test_mutations_are_reproducible_and_change_something() -> None:
    values = {"a": [1, 2, {"b": "c"}], "d": 0.5}
    made = [change_values(values, np.random.default_rng(seed)) for seed in range(20)]
    assert repr(made) == repr([change_values(values, np.random.default_rng(seed)) for seed in range(20)])
    assert sum(repr(value) != repr(values) for value in made) > 15
    assert values == {"a": [1, 2, {"b": "c"}], "d": 0.5}
    damaged = [change_bytes(bytes(range(200)), np.random.default_rng(seed)) for seed in range(20)]
    assert len(set(damaged)) > 15


def test_bad_ends_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_: object) -> int:
        raise KeyError("x")

    def hang(_: object) -> int:
        while True:
            time.sleep(0.01)

    for main, outcome in ((crash, "traceback"), (lambda _: 3, "exit 3"), (lambda _: 2, "no line"), (hang, "hang over 1 s")):
        monkeypatch.setattr(harness, "main", main)
        monkeypatch.setattr(harness, "SECONDS", 1)
        assert harness.run([])[0] == outcome
    monkeypatch.setattr(harness, "main", lambda _: 0)
    assert harness.run([]) == ("status 0", "")


def test_an_input_can_be_kept(fixture: Fixture, tmp_path: Path) -> None:
    command = harness.keep(fixture, "photo", 3, tmp_path / "kept")
    assert command[0] == "predict"
    assert Path(command[2]).is_file()
