"""Scoring a run: the counts, the protocol, and what the run remembers of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import checkpoint_of, picture, predicted_clusters, write_labelled
from tests.equal_runs import assert_equal_runs, assert_same

from picie import Config, ScoreOptions, Segmenter, evaluate
from picie.data import open_dataset
from picie.data.folder import Folder
from picie.data.images import centre_frame, centre_label, whole_size
from picie.errors import InputError
from picie.runtime.progress import Progress
from picie.runtime.run_record import read_metrics
from picie.scoring.counting import Pairs, check_labels, count_confusions
from picie.scoring.metrics import UNMATCHED
from picie.scoring.results import named_assignment, unmatched_clusters
from picie.training import api

Make = Callable[..., Config]


def by_color(pixels: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """A predictor that needs no training: the strongest channel of the nearest pixel."""
    strongest = pixels.numpy().argmax(1).astype(np.int64)
    rows, columns = ((np.arange(n) * m) // n for n, m in zip(size, strongest.shape[1:], strict=True))
    return strongest[:, rows][:, :, columns]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A labelled folder with pictures of several sizes in its val split, 20 in all."""
    root = write_labelled(tmp_path / "mixed", 2, 17)
    for seed, size in ((200, (40, 70)), (201, (90, 33)), (202, (32, 32))):
        image, label = picture(seed, size)
        Image.fromarray(image).save(root / "images" / "val" / f"{seed}.png")
        Image.fromarray(label).save(root / "labels" / "val" / f"{seed}.png")
    return root


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("scale", [1, 2])
def test_count_is_the_confusion_of_each_pixel(mixed: Path, tiny: Make, crop: bool, scale: int) -> None:
    """With `evaluate.scale`, the predictor sees larger pixels and is compared with the same labels."""
    options = (f"evaluate.crop={str(crop).lower()}", "evaluate.size=24", f"evaluate.scale={0.75 * scale}")
    data, config = Folder(mixed, "val"), tiny(*options)
    expected, labelled = np.zeros((3, 3), dtype=int), 0
    for i in range(len(data)):
        image, label = data.image(i), data.label(i)
        if crop:
            pixels, cells = centre_frame(image, (24 * scale, 24 * scale)), centre_label(label, (24, 24))
        else:
            height, width = whole_size(image.height, image.width, 24)
            seen = whole_size(image.height, image.width, 24 * scale)
            pixels = np.asarray(image.resize(seen[::-1], Image.Resampling.BILINEAR)).transpose(2, 0, 1)
            rows = [int((r + 0.5) * image.height / height) for r in range(height)]
            columns = [int((c + 0.5) * image.width / width) for c in range(width)]
            cells = label[rows][:, columns]
        clusters = by_color(torch.from_numpy(pixels[None].copy()), cells.shape)[0]
        for truth, cluster in zip(cells.ravel(), clusters.ravel(), strict=True):
            if truth != 255:
                expected[truth, cluster] += 1
                labelled += 1
    with Progress(False) as bars:
        counts = count_confusions(by_color, 3, Pairs(data, config), bars)
    confusion = counts.sum(0).reshape(3, 3)
    assert counts.shape == (20, 9)
    assert np.array_equal(confusion, expected)
    assert confusion.sum() == labelled
    assert np.trace(confusion) > 0.9 * labelled  # the pictures are told apart by their strongest channel


