"""Naming, merging, splitting and re-clustering a run: what predict makes of it, and what undoes it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import NAMES, checkpoint_of, predicted_clusters
from torch.nn import functional as F

from picie import Config, Segmenter, evaluate
from picie.errors import InputError
from picie.inference.predict import predict_files
from picie.inference.segments import Segments
from picie.naming.changes import Changes, change
from picie.naming.overview import overview
from picie.runtime import checkpoint
from picie.training import api

Make = Callable[..., Config]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def six(tiny: Make, labelled_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six clusters on images without labels, not trained: training leaves the tiny network few clusters a picture."""
    config = tiny(f"data.root={json.dumps(str(labelled_folder / 'images'))}", "train.epochs=0", "cluster.k=6", "seed=2")
    return api.train(config, tmp_path_factory.mktemp("six") / "run")


@pytest.fixture
def run(six: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(six, tmp_path / "run"))


@pytest.fixture(scope="module")
def photo(six: Path, labelled_folder: Path) -> Path:
    """The picture in which that run sees the most clusters."""
    files = sorted((labelled_folder / "images").rglob("*.jpg"))
    return max(files, key=lambda file: len(np.unique(predicted(six, file))))


def predicted(run: Path, photo: Path) -> np.ndarray:
    return Segmenter.load(run, "cpu").predict(photo)


def test_names_and_merges_are_what_predict_writes(run: Path, photo: Path, tmp_path: Path) -> None:
    before = predicted(run, photo)
    change(run, Changes(names={"cluster 5": ("sky", "#0000ff")}, merges=[((3, 2), "plant", "#00ff00")]))
    expected = np.array([0, 1, 2, 2, 3, 4])[before]
    assert set(np.unique(expected)) >= {1, 2}
    assert np.array_equal(predicted(run, photo), expected)
    predict_files(run, [photo], tmp_path / "out")
    image = Image.open(tmp_path / "out" / f"{photo.stem}.png")
    assert np.array_equal(np.asarray(image), expected)
    record = json.loads((tmp_path / "out" / "predictions.json").read_text("utf-8"))
    assert record["names"] == ["cluster 0", "cluster 1", "plant", "cluster 4", "sky"]
    assert (record["colors"][2], record["colors"][4]) == ("#00ff00", "#0000ff")
    palette = np.array(image.getpalette()).reshape(-1, 3)
    assert palette[4].tolist() == [0, 0, 255]
    shares = record["images"][str(photo)]["share"]
    assert shares["plant"] == pytest.approx((expected == 2).mean(), abs=1e-4)
    legend = np.asarray(Image.open(tmp_path / "out" / "legend.png")).reshape(-1, 3)
    for color in ((0, 255, 0), (0, 0, 255)):
        assert (legend == color).all(1).any()


def test_split_leaves_other_values_as_they_were(run: Path, photo: Path) -> None:
    before = predicted(run, photo)
    value = int(np.bincount(before.ravel()).argmax())
    change(run, Changes(splits={value: 3}))
    segmenter = Segmenter.load(run, "cpu")
    after = segmenter.predict(photo)
    assert segmenter.k == len(segmenter.names) == 8
    assert set(np.unique(after[before == value])) <= {value, 6, 7}
    assert len(np.unique(after[before == value])) > 1
    assert (after[before != value] == before[before != value]).mean() > 0.99


def test_a_merged_and_named_segment_can_be_split(run: Path, photo: Path) -> None:
    change(run, Changes(merges=[((0, 1, 2), "thing", "")]))
    before = predicted(run, photo)
    change(run, Changes(splits={"thing": 2}))
    segmenter = Segmenter.load(run, "cpu")
    assert segmenter.names == ("thing.1", "cluster 3", "cluster 4", "cluster 5", "thing.2")
    after = segmenter.predict(photo)
    assert (np.where(after == 4, 0, after) == before).mean() > 0.99


def test_reclustering_is_nearest_centroid_of_any_number(run: Path, photo: Path) -> None:
    change(run, Changes(k=11))
    state = checkpoint_of(run)
    weight = state["naming"]["clusters"]["weight"]
    assert torch.allclose(weight.norm(dim=1), torch.ones(11))
    segmenter = Segmenter.load(run, "cpu")
    assert segmenter.names == tuple(f"cluster {i}" for i in range(11))
    image = Image.open(photo)
    z = segmenter.encode(segmenter.to_pixels(image))
    logits = F.interpolate(torch.einsum("bdhw,kd->bkhw", z, weight), (48, 64), mode="bilinear")
    assert (segmenter.predict(photo) == logits.argmax(1)[0].numpy()).mean() > 0.999
    change(run, Changes(k=11))
    assert torch.equal(checkpoint_of(run)["naming"]["clusters"]["weight"], weight)  # a function of run and K


