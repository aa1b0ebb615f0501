"""Scoring anybody's label maps: pairing, values, sizes, and scores that are scikit-learn's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score
from tests.conftest import NAMES
from tests.conversion.predicted import write_predictions

from picie import FolderOptions, score_folders
from picie.data.base import ClassMap
from picie.data.labels import LABELS
from picie.errors import InputError
from picie.inference.predict import predict_files
from picie.scoring.folders import LabelValues, label_values, pair_files

Call = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]
CLASSES = f"names = {json.dumps(NAMES)}\ncolors = ['#dc2828', '#28b43c', '#3c50dc']\ngroups = ['thing', 'thing', 'stuff']\n"


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


@pytest.fixture
def truth() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, 3, (11 + i, 17)).astype(np.uint8) for i in range(5)]
    for label in labels:
        label[:2] = 255
    return labels


@pytest.fixture
def folders(tmp_path: Path, truth: list[np.ndarray]) -> tuple[Path, Path, Path]:
    """Predictions, labels and a classes.toml: five pictures in two folders, most pixels right after (class + 1) % 3."""
    rng = np.random.default_rng(1)
    for i, label in enumerate(truth):
        name = f"{'ab'[i % 2]}/{i}.v1.png"
        save(tmp_path / "labels" / name, label)
        shifted = np.where(label == 255, 4, (label.astype(int) + 1) % 3)
        noisy = np.where(rng.random(label.shape) < 0.3, rng.integers(0, 5, label.shape), shifted)
        save(tmp_path / "predicted" / name, noisy.astype(np.uint8))
    (tmp_path / "classes.toml").write_text(CLASSES, "utf-8")
    return tmp_path / "predicted", tmp_path / "labels", tmp_path / "classes.toml"


def flat(folder: Path) -> np.ndarray:
    return np.concatenate([np.asarray(Image.open(path)).ravel() for path in sorted(folder.rglob("*.png"))]).astype(int)


def test_scores_are_scikit_learns(folders: tuple[Path, Path, Path]) -> None:
    predicted, truth = flat(folders[0]), flat(folders[1])
    kept = truth != 255
    predicted, truth = predicted[kept], truth[kept]
    result = score_folders(*folders)
    assert result.assignment.tolist() == [2, 0, 1, -1, -1]
    named = result.assignment[predicted]
    assert result.scores.accuracy == pytest.approx(accuracy_score(truth, named))
    np.testing.assert_allclose(result.scores.iou, jaccard_score(truth, named, labels=range(3), average=None))
    identity = score_folders(*folders, "identity", bootstrap=0)
    assert identity.scores.accuracy == pytest.approx(accuracy_score(truth, predicted))
    np.testing.assert_allclose(identity.scores.iou, jaccard_score(truth, predicted, labels=range(3), average=None))
    assert (result.n_images, identity.n_images) == (5, 5)
    assert identity.protocol == "whole label maps; 3 classes; values taken as classes; mIoU over classes present"
    assert identity.intervals is None
    assert result.intervals is not None
    assert result.intervals.accuracy.low < result.scores.accuracy < result.intervals.accuracy.high


def test_values_above_one_byte_are_clusters_like_others(folders: tuple[Path, Path, Path]) -> None:
    before = score_folders(*folders, bootstrap=0)
    for path in folders[0].rglob("*.png"):
        save(path, np.asarray(Image.open(path)).astype(np.uint16) + 700)
    after = score_folders(*folders, bootstrap=0)
    assert after.assignment[700:].tolist() == before.assignment.tolist()
    assert after.to_dict()["matchings"] == before.to_dict()["matchings"]


@pytest.mark.parametrize("value", [0, 2, 4, 9])
def test_what_is_not_predicted_is_an_error_and_never_matched(folders: tuple[Path, Path, Path], value: int) -> None:
    predicted, truth = flat(folders[0]), flat(folders[1])
    for matching in ("one-to-one", "one-to-one-iou", "many-to-one", "identity"):
        result = score_folders(*folders, matching, bootstrap=0, options=FolderOptions(unpredicted=value))
        k = max(predicted[predicted != value]) + 1
        assert (result.confusion.shape, result.void) == ((3, k + 1), k)
        assert result.assignment[-1] == -1
        for c in range(3):
            for j in range(k):
                expected = 0 if j == value else ((truth == c) & (predicted == j)).sum()
                assert result.confusion[c, j] == expected
            assert result.confusion[c, k] == ((truth == c) & (predicted == value)).sum()
        assert result.confusion.sum() == (truth != 255).sum()
        assert result.protocol.startswith(f"whole label maps, value {value} predicts nothing; ")


def test_files_pair_by_path_without_the_endings(tmp_path: Path, truth: list[np.ndarray]) -> None:
    city = "aachen/aachen_000"
    label = save(tmp_path / "gt" / f"{city}_gtFine_labelIds.png", truth[0])
    save(tmp_path / "gt" / f"{city}_gtFine_color.png", np.zeros((3, 3, 3), np.uint8))
    prediction = save(tmp_path / "out" / f"{city}_leftImg8bit.PNG", truth[0])
    save(tmp_path / "out" / f"{city}.png", truth[0])
    assert pair_files(tmp_path / "out", tmp_path / "gt", "_leftImg8bit", "_gtFine_labelIds") == [(prediction, label)]
    save(tmp_path / "out" / f"{city}_leftImg8bit.png", truth[0])
    with pytest.raises(InputError, match="differ only in the case of their ending"):
        pair_files(tmp_path / "out", tmp_path / "gt", "_leftImg8bit", "_gtFine_labelIds")


def test_a_run_s_own_predictions_can_be_scored(
    cli: Call, trained: Path, labelled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("predict", trained, labelled_folder / "images" / "val", "--out", tmp_path / "out")[0] == 0
    file = tmp_path / "scores.json"
    arguments = (tmp_path / "out", labelled_folder / "labels" / "val", "--classes", labelled_folder / "classes.toml")
    status, stdout, stderr = cli("score", *arguments, "--matching", "identity", "--json", file, "--bootstrap", 50)
    assert status == 0, stderr
    assert stderr == ""
    told = json.loads(file.read_text("utf-8"))
    truth = flat(labelled_folder / "labels" / "val")
    predicted = np.concatenate([np.asarray(Image.open(tmp_path / "out" / f"{i}.png")).ravel() for i in (100, 101)])
    assert told["accuracy"] == pytest.approx(100 * accuracy_score(truth[truth != 255], predicted[truth != 255]), abs=1e-3)
    assert told["intervals"]["resamples"] == 50
    for text in (
        *NAMES,
        "matched one-to-one",
        f"mIoU {told['miou']:.1f}",
        "protocol: whole label maps; 3 classes; values taken as classes",
    ):
        assert text in stdout


def test_the_other_pictures_of_a_prediction_are_no_label_maps(trained: Path, labelled_folder: Path, tmp_path: Path) -> None:
    out, labels = tmp_path / "out", labelled_folder / "labels" / "val"
    predict_files(trained, [labelled_folder / "images" / "val"], out)
    Image.open(out / "100_overlay.jpg").save(out / "100_overlay.png")  # as the overlay of a strip
    assert len(pair_files(out, labels)) == 2
    assert [label.name for _, label in pair_files(out, out)] == ["100.png", "101.png"]  # a run against another, or itself
    (out / "predictions.json").unlink()
    assert len(pair_files(out, out)) == 4  # nothing says that predict wrote them


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A label set "trains", whose labels hold raw values: 7 is red, 11 is blue, all else is ignored."""
    lookup = np.full(256, 255, dtype=np.uint8)
    lookup[[7, 11]] = 0, 2
    monkeypatch.setitem(LABELS, "trains", lambda: (ClassMap(NAMES, ("#dc2828", "#28b43c", "#3c50dc")), lookup))


