"""A record can be read."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.bench_tables import show_record

STAGES = {"rest": 1.0, "label/forward": 2.0, "train": 0.5, "train/forward": 3.0, "label/k-means": 1.5, "train/loss": 0.001}


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What is shown of made-up figures."""
    total = sum(STAGES.values())
    found: dict[str, Any] = {
        "backbone": "resnet18",
        "freeze": False,
        "images": 10,
        "view": [160, 320],
        "frame": [320, 640],
        "batch_size": 16,
        "k": 11,
        "cores": 4,
        "engine": {"device": "cpu", "precision": "bf16", "threads": 2},
        "seconds": {"picie": [8.5, 8.0, 9.0], "floor": [4.0, 5.0, 4.5]},
        "least": {"picie": 8.0, "floor": 4.0},
        "ratios": {"picie/floor": 2.0},
        "calls": {"picie": {"forwards": 42, "backwards": 20, "fpn_alone": 0}},
        "memory": {"picie": {"peak_memory_mb": 1234, "peak_vram_mb": None}},
        "stages": {n: {"seconds": s, "images_per_second": 10 / s, "share": s / total} for n, s in STAGES.items()},
        "once": {"decode": 2.0, "rest": 0.5},
    }
    show_record(found)
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_each_contestant_has_its_seconds_calls_and_memory(lines: list[str]) -> None:
    assert "resnet18: 10 images, views 160x320 of 320x640, batch 16, K = 11; cpu, bf16, 2 of 4 cores" in lines
    assert "picie 8.00 9.00 1.2 42 20 1,234 -" in lines
    assert "the floor 4.00 5.00 2.5 42 20 - -" in lines
    assert "picie / floor 2.00 (1.60 to 2.12)" in lines
    assert "once before the first epoch, in seconds: decode 2.0 (5 images/s), rest 0.5" in lines


def test_stages_of_a_pass_stand_together_and_what_takes_next_to_nothing_is_left_out(lines: list[str]) -> None:
    first = next(i for i, line in enumerate(lines) if line.startswith("rest "))
    rows = [line.rsplit(" ", 3) for line in lines[first : first + 5]]
    assert [row[0] for row in rows] == ["rest", "label: forward", "label: k-means", "train: forward", "train: other"]
    assert rows[3][1:] == ["3.00", "37.5", "3"]
    assert not any("loss" in line for line in lines)
