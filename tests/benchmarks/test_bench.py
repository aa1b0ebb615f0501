"""Records of a benchmark."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench import append, bench, growth, machine_of, record
from benchmarks.settings import STEPS
from benchmarks.settings import setting as make
from picie.config import Config
from picie.errors import InputError, UnreadableImageError

Setting = Callable[..., Config]


@pytest.fixture
def found(setting: Setting) -> dict[str, Any]:
    """The record of three epochs whose times are made up."""
    memory = {"peak_memory_mb": 10, "peak_vram_mb": None}
    ours = {
        "engine": {"device": "NVIDIA H200", "precision": "bf16", "threads": 2},
        "images": 6,
        "val_images": 2,
        "refit_images": 3,
        "seconds": {"picie": [4.0, 2.5, 3.0], "floor": [2.0, 2.5, 9.0]},
        "calls": {"forwards": 44, "backwards": 12, "fpn_alone": 0},
        "stages": {"train/forward": 3.0, "evaluate": 0.5, "refit/k-means": 0.5},
        "once": {"decode": 0.5},
        **memory,
    }
    naive = [
        {"seconds": s, "passes": {}, "forwards": 38, "backwards": 12, "threads": 2, "workers": 2, **memory}
        for s in (12, 10, 15)
    ]
    return record(setting(), ours, naive)


def test_ratios_are_those_of_epochs_side_by_side_and_else_of_the_quickest(found: dict[str, Any]) -> None:
    assert found["least"] == {"picie": 2.5, "floor": 2.0, "naive": 10}
    assert found["ratios"] == {"picie/floor": 1.0, "naive/picie": 4.0}


def test_stages_have_shares_and_rates_of_their_own_images(found: dict[str, Any]) -> None:
    assert found["stages"] == {
        "train/forward": {"seconds": 3.0, "images_per_second": 2.0, "share": 0.75},
        "evaluate": {"seconds": 0.5, "images_per_second": 4.0, "share": 0.125},
        "refit/k-means": {"seconds": 0.5, "images_per_second": 6.0, "share": 0.125},
    }


def test_a_record_names_neither_machine_nor_folder(found: dict[str, Any], labelled_folder: Path, tmp_path: Path) -> None:
    import platform

    text = json.dumps(found)
    assert str(labelled_folder) not in text
    assert platform.node() not in text
    assert machine_of(found) == f"nvidia-h200-{found['cores']}cores"


def test_lines_are_appended_to_a_file_or_to_one_in_a_folder(found: dict[str, Any], tmp_path: Path) -> None:
    assert append(tmp_path / "x.jsonl", found) == tmp_path / "x.jsonl"
    named = append(tmp_path, found)
    assert named.name == f"{found['taken']}-{machine_of(found)}.jsonl"
    assert append(tmp_path, found) == named
    assert [json.loads(line) for line in named.read_text("utf-8").splitlines()] == [found, found]


def test_the_naive_epochs_are_taken_around_the_others(setting: Setting, tmp_path: Path, here: list[str]) -> None:
    (found,) = bench([setting()], tmp_path, 2, naive=True)
    assert here == ["_check_all", "_measure_naive", "_measure", "_measure_naive"]
    assert [len(found["seconds"][name]) for name in ("picie", "floor", "naive")] == [2, 2, 2]
    assert found["calls"]["naive"] == {"forwards": 38, "backwards": 12}
    assert sum(stage["share"] for stage in found["stages"].values()) == pytest.approx(1)
    assert found["versions"]["torch"]
    assert (found["k"], found["view"], found["frame"], found["batch_size"]) == (3, [32, 32], [64, 64], 2)


def test_nothing_is_measured_if_one_of_the_settings_is_refused(setting: Setting, tmp_path: Path, here: list[str]) -> None:
    with pytest.raises(InputError, match=r"cluster\.k"):
        list(bench([setting(), setting("cluster.k=5000")], tmp_path, 1, naive=False))
    assert here == ["_check_all"]


def test_nothing_is_measured_if_an_image_cannot_be_read(
    setting: Setting, own_folder: Path, tmp_path: Path, here: list[str]
) -> None:
    spoilt = next((own_folder / "images" / "val").iterdir())
    spoilt.write_bytes(b"no image")
    with pytest.raises(UnreadableImageError, match=spoilt.name):
        list(bench([setting(root=own_folder)], tmp_path / "out", 1, naive=True))
    assert here == ["_check_all"]


@pytest.mark.parametrize("option", ["method=mdc", "cluster.over_k=4", "loss.mse=true"])
def test_the_naive_recipe_is_not_set_beside_another_method(
    setting: Setting, tmp_path: Path, here: list[str], option: str
) -> None:
    with pytest.raises(InputError, match="--no-naive"):
        list(bench([setting(option)], tmp_path, 1, naive=True))
    assert here == []
    (found,) = bench([setting(option)], tmp_path, 1, naive=False)
    assert "naive" not in found["seconds"]


def test_none_scores_where_none_is_to_be_scored(setting: Setting, tmp_path: Path, here: list[str]) -> None:
    (found,) = bench([setting("evaluate.every=0")], tmp_path, 1, naive=True)
    assert found["calls"]["naive"] == {"forwards": 36, "backwards": 12}
    assert "evaluate" not in found["naive"]["passes"]
    assert not any(name.startswith("evaluate") for name in found["stages"])


def test_a_step_that_cannot_be_is_named(setting: Setting, tmp_path: Path, here: list[str]) -> None:
    with pytest.raises(InputError, match=r"^--grow k \(8, 32, 128, 512\): cluster\.k = 512"):
        list(growth(setting(), "k", tmp_path, 1))


@pytest.mark.parametrize(
    "option", ["model.backbone=resnet18", "train.epochs=2", "data.on_bad_image=skip", "run.report=true", "evaluate.every=2"]
)
def test_what_the_benchmark_sets_itself_cannot_be_set(option: str) -> None:
    with pytest.raises(InputError, match=rf"^bench: {option.partition('=')[0]} "):
        make("resnet18", [option], 4)


@pytest.mark.parametrize(("grow", "steps"), [("images", (1, 2)), ("size", (32, 64)), ("k", (2, 4))])
def test_one_quantity_grows(
    setting: Setting, tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch, grow: Any, steps: tuple[int, ...]
) -> None:
    monkeypatch.setitem(STEPS, grow, steps)
    records = list(growth(setting(), grow, tmp_path, 1))
    grown = [(r["images"], r["view"][0], r["k"]) for r in records]
    assert grown == {"images": [(6, 32, 3), (12, 32, 3)], "size": [(6, 32, 3), (6, 64, 3)], "k": [(6, 32, 2), (6, 32, 4)]}[grow]
    assert all(r["grow"] == grow and list(r["seconds"]) == ["picie"] and r["ratios"] == {} for r in records)


def test_weights_are_loaded_where_they_are_to_be_had() -> None:
    assert make("tf_efficientnet_lite0", [], 4).model.pretrained
    assert not make("resnet18", [], 4).model.pretrained
    assert make("resnet18", ["model.pretrained=true"], 4).model.pretrained
    assert make("resnet18", ["model.weights=w.pth"], 4).model.weights == "w.pth"
