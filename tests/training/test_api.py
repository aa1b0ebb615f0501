"""Runs: what they leave, what may not change them, and what stops them."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import checkpoint_of
from tests.equal_runs import assert_equal_runs

from picie import Config
from picie.data import label_coding
from picie.data.loading import FrameCache
from picie.errors import InputError, TrainingError
from picie.methods.picie import PiCIE
from picie.runtime import checkpoint
from picie.runtime.run_record import RunRecord, read_metrics
from picie.training import api
from picie.training import setup as run_setup

Make = Callable[..., Config]


def test_a_run_leaves_its_records(trained: Path, tiny: Make) -> None:
    assert {p.name for p in trained.iterdir()} == {
        "checkpoint.pt",
        "config.toml",
        "metrics.jsonl",
        "pseudo_labels.npy",
        "run.json",
    }
    record = json.loads((trained / "run.json").read_text("utf-8"))
    assert (record["status"], record["epochs"], record["images"], record["skipped_images"]) == ("finished", 2, 6, 0)
    assert record["versions"]["torch"] == torch.__version__.split("+")[0] or "torch" in record["versions"]
    assert record["engine"]["device"] == "cpu"
    lines = read_metrics(trained)
    assert [line["epoch"] for line in lines] == [1, 2]
    for line in lines:
        assert line["loss"] == pytest.approx((line["within"] + line["cross"]) / 2)
        assert len(line["inertia"]) == len(line["imbalance"]) == len(line["empty"]) == 2
        assert 0 <= line["miou"] <= line["accuracy"] <= 100
        assert {"label", "train", "evaluate"} <= set(line["seconds"])
    store = np.load(trained / "pseudo_labels.npy")
    assert store.shape == (2, 6, 8, 8)
    assert store.dtype == np.uint8
    assert set(np.unique(store)) <= {0, 1, 2}
    # What the backbone decides is stated too.
    assert checkpoint_of(trained)["config"] == tiny("model.freeze=false").model_dump(mode="json")


def test_training_lowers_the_loss(tiny: Make, tmp_path: Path) -> None:
    # The first epoch's pseudo-labels do not depend on the learning rate, so losses compare. The decoder alone: three steps of a
    # random network with BatchNorm over two images go anywhere.
    options = ("train.epochs=1", "model.freeze=true")
    still = api.train(tiny(*options, "train.lr=1e-12"), tmp_path / "still")
    run = api.train(tiny(*options, "train.lr=1e-2"), tmp_path / "run")
    assert read_metrics(run)[0]["inertia"] == read_metrics(still)[0]["inertia"]
    assert read_metrics(run)[0]["loss"] < read_metrics(still)[0]["loss"] - 0.002


def test_training_moves_the_network(tiny: Make, tmp_path: Path) -> None:
    start, run = (api.train(tiny(f"train.epochs={n}"), tmp_path / f"{n}") for n in (0, 1))
    before, after = checkpoint_of(start)["method"], checkpoint_of(run)["method"]
    moved = [name for name in before if name.endswith("weight") and not torch.equal(before[name], after[name])]
    assert any("backbone" in name for name in moved)
    assert any("fpn" in name for name in moved)


def test_a_frozen_backbone_does_not_move(tiny: Make, tmp_path: Path) -> None:
    start = api.train(tiny("train.epochs=0"), tmp_path / "start")
    run = api.train(tiny("model.freeze=true"), tmp_path / "run")
    before, after = checkpoint_of(start)["method"], checkpoint_of(run)["method"]
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not [name for name in moved if "backbone" in name]
    assert [name for name in moved if "fpn" in name]


@pytest.mark.parametrize(
    "change",
    [
        "run.workers=1",
        "run.workers=3",
        "run.cache_gb=0",
        "run.keep_gb=0",
        "run.progress=false",
        ("run.cache_gb=0", "run.workers=4"),
    ],
)
def test_the_section_run_changes_no_result(tiny: Make, trained: Path, tmp_path: Path, change: str | tuple[str, ...]) -> None:
    changes = (change,) if isinstance(change, str) else change
    assert_equal_runs(api.train(tiny(*changes), tmp_path / "run"), trained)


def test_it_changes_none_in_float32(tiny: Make, tmp_path: Path) -> None:
    runs = [api.train(tiny("train.precision=fp32", f"run.keep_gb={gb}"), tmp_path / str(gb)) for gb in (1, 0)]
    assert_equal_runs(*runs)


@pytest.mark.parametrize("change", ["seed=1", "views.invariance=[]", "loss.temperature=0.4", "cluster.batch_size=3"])
def test_other_sections_do(tiny: Make, trained: Path, tmp_path: Path, change: str) -> None:
    with pytest.raises(AssertionError):
        assert_equal_runs(api.train(tiny(change), tmp_path / "run"), trained)


@pytest.mark.parametrize(
    ("invariance", "equivariance"),
    [("greyscale", "hflip"), ("[]", "[]"), ("[]", "crop"), ("blur", "[]"), ("gamma,cast", "rot90")],
)
def test_any_subset_of_transforms_trains(tiny: Make, tmp_path: Path, invariance: str, equivariance: str) -> None:
    run = api.train(
        tiny(f"views.invariance={invariance}", f"views.equivariance={equivariance}", "train.epochs=1"), tmp_path / "run"
    )
    assert np.isfinite(read_metrics(run)[0]["loss"])


@pytest.mark.parametrize(
    "change",
    [
        ("method=mdc",),
        ("method=mdc", "mdc.classifier=centroids"),
        ("loss.mse=true",),
        ("loss.mse=true", "loss.within=0", "loss.cross=0"),
        ("loss.class_weights=sqrt_inverse",),
        ("cluster.metric=euclidean",),
        ("cluster.warm_start=true", "train.epochs=2"),
        ("cluster.over_k=2",),
        ("cluster.over_k=300", "cluster.metric=euclidean", "loss.class_weights=inverse", "loss.mse=true"),
        ("model.laterals=random",),
        ("train.precision=fp32",),
        ("train.precision=bf16",),
        ("cluster.init_batches=1", "cluster.init_points=40"),
        ("evaluate.crop=false",),
        ("evaluate.every=0",),
        ("views.aspect=2", "evaluate.crop=false"),
        ("views.aspect=0.5", "views.equivariance=crop,hflip,vflip"),
        ("method=mdc", "views.aspect=2"),
    ],
)
def test_every_option_trains(tiny: Make, tmp_path: Path, change: tuple[str, ...]) -> None:
    run = api.train(tiny("train.epochs=1", *change), tmp_path / "run")
    last = read_metrics(run)[-1]
    assert np.isfinite(last["loss"])
    assert last["miou"] > 0  # the last epoch is always scored


def test_views_of_another_shape_fill_it(tiny: Make, tmp_path: Path) -> None:
    run = api.train(tiny("train.epochs=0", "views.aspect=2"), tmp_path / "run")
    assert np.load(run / "pseudo_labels.npy").shape == (2, 6, 8, 16)


def test_an_over_clustering_head_has_its_own_records(tiny: Make, tmp_path: Path) -> None:
    """PiCIE+H; and the first epoch's clusters of the first head are those of a run without it."""
    alone = api.train(tiny("train.epochs=1", "cluster.refit=0"), tmp_path / "alone")
    both = api.train(tiny("train.epochs=1", "cluster.refit=0", "cluster.over_k=9"), tmp_path / "both")
    (expected,), (line,) = read_metrics(alone), read_metrics(both)
    for name in ("inertia", "imbalance", "empty"):
        assert line[name] == expected[name]
        assert len(line[f"over_{name}"]) == 2
    assert line["over_inertia"] < line["inertia"]
    own, over = (line["within"] + line["cross"]) / 2, (line["over_within"] + line["over_cross"]) / 2
    assert line["loss"] == pytest.approx((math.log(9) * own + math.log(3) * over) / math.log(27))
    assert not [name for name in expected if name.startswith("over")]
    method = checkpoint_of(both)["method"]
    assert torch.equal(method["centroids"], checkpoint_of(alone)["method"]["centroids"])
    assert torch.equal(checkpoint_of(both)["classifier"]["weight"], method["centroids"][0])
    torch.testing.assert_close(method["over_centroids"].norm(dim=2), torch.ones(2, 9))  # the method was given them
    stores = [np.load(run / "pseudo_labels.npy") for run in (alone, both)]
    assert stores[1].shape == (4, 6, 8, 8)
    assert np.array_equal(stores[0], stores[1][:2])
    assert stores[1][2:].max() == 8