def test_merging_to_n_joins_the_most_similar(run: Path, photo: Path) -> None:
    before, rows = predicted(run, photo), overview(run)
    closest = max(range(6), key=lambda v: rows[v].similarity or -1)
    other = rows[closest].nearest
    assert other is not None
    change(run, Changes(merge_to=5))
    segmenter = Segmenter.load(run, "cpu")
    assert len(segmenter.names) == 5
    after = segmenter.predict(photo)
    assert segmenter.segments.assignment[closest] == segmenter.segments.assignment[other]
    assert np.array_equal(after, np.array(segmenter.segments.assignment)[before])
    change(run, Changes(merge_to=2))
    assert len(set(Segmenter.load(run, "cpu").segments.assignment)) == 2


def test_numbers_mean_the_table_as_it_was_before_the_command(run: Path) -> None:
    change(
        run, Changes(names={5: ("last", "")}, splits={4: 2}, merges=[((0, 1), "first", ""), (("cluster 2", 3), "second", "")])
    )
    segments = Segmenter.load(run, "cpu").segments
    assert segments.names == ("first", "second", "cluster 4.1", "last", "cluster 4.2")
    assert segments.assignment == (0, 0, 1, 1, 2, 3, 4)


def test_reset_takes_everything_back(tiny: Make, tmp_path: Path, photo: Path) -> None:
    run = api.train(tiny("train.epochs=0"), tmp_path / "run")
    before, matching = predicted(run, photo), checkpoint_of(run)["matching"]
    assert Segmenter.load(run).names[:3] == NAMES
    change(run, Changes(k=5))
    change(run, Changes(splits={0: 2}, names={1: ("x", "")}))
    state = checkpoint_of(run)
    assert state["matching"] is None  # it was of other clusters
    assert state["naming"]["matching"] == matching
    evaluate(run, name_clusters=True)
    change(run, Changes(reset=True))
    state = checkpoint_of(run)
    assert "naming" not in state
    assert state["matching"] == matching
    assert np.array_equal(predicted(run, photo), before)
    assert Segmenter.load(run).names[:3] == NAMES