@pytest.mark.usefixtures("named")
def test_raw_label_values_are_looked_up_by_the_name_of_their_label_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trains").mkdir()  # a folder of that name in the working directory is no classes.toml
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "gt" / "a.png", np.array([[7, 7, 11, 0], [11, 11, 33, 7]], np.uint8))
    save(tmp_path / "out" / "a.png", np.array([[5, 5, 0, 0], [0, 5, 5, 5]], np.uint8))
    result = score_folders("out", "gt", "trains")
    assert result.confusion[:, [0, 5]].tolist() == [[0, 3], [0, 0], [2, 1]]
    assert result.confusion.sum() == 6
    assert result.scores.accuracy == 5 / 6
    save(tmp_path / "gt" / "a.png", np.full((2, 4), 300, np.uint16))
    with pytest.raises(InputError, match=r"a\.png: label value 300 is not in 0\.\.255"):
        score_folders("out", "gt", "trains")


def test_classes_can_be_given_as_they_are(folders: tuple[Path, Path, Path]) -> None:
    values = LabelValues(label_values(folders[2]).classes, np.array([2, 1, 0, *[255] * 253], np.uint8))
    swapped = score_folders(folders[0], folders[1], values, bootstrap=0)
    assert np.array_equal(swapped.confusion, score_folders(*folders, bootstrap=0).confusion[::-1])


