"""The check of a GPU, on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gpu, gpu_checks
from benchmarks.in_memory import NAME, InMemory
from picie.config import Config, load
from picie.errors import InputError
from picie.methods.picie import PiCIE

STAGES = {"label/cluster/augment", "label/cluster/forward", "label/cluster/k-means", "label/label/assign", "train/backward"}


@pytest.fixture
def tiny() -> Config:
    return gpu._configs("cpu", 8, dry_run=True)[0]


def test_a_dry_run_takes_every_step_and_writes_a_record(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "record.json"
    assert gpu.main(["--dry-run", "--out", str(out)]) == 0
    record = json.loads(out.read_text("utf-8"))
    assert set(record["checks"]) == {name for name in gpu_checks.TOLERANCES if not name.startswith("processes")}
    # The device is the CPU itself, so only bfloat16 differs.
    different = {name for name, check in record["checks"].items() if check["value"] > 0}
    assert different == {"bf16 features", "bf16 loss"}
    speed = record["speed"]
    assert speed["images"] == 8
    assert set(speed["seconds"]) == {"picie", "floor"}
    assert set(speed["stages"]) >= STAGES | {"evaluate"}
    assert speed["coco_epoch_seconds"] == pytest.approx(gpu.COCO * speed["least"]["picie"] / 8)
    assert {"versions", "git", "taken", "cores"} <= set(record)
    assert "bare network" in capfd.readouterr().out


def test_weights_that_do_not_arrive_on_the_device_are_noticed(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PiCIE, "load_state_dict", lambda self, state: None)
    found = gpu_checks.judged(gpu_checks.compare_with_cpu(tiny, 4))
    assert found["views"]["passed"]
    assert not any(found[name]["passed"] for name in ("features", "loss", "gradient", "bf16 loss"))


def test_labels_of_other_clusters_are_noticed(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def other(points: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(None)
        return real(points, centroids.roll(1, 0) if len(calls) % 3 == 0 else centroids)

    real = gpu_checks.assign
    monkeypatch.setattr(gpu_checks, "assign", other)
    assert not gpu_checks.judged(gpu_checks.compare_with_cpu(tiny, 4))["labels"]["passed"]


def test_a_failed_check_is_the_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "compare_with_cpu", lambda *_: {"labels": 0.5})
    monkeypatch.setattr(gpu, "compare_runs", lambda *_: {})
    monkeypatch.setattr(gpu, "_speed", lambda *_: {})
    monkeypatch.setattr(gpu, "_show", lambda _: None)
    assert gpu.main(["--dry-run", "--out", str(tmp_path / "record.json")]) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    assert "run.device: 'cuda' is not on this machine" in capfd.readouterr().err


def test_pictures_in_memory_are_a_dataset() -> None:
    data = InMemory("train-70-48x64")
    assert len(data) == 70
    assert data.image(69).size == (64, 48)
    assert data.label(69).shape == (48, 64)
    assert not np.array_equal(data.label(0), data.label(32))  # shifted
    assert not np.array_equal(data.label(0), InMemory("val-2-48x64").label(0))
    with pytest.raises(InputError, match="write a name, a number and a size"):
        InMemory("train")


@pytest.mark.long
def test_two_processes_are_compared_with_one(tmp_path: Path) -> None:
    options = [f"data.name={NAME}", "data.train_split=train-9-48x64", "evaluate.split=val-2-48x64", "run.device=cpu"]
    config = load(None, None, [*gpu._TINY, *options])
    found = gpu_checks.judged(gpu_checks.compare_processes(config, tmp_path, 2))
    assert set(found) == {"processes loss", "processes inertia"}
    assert all(check["passed"] for check in found.values()), found


def test_the_measured_epoch_has_cocos_sizes() -> None:
    checked, measured = gpu._configs("mps", 4096, dry_run=False)
    assert measured.views.frame_size == (640, 640)
    assert (measured.views.size, measured.cluster.batch_size, measured.train.batch_size) == (320, 256, 128)
    assert len(InMemory(measured.data.train_split)) == 4096
    assert measured.run.keep_gb == pytest.approx(4096 / gpu.COCO, abs=0.01)
    assert checked.views.size == 96
