"""Teaching a run classes by clicks: what it predicts then, how it is scored, and what undoes it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import NAMES, checkpoint_of, picture

from picie import Config, ScoreOptions, Segmenter, evaluate
from picie.data.images import open_image
from picie.errors import InputError
from picie.inference import few_labels
from picie.inference.clicks import Click, read_clicks
from picie.inference.few_labels import CELLS, IMAGES
from picie.inference.neighbors import feature_at
from picie.inference.sampling import sample_predicted, training_images
from picie.naming import teaching
from picie.naming.changes import Changes, change
from picie.naming.history import undo as undo_one_step
from picie.naming.teaching import TeachOptions, taught, teach, teach_features, undo
from picie.runtime import checkpoint
from picie.runtime.progress import Progress
from picie.training import api

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def untrained(tiny: Callable[..., Config], labelled_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three clusters whose features distinguish the three colours."""
    return api.train(tiny("train.epochs=0", "seed=2"), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run(untrained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(untrained, tmp_path / "run"))


@pytest.fixture(scope="module")
def clicks(labelled_folder: Path) -> list[Click]:
    """Four clicks of each class, in the pictures 0 to 3."""
    found = []
    for seed in range(4):
        _, label = picture(seed)
        inner = label[4:-4, 4:-4]
        for value, name in enumerate(NAMES):
            rows, columns = np.nonzero(inner == value)
            middle = len(rows) // 2
            x, y = int(columns[middle]) + 4, int(rows[middle]) + 4
            found.append(Click(labelled_folder / "images" / "train" / f"{seed:03d}.jpg", x, y, name))
    return found


@pytest.fixture(scope="module")
def taught_run(untrained: Path, clicks: list[Click], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `untrained` that was taught by `clicks`. Read it; to change it, copy it."""
    folder = Path(shutil.copytree(untrained, tmp_path_factory.mktemp("taught") / "run"))
    teach(folder, clicks)
    return folder


def test_a_taught_run_predicts_the_classes_and_is_scored_by_their_names(
    run: Path, clicks: list[Click], labelled_folder: Path
) -> None:
    before = evaluate(run, bootstrap=0)
    result = teach(run, clicks)
    assert result.clicks == {"red": 4, "green": 4, "blue": 4}
    segmenter = Segmenter.load(run, "cpu")
    assert segmenter.names == result.names == NAMES
    assert np.mean([now == click.name for now, click in zip(result.predicted, clicks, strict=True)]) > 0.7
    scores = evaluate(run, bootstrap=0)
    assert scores.matching == "name"
    assert "; 3 classes; taught by 4 clicks a class, matched by name;" in scores.protocol
    assert scores.scores.accuracy > max(0.6, before.scores.accuracy - 0.05)
    labels = segmenter.predict(labelled_folder / "images" / "val" / "100.jpg")
    assert (labels == picture(100)[1]).mean() > 0.6  # the classes come in the order of the labels here
    # no cluster is matched to what it shows: names that are exchanged are errors
    change(run, Changes(names={"red": ("blue", ""), "blue": ("red", "")}))
    assert evaluate(run, bootstrap=0).scores.accuracy < scores.scores.accuracy - 0.2
    assert "taught" not in evaluate(run, bootstrap=0, options=ScoreOptions(overrides=["evaluate.matching=one-to-one"])).protocol


def test_undo_returns_to_the_clusters_and_their_names(run: Path, clicks: list[Click]) -> None:
    change(run, Changes(names={1: ("sea", "#0000ff")}))
    names, before = Segmenter.load(run, "cpu").names, checkpoint_of(run)
    teach(run, clicks)
    after = checkpoint_of(run)
    assert torch.equal(after["classifier"]["weight"], before["classifier"]["weight"])
    teach(run, [*clicks, Click(clicks[0].image, 1, 1, "roof")])
    assert taught(run) == {"red": 4, "green": 4, "blue": 4, "roof": 1}
    undo_one_step(run)
    assert taught(run) == {"red": 4, "green": 4, "blue": 4}
    change(run, Changes(names={"red": ("rose", "")}))
    assert taught(run) is not None
    undo(run)
    assert checkpoint_of(run)["naming"] == before["naming"]
    assert Segmenter.load(run, "cpu").names == names
    with pytest.raises(InputError, match="was not taught"):
        undo(run)


def test_new_clusters_and_a_reset_end_the_teaching(run: Path, clicks: list[Click]) -> None:
    teach(run, clicks)
    change(run, Changes(merges=[(("red", "green"), "warm", "")]))
    assert taught(run) is not None
    change(run, Changes(k=4))
    assert taught(run) is None
    teach(run, clicks)
    change(run, Changes(reset=True))
    assert taught(run) is None
    assert Segmenter.load(run, "cpu").k == 3


def test_the_probabilities_of_a_taught_run_are_those_of_its_classifier(taught_run: Path, clicks: list[Click]) -> None:
    segmenter = Segmenter.load(taught_run, "cpu")
    photo = clicks[0].image
    weight, offset = (part / segmenter.config.loss.temperature for part in segmenter.classifier)
    logits = torch.einsum("kd,dhw->khw", weight, torch.from_numpy(segmenter.features(photo))) + offset[:, None, None]
    mean = torch.from_numpy(segmenter.probabilities(photo)).mean((1, 2))
    assert torch.allclose(logits.softmax(0).mean((1, 2)), mean, atol=0.05)


def test_features_of_the_clicked_pixels_teach_the_same_as_clicks(
    run: Path, taught_run: Path, clicks: list[Click], tmp_path: Path
) -> None:
    segmenter = Segmenter.load(run, "cpu")
    with Progress(False) as bars:
        cells = sample_predicted(segmenter, training_images(segmenter.config.data), bars, IMAGES, CELLS).points
    points = torch.stack([feature_at(segmenter, open_image(c.image), c.x, c.y) for c in clicks])
    assert teach_features(run, points, [c.name for c in clicks], cells).clicks == taught(taught_run)
    expected, found = (checkpoint_of(folder)["naming"]["clusters"]["weight"] for folder in (taught_run, run))
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    with pytest.raises(InputError, match="at least two kinds"):
        teach_features(run, points, ["a"] * len(points), cells)


def test_label_maps_teach_without_clicks(run: Path, labelled_folder: Path) -> None:
    result = teach(run, [], TeachOptions(labels=labelled_folder, split="val"))
    assert result.names == NAMES
    assert min(result.clicks.values()) > 20
    assert evaluate(run, split="train", bootstrap=0).scores.accuracy > 0.6


def test_the_cells_kept_of_clicked_pictures_do_not_grow_with_their_number(
    run: Path, clicks: list[Click], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(few_labels, "CELLS", 12)
    with Progress(False) as bars:
        assert [len(teaching._of_clicks(Segmenter.load(run, "cpu"), part, bars)[1]) for part in (clicks[:1], clicks)] == [
            12,
            12,
        ]


def test_the_pictures_with_clicks_serve_if_the_training_images_are_gone(
    own_folder: Path, tiny: Callable[..., Config], tmp_path: Path, told: list[str]
) -> None:
    run = api.train(tiny("train.epochs=0", f"data.root={json.dumps(str(own_folder))}"), tmp_path / "moved_run")
    kept = shutil.copy(own_folder / "images" / "train" / "000.jpg", tmp_path / "kept.jpg")
    shutil.rmtree(own_folder)
    teach(run, [Click(Path(kept), 3, 3, "a"), Click(Path(kept), 40, 40, "b")])
    assert Segmenter.load(run, "cpu").names == ("a", "b")
    assert any("only the pictures with clicks are used" in line for line in told)


def write_clicks(folder: Path, clicks: list[Click]) -> Path:
    """Write clicks.json in `folder`, with paths relative to it."""
    content: dict[str, list[list[int | str]]] = {}
    for click in clicks:
        content.setdefault(os.path.relpath(click.image, folder), []).append([click.x, click.y, click.name])
    file = folder / "clicks.json"
    file.write_text(json.dumps(content))
    return file


def test_the_paths_in_a_file_of_clicks_are_relative_to_it(clicks: list[Click], tmp_path: Path) -> None:
    again = read_clicks(write_clicks(tmp_path, clicks))
    assert [(c.image.resolve(), c.x, c.y, c.name) for c in again] == [(c.image.resolve(), c.x, c.y, c.name) for c in clicks]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a.png": [[0, 0, "sky"], [64, 5, "road"]]}', r"'road': pixel \(64, 5\) lies outside the picture, which has 64 x 48"),
        ('{"a.png": [[0, 0, "sky"], [0, -1, "road"]]}', r"lies outside the picture"),
        ('{"b.png": [[0, 0, "sky"]]}', "'b.png': no such picture"),
        ('{"a.png": [[0, 0, "sky"], [1, 1, " sky "]]}', "all clicks are named 'sky'"),
        ('{"a.png": [[0, 0, "sky"], [0, 0, "road"]]}', "is named 'sky' and 'road'"),
        ('{"a.png": [[0.5, 0, "sky"]]}', "is not a click"),
        ('{"a.png": [[true, 0, "sky"]]}', "is not a click"),
        ('{"a.png": [[0, 0, "12"]]}', "not a valid name"),
        ('{"a.png": {}}', "is not a list of clicks"),
        ("{}", "holds no clicks"),
        ("[]", "is not a file of clicks"),
        ('{"a.png": ', "is not a JSON file"),
        ("[" * 100_000, "is not a JSON file"),
    ],
)
def test_wrong_clicks_are_refused_in_one_line(
    content: str, message: str, run: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    Image.fromarray(picture(0)[0]).save(tmp_path / "a.png")
    (tmp_path / "clicks.json").write_text(content)
    before = (run / checkpoint.FILE_NAME).read_bytes()
    assert re.search(message, refused("teach", run, tmp_path / "clicks.json"))
    assert (run / checkpoint.FILE_NAME).read_bytes() == before


def test_the_command_teaches_shows_and_undoes(run: Path, clicks: list[Click], tmp_path: Path, cli: Call) -> None:
    status, out, _ = cli("teach", run, write_clicks(tmp_path, clicks))
    assert status == 0
    assert "3 classes from 12 clicks: red 4, green 4, blue 4" in out
    status, out, _ = cli("name", run)
    assert status == 0
    assert "taught by 4 clicks a class" in out
    status, out, _ = cli("teach", run, "--undo")
    assert status == 0
    assert "taught" not in cli("name", run)[1]


def test_taught_names_that_no_label_has_are_refused_and_some_are_reported(
    run: Path, clicks: list[Click], told: list[str]
) -> None:
    teach(run, [Click(c.image, c.x, c.y, " Red " if c.name == "red" else c.name) for c in clicks])
    assert evaluate(run, bootstrap=0).scores.accuracy > 0.6
    change(run, Changes(names={"blue": ("sea", "")}))
    assert evaluate(run, bootstrap=0).scores.iou[2] == 0
    assert any("not a class of the labels" in line and line.endswith("sea") for line in told)
    change(run, Changes(names={"Red": ("a", ""), "green": ("b", "")}))
    with pytest.raises(InputError, match="none of the taught classes"):
        evaluate(run, bootstrap=0)