def test_labels_of_more_than_256_over_clusters_are_whole(tiny: Make, tmp_path: Path) -> None:
    store = np.load(api.train(tiny("train.epochs=0", "cluster.over_k=300"), tmp_path / "run") / "pseudo_labels.npy")
    assert store.dtype == np.uint16
    assert store[:2].max() == 2
    assert 256 < store[2:].max() < 300


def test_epochs_0_clusters_the_network_as_it_starts(tiny: Make, tmp_path: Path) -> None:
    run = api.train(tiny("train.epochs=0"), tmp_path / "run")
    (line,) = read_metrics(run)
    assert line["epoch"] == 0
    assert "loss" not in line
    assert line["miou"] > 0
    assert checkpoint_of(run)["classifier"]["weight"].norm(dim=1).min() > 0.9


def test_scores_are_taken_every_so_many_epochs(tiny: Make, tmp_path: Path) -> None:
    run = api.train(tiny("train.epochs=3", "evaluate.every=2"), tmp_path / "run")
    assert ["miou" in line for line in read_metrics(run)] == [False, True, True]


def test_labels_of_the_train_split_are_never_opened(own_folder: Path, tiny: Make, trained: Path, tmp_path: Path) -> None:
    for label in (own_folder / "labels" / "train").iterdir():
        label.write_bytes(b"garbage")
    run = api.train(tiny(f"data.root={own_folder}"), tmp_path / "run")
    assert_equal_runs(run, trained, but=("config",))