def break_folders(kind: str, folders: tuple[Path, Path, Path]) -> None:
    predicted, labels, _ = folders
    file = predicted / "a" / "0.v1.png"
    if kind == "missing":
        file.unlink()
    elif kind == "size":
        save(file, np.zeros((4, 17), np.uint8))
    elif kind == "colour":
        save(file, np.full((11, 17, 3), (9, 8, 7), np.uint8))
    elif kind == "broken":
        file.write_bytes(b"x")
    elif kind == "label value":
        save(labels / "a" / "0.v1.png", np.full((11, 17), 7, np.uint8))
    elif kind == "label colour":
        save(labels / "a" / "0.v1.png", np.full((11, 17, 3), (9, 8, 7), np.uint8))
    elif kind == "ignored":
        for path in labels.rglob("*.png"):
            save(path, np.full(np.asarray(Image.open(path)).shape, 255, np.uint8))


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        (
            "missing",
            ["1 of 5 labels have no prediction; the first is", "labels/a/0.v1.png", "predicted/a/0.v1.png", "--label-suffix"],
        ),
        ("size", ["predicted/a/0.v1.png is 17x4 but", "labels/a/0.v1.png is 17x11", "must have the size of their labels"]),
        ("colour", ["predicted/a/0.v1.png: contains colours (mode RGB), not class indices"]),
        ("broken", ["predicted/a/0.v1.png: cannot be read as a label map"]),
        ("label value", ["labels/a/0.v1.png: label value 7 is not a class (0..2)"]),
        ("label colour", ["labels/a/0.v1.png: colour #090807 is not in colors"]),
        ("ignored", ["labels: every pixel is ignored (255)"]),
    ],
)
def test_folders_that_do_not_fit_are_one_line(
    refused: Refused, folders: tuple[Path, Path, Path], tmp_path: Path, kind: str, parts: list[str]
) -> None:
    break_folders(kind, folders)
    message = refused("score", folders[0], folders[1], "--classes", folders[2], "--json", tmp_path / "scores.json")
    for part in parts:
        assert part in message
    assert not (tmp_path / "scores.json").exists()


def test_options_that_do_not_fit_are_one_line(refused: Refused, folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    predicted, labels, classes = folders
    ok = (predicted, labels, "--classes", classes)
    assert "unknown matching 'one-to-on'; did you mean 'one-to-one'?" in refused("score", *ok, "--matching", "one-to-on")
    assert "nowhere: no such folder" in refused("score", tmp_path / "nowhere", labels, "--classes", classes)
    assert f"{classes}: no such folder" in refused("score", predicted, classes, "--classes", classes)
    assert "none.toml: cannot be read" in refused("score", predicted, labels, "--classes", tmp_path / "none.toml")
    message = refused("score", *ok, "--label-suffix", "_labelIds")
    assert f"{labels}: contains no PNG whose name ends in _labelIds.png; is --label-suffix right?" in message
    assert "--prediction-suffix right?" in refused("score", *ok, "--prediction-suffix", "_x")
    assert "5 of 5 labels have no prediction" in refused("score", *ok, "--label-suffix", ".v1")
    (tmp_path / "empty").mkdir()
    assert "empty: contains no PNG; give" in refused("score", predicted, tmp_path / "empty", "--classes", classes)
    assert "--classes" in refused("score", predicted, labels)
    assert "--json" in refused("score", *ok, "--json", tmp_path)
    assert "--bootstrap" in refused("score", *ok, "--bootstrap", -1)


def test_of_a_folder_of_predictions_the_recorded_label_maps_are_scored(tmp_path: Path) -> None:
    maps = {
        f"{name}.jpg": labels
        for name, labels in zip("ab", (np.eye(6, dtype=np.uint8), np.zeros((3, 4), np.uint8)), strict=True)
    }
    folder = write_predictions(tmp_path, maps, ("red", "green", "blue"))
    for photo, labels in maps.items():
        save(tmp_path / "labels" / Path(photo).with_suffix(".png"), labels)
    save(folder / "formats" / "voc" / "SegmentationClass" / "a.png", np.ones((2, 2), np.uint8))
    save(folder / "c.png", np.ones((2, 2), np.uint8))
    (tmp_path / "classes.toml").write_text(CLASSES, "utf-8")
    pairs = pair_files(folder, tmp_path / "labels")
    assert [prediction for prediction, _ in pairs] == [folder / "a.png", folder / "b.png"]
    result = score_folders(folder, tmp_path / "labels", tmp_path / "classes.toml", "identity", bootstrap=0)
    assert result.scores.accuracy == 1
    record = json.loads((folder / "predictions.json").read_text("utf-8"))
    for entry in record["images"].values():
        entry["size"] = 0
    (folder / "predictions.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="was predicted before the run's segments changed"):
        pair_files(folder, tmp_path / "labels")