def test_an_evaluation_scores_the_clusters_in_use(
    run: Path, labelled_folder: Path, photo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change(run, Changes(k=9))
    with caplog.at_level("INFO", "picie"):
        result = evaluate(run, labelled_folder, name_clusters=True)
    assert "scoring the 9 clusters made by `picie name`, not the 6 trained ones" in caplog.text
    assert result.confusion.shape == (3, 9)
    segmenter = Segmenter.load(run, "cpu")  # nobody named these clusters, so the classes do
    assert segmenter.names[:3] == NAMES
    assert len(segmenter.names) == 9
    change(run, Changes(names={"red": ("blood", "")}))
    caplog.clear()
    with caplog.at_level("INFO", "picie"):
        evaluate(run, labelled_folder, name_clusters=True)
    assert "the names given with `picie name` stay in use" in caplog.text
    assert Segmenter.load(run, "cpu").names[:3] == ("blood", "green", "blue")
    assert len(checkpoint_of(run)["matching"]["assignment"]) == 9
    assert result.assignment.tolist() == checkpoint_of(run)["matching"]["assignment"]


def test_training_on_drops_the_naming_with_a_line(own_run: Path, caplog: pytest.LogCaptureFixture) -> None:
    matching = checkpoint_of(own_run)["matching"]
    change(own_run, Changes(k=4, merge_to=2))
    api.resume(own_run)  # there is nothing left to do
    assert "naming" in checkpoint_of(own_run)
    with caplog.at_level("INFO", "picie"):
        api.resume(own_run, ["train.epochs=3"])
    assert "the names and clusters of `picie name` are dropped" in caplog.text
    state = checkpoint_of(own_run)
    assert "naming" not in state
    assert len(state["matching"]["assignment"]) == len(matching["assignment"]) == 3
    assert Segmenter.load(own_run).names[:3] == NAMES


@pytest.mark.parametrize("overrides", [("method=mdc", "train.epochs=1"), ("cluster.metric=euclidean", "train.epochs=0")])
def test_any_classifier_can_be_split_and_made_anew(
    tiny: Make, tmp_path: Path, labelled_folder: Path, overrides: tuple[str, ...]
) -> None:
    run = api.train(tiny(*overrides), tmp_path / "run")
    pictures = [Image.open(file) for file in sorted(labelled_folder.rglob("*.jpg"))]  # one alone may show half of the cluster

    def clusters() -> np.ndarray:
        segmenter = Segmenter.load(run, "cpu")
        return np.stack([predicted_clusters(segmenter, picture) for picture in pictures])

    before = clusters()
    largest = int(np.bincount(before.ravel()).argmax())
    change(run, Changes(splits={Segmenter.load(run).segments.assignment[largest]: 2}))
    after = clusters()
    assert (np.where(after == 3, largest, after) == before).mean() > 0.99
    assert (after == 3).any()
    change(run, Changes(k=5))
    assert Segmenter.load(run).k == 5


def test_the_overview_counts_pixels_and_finds_the_nearest(run: Path) -> None:
    change(run, Changes(merges=[((0, 1), "both", "")]))
    rows = overview(run)
    assert [row.clusters for row in rows] == [[0, 1], [2], [3], [4], [5]]
    assert sum(row.share or 0 for row in rows) == pytest.approx(1)
    weight = checkpoint_of(run)["classifier"]["weight"]
    means = F.normalize(torch.stack([weight[:2].mean(0), *weight[2:]]), dim=1)
    similar = (means @ means.T).fill_diagonal_(-9)
    assert [row.nearest for row in rows] == similar.argmax(1).tolist()
    assert [row.similarity for row in rows] == pytest.approx(similar.max(1).values.tolist(), abs=1e-5)


def test_without_the_images_names_can_be_given_and_the_rest_says_what_it_needs(
    tiny: Make, own_folder: Path, tmp_path: Path, cli: Call, labelled_folder: Path
) -> None:
    run = api.train(tiny(f"data.root={json.dumps(str(own_folder))}", "train.epochs=0"), tmp_path / "run")
    shutil.rmtree(own_folder)
    status, out, err = cli("name", run, "red=blood")
    assert status == 0
    assert "blood" in out
    assert "the shares of the pixels are unknown" in err
    for changes in (Changes(k=4), Changes(splits={0: 2})):
        with pytest.raises(InputError, match="are no longer there; give a folder of images by --data DIR"):
            change(run, changes)
    change(run, Changes(k=4), data=labelled_folder / "images")
    assert Segmenter.load(run).k == 4


def test_what_cannot_be_done_changes_nothing(run: Path) -> None:
    before = (run / "checkpoint.pt").read_bytes()
    for changes, part in (
        (Changes(names={0: ("a", "")}, splits={9: 2}), "9: no such cluster"),
        (Changes(k=4000), "--k 4000: the images give only"),
        (Changes(k=1), "--k 1: give a number from 2 to 4096"),
        (Changes(k=4, names={0: ("a", "")}), "--k makes new clusters; look at them first"),
        (Changes(splits={0: 1}), "--split cluster 0:1: give a number of parts from 2 to 4096"),
        (Changes(k=10**9), "--k 1000000000: give a number from 2 to 4096"),
        (Changes(splits={0: 99999}), "give a number of parts from 2 to 4096"),
        (Changes(names={0: ("a", ""), "cluster 0": ("b", "")}), "0, cluster 0: name each segment once"),
        (Changes(merges=[((1, "cluster 1"), "x", "")]), "--merge 1,cluster 1: give at least two segments"),
        (Changes(splits={0: 4000}), "sampled points belong to it; use fewer parts"),
        (Changes(splits={0: 2}, merges=[((0, 1), "x", "")]), "cluster 0: cannot be split twice, or split and merged"),
        (Changes(splits={0: 2, "cluster 0": 3}), "a segment: cannot be split twice"),
        (Changes(merge_to=6), "--merge-to 6: the run has 6 segments; give a number from 2 to 5"),
        (Changes(merge_to=1), "--merge-to 1"),
        (Changes(names={0: ("a", ""), 1: ("a", "")}), "'a': is the name of 2 segments"),
    ):
        with pytest.raises(InputError) as error:
            change(run, changes)
        assert part in str(error.value)
        assert "\n" not in str(error.value)
    with checkpoint.exclusive(run), pytest.raises(InputError, match="another picie process is using this run"):
        change(run, Changes(names={0: ("a", "")}))
    assert (run / "checkpoint.pt").read_bytes() == before


def test_a_checkpoint_with_names_holds_plain_values_alone(run: Path) -> None:
    change(run, Changes(k=4, merge_to=3))
    assert Segments.of(checkpoint_of(run)["naming"]["segments"]).user_defined  # loaded with weights_only


def test_a_cluster_keeps_its_number_when_others_are_merged(run: Path) -> None:
    change(run, Changes(merges=[((1, 2), "building", "")]))
    change(run, Changes(names={"4": ("sea", "")}))
    change(run, Changes(names={2: ("house", "")}))  # the segment of which cluster 2 is a part
    segments = Segmenter.load(run, "cpu").segments
    assert segments.names == ("cluster 0", "house", "cluster 3", "sea", "cluster 5")
    assert segments.clusters(segments.find("sea")) == [4]


def test_a_command_of_names_and_merges_can_be_repeated(run: Path) -> None:
    changes = Changes(names={0: ("sky", "")}, merges=[((1, 2), "building", "#102030"), ((3, "cluster 5"), "sea", "")])
    change(run, changes)
    once = Segmenter.load(run, "cpu").segments
    change(run, Changes(names={0: ("sky", "")}, merges=[((1, 2), "building", "#102030"), ((3, 5), "sea", "")]))
    assert Segmenter.load(run, "cpu").segments == once


def test_an_interrupted_change_leaves_the_run_as_it_was(
    cli: Call, run: Path, labelled_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    content = (run / "checkpoint.pt").read_bytes()
    for place in ("picie.naming.changes.sample_predicted", "picie.runtime.checkpoint.torch.save"):
        with monkeypatch.context() as patch:
            patch.setattr(place, interrupted)
            assert cli("name", run, "--k", 4) == (130, "", "picie: stopped\n")
        assert (run / "checkpoint.pt").read_bytes() == content
        assert not list(run.glob(".*"))
    assert cli("name", run, "--k", 4)[0] == 0
    assert Segmenter.load(run).k == 4