def test_no_label_is_opened_without_an_evaluation(
    own_folder: Path, tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object) -> np.ndarray:
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr(label_coding, "read_stored", refuse)
    root = own_folder / "images"  # nested, and without classes.toml
    run = api.train(tiny(f"data.root={root}"), tmp_path / "run")
    assert "miou" not in read_metrics(run)[-1]
    assert json.loads((run / "run.json").read_text("utf-8"))["images"] == 8
    with pytest.raises(AssertionError, match="was opened"):
        api.train(tiny(f"data.root={own_folder}"), tmp_path / "scored")


def test_an_unreadable_image_is_left_out_and_counted(own_folder: Path, tiny: Make, trained: Path, tmp_path: Path) -> None:
    (own_folder / "images" / "train" / "zz.jpg").write_bytes(b"no picture")
    run = api.train(tiny(f"data.root={own_folder}"), tmp_path / "run")
    record = json.loads((run / "run.json").read_text("utf-8"))
    assert (record["images"], record["skipped_images"]) == (6, 1)
    assert "zz.jpg" in record["skipped"]["zz.jpg"]
    assert_equal_runs(run, trained, but=("config",))  # the good ones train as if it were not there
    with pytest.raises(InputError, match=r"zz\.jpg: cannot be read as an image"):
        api.train(tiny(f"data.root={own_folder}", "data.on_bad_image=error"), tmp_path / "strict")
    assert not (tmp_path / "strict").exists()


