"""picie and the floor, measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import measuring
from benchmarks.measuring import measure
from benchmarks.replay import recorded
from picie.config import Config

Setting = Callable[..., Config]
N, VAL, VIEWS = 6, 2, 2


def test_the_floor_does_what_an_epoch_did_as_often_as_it_was_asked(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed = []

    def replay(network, calls, inputs):  # type: ignore[no-untyped-def]
        with recorded(network) as made:
            real(network, calls, inputs)
        assert made == list(calls)
        replayed.append(sum(call.images for call in made if call.part != "fpn"))

    real = measuring.replay
    monkeypatch.setattr(measuring, "replay", replay)
    found = measure(setting(), tmp_path / "run", rounds=2)
    # Clustering and training each take every view once, the refit takes whole images, val is scored; labelling has the levels
    # that clustering kept. Whoever saves more forwards changes this line.
    assert found["calls"] == {"forwards": 2 * VIEWS * N + N + VAL, "backwards": VIEWS * N, "fpn_alone": VIEWS * N}
    assert replayed[1:] == [found["calls"]["forwards"]] * 2  # after one of each kind to warm up
    assert [len(values) for values in found["seconds"].values()] == [2, 2]


def test_stages_memory_and_sizes_are_told(setting: Setting, tmp_path: Path) -> None:
    found = measure(setting(), tmp_path / "run", rounds=1, floor=False)
    assert list(found["seconds"]) == ["picie"]
    assert (found["images"], found["val_images"]) == (N, VAL)
    assert {"train/forward", "train/backward", "evaluate"} <= set(found["stages"])
    assert "decode" in found["once"]
    assert found["peak_memory_mb"] > 50
    assert found["peak_vram_mb"] is None
    assert found["engine"]["device"] == "cpu"