def test_order_and_batches_do_not_matter(mixed: Path, tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config, counts = tiny("evaluate.crop=false"), []
    for size, backwards in ((16, False), (1, False), (3, True)):
        data = Folder(mixed, "val")
        if backwards:
            data.paths.reverse()
        monkeypatch.setattr("picie.scoring.counting._BATCH", size)
        with Progress(False) as bars:
            counts.append(count_confusions(by_color, 3, Pairs(data, config), bars).toarray())
    assert np.array_equal(counts[0], counts[1])
    assert np.array_equal(counts[0], counts[2][::-1])


def test_an_image_that_cannot_be_read_is_not_counted(mixed: Path, tiny: Make, caplog: pytest.LogCaptureFixture) -> None:
    (mixed / "images" / "val" / "200.png").write_bytes(b"x")
    whole = (mixed / "images" / "val" / "201.png").read_bytes()
    (mixed / "images" / "val" / "201.png").write_bytes(whole[: len(whole) // 2])
    data = Folder(mixed, "val")
    with Progress(False) as bars:
        check_labels(data, bars)
        pairs = Pairs(data, tiny())
        for _ in range(2):  # epochs, of which the first says it
            assert count_confusions(by_color, 3, pairs, bars).shape == (18, 9)
        assert sorted(Path(text.split(":")[1].strip()).name for text in caplog.messages) == ["200.png", "201.png"]
        for image in data.paths:
            image.write_bytes(b"x")
        with pytest.raises(InputError, match="none of the split's images"):
            check_labels(data, bars)


@pytest.mark.parametrize(
    "change", [(), ("evaluate.crop=false",), ("evaluate.size=48",), ("evaluate.scale=2",), ("cluster.k=5",), ("cluster.k=2",)]
)
def test_evaluate_gives_what_training_logged(tiny: Make, tmp_path: Path, change: tuple[str, ...]) -> None:
    config = tiny("train.epochs=1", *change)
    run = api.train(config, tmp_path / "run")
    result, logged = evaluate(run), read_metrics(run)[-1]
    assert result.to_dict()["accuracy"] == logged["accuracy"]
    assert result.to_dict()["miou"] == logged["miou"]
    assert result.protocol == logged["protocol"]
    assert result.confusion.shape == (3, config.cluster.k)
    assert ("whole images" in result.protocol) == (not config.evaluate.crop)
    assert f"{config.evaluate_size} px" in result.protocol
    assert len(unmatched_clusters(result)) == max(0, config.cluster.k - 3)
    missing = [row for row in result.to_dict()["per_class"] if row["cluster"] is None]
    assert len(missing) == max(0, 3 - config.cluster.k)
    assert all(row["iou"] in (0.0, None) for row in missing)
    names = Segmenter.load(run).names
    assert names[:3] == ("red", "green", "blue")
    assert names[3:] == tuple(f"cluster {i}" for i in np.flatnonzero(named_assignment(result) == UNMATCHED))


def test_a_run_on_unlabelled_photos_gets_names_by_an_evaluation(tiny: Make, labelled_folder: Path, tmp_path: Path) -> None:
    run = api.train(tiny(f"data.root={labelled_folder / 'images'}", "train.epochs=0"), tmp_path / "run")
    with pytest.raises(InputError, match="split 'val' has no labels; scores need"):
        evaluate(run)
    before, content = checkpoint_of(run), (run / "checkpoint.pt").read_bytes()
    result = evaluate(run, labelled_folder)
    assert (run / "checkpoint.pt").read_bytes() == content
    assert Segmenter.load(run).names[0] == "cluster 0"

    evaluate(str(run), str(labelled_folder), split="train", name_clusters=True)
    assert Segmenter.load(run).names[:3] == ("red", "green", "blue")
    evaluate(run, labelled_folder, name_clusters=True)
    assert checkpoint_of(run)["matching"]["assignment"] == named_assignment(result).tolist()
    without = [{k: v for k, v in state.items() if k != "matching"} for state in (before, checkpoint_of(run))]
    assert_same(without[0], without[1], "checkpoint")


def test_another_split_and_another_folder_are_scored(own_run: Path, mixed: Path) -> None:
    assert evaluate(own_run, split="train").n_images == 6
    assert evaluate(own_run, split="train").protocol.startswith("train; ")
    assert evaluate(own_run, mixed).n_images == 20


def test_evaluating_does_not_disturb_a_resume(own_run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(own_run, tmp_path / "other"))
    evaluate(own_run, split="train", name_clusters=True)
    for run in (own_run, other):
        api.resume(run, ["train.epochs=3"])
    assert_equal_runs(own_run, other)


def test_overrides_change_how_a_run_is_scored_but_not_the_run(own_run: Path) -> None:
    config = checkpoint_of(own_run)["config"]
    assert evaluate(own_run).protocol == (
        "val; centre square of 32 px; K = 3, 3 classes; one-to-one Hungarian on pixels over the split; "
        "mIoU over classes present"
    )
    overrides = ["evaluate.size=24", "evaluate.crop=false", "evaluate.split=train", "evaluate.matching=one-to-one-iou"]
    result = evaluate(own_run, name_clusters=True, options=ScoreOptions(overrides=overrides))
    assert result.protocol == (
        "train; whole images, short side 24 px, predicted at 32 px; K = 3, 3 classes; "
        "one-to-one Hungarian on IoU over the split; mIoU over classes present"
    )
    assert (result.matching, result.n_images) == ("one-to-one-iou", 6)
    assert result.confusion.sum() == 6 * 32 * (24 - 2)  # whole pictures of 64 x 48, but for two unlabelled borders
    assert checkpoint_of(own_run)["config"] == config
    assert checkpoint_of(own_run)["matching"]["protocol"] == result.protocol


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cluster.k=5", "'cluster.k' cannot be changed when scoring"),
        ("evaluate.every=2", "'evaluate.every' cannot be changed when scoring"),
        ("evaluate.sise=24", "did you mean 'evaluate.size'"),
        ("evaluate.matching=identity", "evaluate.matching = 'identity'"),
        ("evaluate.size=0", "evaluate.size = 0"),
    ],
)
def test_other_overrides_are_refused(own_run: Path, override: str, message: str) -> None:
    content = (own_run / "checkpoint.pt").read_bytes()
    with pytest.raises(InputError, match=message):
        evaluate(own_run, name_clusters=True, options=ScoreOptions(overrides=[override]))
    assert (own_run / "checkpoint.pt").read_bytes() == content


def test_many_clusters_of_one_class_share_its_name_and_value(tiny: Make, tmp_path: Path, labelled_folder: Path) -> None:
    run = api.train(tiny("train.epochs=0", "cluster.k=9", "evaluate.matching=many-to-one"), tmp_path / "run")
    state, logged = checkpoint_of(run)["matching"], read_metrics(run)[-1]
    assert "many-to-one by majority of pixels" in logged["protocol"]
    assigned = np.array(state["assignment"])
    assert len(set(assigned[assigned != UNMATCHED].tolist())) < (assigned != UNMATCHED).sum()  # some class has several
    result = evaluate(run)
    assert result.to_dict()["accuracy"] == logged["accuracy"]
    assert result.assignment.tolist() == state["assignment"]
    segmenter = Segmenter.load(run)
    assert segmenter.names == ("red", "green", "blue", *(f"cluster {i}" for i in unmatched_clusters(result)))
    image = Folder(labelled_folder, "val").image(0)
    clusters, values = predicted_clusters(segmenter, image), segmenter.predict(image)
    matched = assigned[clusters] != UNMATCHED
    assert np.array_equal(values[matched], assigned[clusters][matched])
    one_to_one = evaluate(run, options=ScoreOptions(overrides=["evaluate.matching=one-to-one"]))
    assert len(unmatched_clusters(one_to_one)) == 6
    assert result.scores.accuracy >= one_to_one.scores.accuracy
    found = result.to_dict()["matchings"]
    assert found == one_to_one.to_dict()["matchings"]
    assert found["many-to-one"]["accuracy"] == result.to_dict()["accuracy"]
    assert found["one-to-one"]["miou"] == one_to_one.to_dict()["miou"]


def test_scores_while_training_take_no_resamples(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("picie.scoring.results.bootstrap", lambda *_: pytest.fail("resampled"))
    run = api.train(tiny("train.epochs=1"), tmp_path / "run")
    assert evaluate(run, bootstrap=0).intervals is None
    with pytest.raises(pytest.fail.Exception, match="resampled"):
        evaluate(run)


@pytest.mark.parametrize("keep", [0, 2**28, 3 * 32 * 32 + 32 * 32])
def test_pairs_are_decoded_once_while_they_fit(
    tiny: Make, labelled_folder: Path, keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, dataset = tiny(), open_dataset(tiny().data, "val")
    opened, plain = [], dataset.image
    monkeypatch.setattr(dataset, "image", lambda index: opened.append(index) or plain(index))
    pairs = Pairs(dataset, config, keep)
    first = [pairs.load(i) for i in (0, 1)]
    for i in (0, 1):
        for ours, theirs in zip(pairs.load(i), first[i], strict=True):
            assert np.array_equal(ours, theirs)
    assert opened == {0: [0, 1, 0, 1], 2**28: [0, 1]}.get(keep, [0, 1, 1])