def test_k_is_checked_against_the_images_that_can_be_read(own_folder: Path, tiny: Make, tmp_path: Path) -> None:
    for image in sorted((own_folder / "images" / "train").iterdir())[1:]:
        image.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"cluster\.k = 100 .* 64 points \(.* of 1 images, 8x8 cells each"):
        api.train(tiny(f"data.root={own_folder}", "cluster.k=100"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("made", ["nothing", "runs", "run"])
@pytest.mark.parametrize("sibling", [False, True])
def test_a_run_that_cannot_begin_takes_back_its_own_alone(
    own_folder: Path, tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str, sibling: bool
) -> None:
    """Folders that were there stay, and so does a run that another process puts beside it meanwhile."""
    run, other = tmp_path / "deep" / "runs" / "run", tmp_path / "deep" / "runs" / "other"
    {"nothing": tmp_path, "runs": run.parent, "run": run}[made].mkdir(parents=True, exist_ok=True)
    plain = FrameCache.scan

    def scan(self: FrameCache, *arguments: Any) -> np.ndarray:
        assert (run / "config.toml").is_file()
        if sibling:
            other.mkdir()
            (other / "checkpoint.pt").write_bytes(b"theirs")
        return plain(self, *arguments)

    monkeypatch.setattr(FrameCache, "scan", scan)
    for image in (own_folder / "images" / "train").iterdir():
        image.write_bytes(b"no picture")
    with pytest.raises(InputError, match="none of the 6 images"):
        api.train(tiny(f"data.root={own_folder}"), run)
    if made == "run":
        assert not list(run.iterdir())
    else:
        assert not run.exists()
    if sibling:
        assert (other / "checkpoint.pt").read_bytes() == b"theirs"
    assert run.parent.exists() == (made != "nothing" or sibling)
    assert (tmp_path / "deep").exists() == (made != "nothing" or sibling)


def test_of_two_that_begin_in_one_folder_the_first_has_it(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, plain = tmp_path / "run", run_setup.feature_size
    with contextlib.ExitStack() as other:

        def meanwhile(*arguments: Any) -> tuple[int, int]:
            run.mkdir()
            assert other.enter_context(checkpoint.exclusive(run))
            for name in ("config.toml", "run.json"):
                (run / name).write_text("{}", "utf-8")
            return plain(*arguments)

        monkeypatch.setattr(run_setup, "feature_size", meanwhile)
        with pytest.raises(InputError, match=r"another picie is at work on this run; wait for it"):
            api.train(tiny(), run)
        assert {path.name: path.read_text("utf-8") for path in run.iterdir()} == {"config.toml": "{}", "run.json": "{}"}


def test_data_without_the_default_split_trains_without_scores(own_folder: Path, tiny: Make, tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        shutil.rmtree(own_folder / kind / "val")
    run = api.train(tiny(f"data.root={own_folder}", "train.epochs=0"), tmp_path / "run")
    assert "miou" not in read_metrics(run)[-1]
    with pytest.raises(InputError, match="no split 'test'"):
        api.train(tiny(f"data.root={own_folder}", "evaluate.split=test"), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_out_of_memory_keeps_the_checkpoint(tiny: Make, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, run, calls = PiCIE.losses, tmp_path / "run", 0

    def full(self: PiCIE, *arguments: Any) -> Iterator[dict[str, torch.Tensor]]:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield from plain(self, *arguments)

    monkeypatch.setattr(PiCIE, "losses", full)
    advice = r"lower run\.keep_gb, train\.batch_size, cluster\.batch_size or views\.size"
    with pytest.raises(TrainingError, match=f"{run}: out of memory on cpu; {advice}"):
        api.train(tiny(), run)
    assert json.loads((run / "run.json").read_text("utf-8"))["status"] == "failed"
    assert checkpoint_of(run)["epoch"] == 1
    api.resume(run)
    assert_equal_runs(run, trained)


def test_a_folder_that_holds_something_is_not_taken(trained: Path, tiny: Make, tmp_path: Path) -> None:
    before = (trained / "config.toml").read_bytes()
    with pytest.raises(InputError, match=r"exists already.*--resume"):
        api.train(tiny("seed=9"), trained)
    assert (trained / "config.toml").read_bytes() == before
    (tmp_path / "empty").mkdir()
    assert api.train(tiny("train.epochs=0"), tmp_path / "empty") == tmp_path / "empty"


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = PiCIE.losses, 0

    def broken(self: PiCIE, *arguments: Any) -> Iterator[dict[str, torch.Tensor]]:
        nonlocal calls
        calls += 1
        for term in plain(self, *arguments):
            yield term | {"loss": term["loss"] * float("nan")} if calls == 5 else term

    one = api.train(tiny("train.epochs=1", "train.schedule=constant"), tmp_path / "one")
    monkeypatch.setattr(PiCIE, "losses", broken)
    run = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"the loss is not finite in epoch 2, step 2.*checkpoint is kept.*train\.lr"):
        api.train(tiny("train.schedule=constant"), run)
    assert_equal_runs(run, one, but=("config", "finished"))
    assert all(torch.isfinite(t).all() for t in checkpoint_of(run)["method"].values())
    assert json.loads((run / "run.json").read_text("utf-8"))["status"] == "failed"


def test_an_image_that_disappears_stops_the_run_and_costs_nothing(
    own_folder: Path, tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = own_folder / "images" / "train" / "003.jpg"
    kept = image.read_bytes()
    monkeypatch.setattr(RunRecord, "metrics", lambda self, line: image.unlink())  # at the end of the first epoch
    config = tiny(f"data.root={own_folder}", "run.cache_gb=0")
    with pytest.raises(InputError, match=r"003\.jpg"):
        api.train(config, tmp_path / "run")
    assert checkpoint_of(tmp_path / "run")["epoch"] == 1
    monkeypatch.undo()
    image.write_bytes(kept)
    api.resume(tmp_path / "run")
    assert checkpoint_of(tmp_path / "run")["epoch"] == 2


def test_a_strip_and_a_dot_train_beside_pictures(own_folder: Path, tiny: Make, tmp_path: Path) -> None:
    root = own_folder / "images" / "val"
    Image.new("L", (1, 500), 90).save(root / "strip.png")
    Image.new("RGBA", (1, 1), (1, 2, 3, 4)).save(root / "DOT.PNG")
    shutil.copy(root / "100.jpg", root / "._100.jpg")
    run = api.train(tiny(f"data.root={root}", "train.epochs=1"), tmp_path / "run")
    assert json.loads((run / "run.json").read_text("utf-8"))["images"] == 4


def test_labels_that_are_not_used_are_reported_before_training(
    own_folder: Path, tiny: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (own_folder / "labels").rename(own_folder / "labelled")
    api.train(tiny(f"data.root={json.dumps(str(own_folder))}", "train.epochs=0"), tmp_path / "run")
    (warning,) = [text for text in caplog.messages if "labels are not used" in text]
    assert "no scores while training" in warning
    assert "has no folder labels/: it has labelled/; rename the right one" in warning
