"""Label-free numbers of runs, and their correlation with scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.label_free import NUMBERS, correlations, main


def test_a_run_is_measured_once_and_its_numbers_are_kept(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "numbers.jsonl"
    main([str(trained), "--out", str(kept)])
    output, told = capsys.readouterr()
    (row,) = [json.loads(line) for line in kept.read_text("utf-8").splitlines()]
    assert row == json.loads(told.splitlines()[-1])
    assert row["path"] == str(trained.resolve())
    assert all(np.isfinite(row[name]) for name in ("accuracy", "miou", *NUMBERS))
    assert all(0 <= row[name] <= 1 for name in ("agreement", "entropy"))
    assert output.splitlines()[0] == f"| runs | n | {' | '.join(NUMBERS)} |"
    main([str(trained), "--out", str(kept)])
    assert len(kept.read_text("utf-8").splitlines()) == 1


def test_correlations_are_within_groups() -> None:
    """Agreement orders the runs of each group; the groups' levels, which it does not explain, play no part."""
    rng = np.random.default_rng(0)
    rows = []
    for level, group in enumerate("ab"):
        for miou in range(10):
            numbers = dict.fromkeys(NUMBERS, None) | {"agreement": miou - 100 * level, "loss": rng.normal()}
            rows.append({"group": group, "miou": miou + 20 * level, **numbers})
    (a, b, everything) = correlations(rows)
    assert (a[0], a[1], b[0], b[1]) == ("a", 10, "b", 10)
    assert a[2]["agreement"] == b[2]["agreement"] == pytest.approx(1)
    assert everything[:2] == ("all", 20)
    assert everything[2]["agreement"] == pytest.approx(1)
    assert abs(everything[2]["loss"]) < 0.6
    assert "inertia" not in everything[2]
