"""The probes against scikit-learn, the finer clustering, and what happens where labels are missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn import functional as F

from picie import Config, ScoreOptions, Segmenter, evaluate
from picie.models.backbones import Backbone
from picie.scoring import probes
from picie.scoring.probes import evaluate_probes, logistic_regression, neighbour_probe, neighbour_votes
from picie.training import api

Call = Callable[..., tuple[int, str, str]]
FINER, LINEAR, NEIGHBOURS = (
    "clustered again at K = 9",
    "linear probe (labels of train)",
    "20-NN probe (labels of train)",
)


class Colors(Backbone):
    """Each pixel's own colour: the classes of the tiny pictures can be read off it."""

    channels, strides, mean, std = (3,), (1,), (0.5,) * 3, (0.25,) * 3

    def __init__(self, name: str, pretrained: bool, weights: str | None) -> None:
        super().__init__()

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images]


@pytest.fixture(scope="module")
def easy(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose features are colours, scored at the pictures' own size."""
    config = tiny(f"model.backbone={__name__}:Colors", "train.epochs=0", "views.size=48", "cluster.k=2", "train.precision=fp32")
    return api.train(config, tmp_path_factory.mktemp("easy") / "run")


def blobs(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(n, 6) unit-norm points about four overlapping centres, (n,) which, and one constant feature."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    points = rng.normal(size=(4, 6))[labels] + 1.5 * np.random.default_rng(seed + 1).normal(size=(n, 6))
    points[:, 5] = 1.0
    return F.normalize(torch.from_numpy(points).float(), dim=1), torch.from_numpy(labels)


@pytest.mark.parametrize("penalty", [1e-4, 0.3])  # as it is, and one that is felt
def test_the_linear_probe_is_scikit_learns_logistic_regression(penalty: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_PENALTY", penalty)
    points, labels = blobs(3000)
    x = (points - points.mean(0)) / points.std(0, correction=0)
    reference = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-8, max_iter=2000).fit(x.numpy(), labels.numpy())
    weight, offset = logistic_regression(points, labels, 4)
    logits = points @ weight.T + offset
    expected = torch.from_numpy(reference.decision_function(x.numpy())).float()
    assert float((logits.argmax(1) == expected.argmax(1)).float().mean()) > 0.99
    losses = [float(F.cross_entropy(z, labels)) for z in (logits, expected)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    assert 0.3 < losses[0] < 1.3  # neither trivial nor chance, ln 4


def test_the_linear_probe_takes_classes_that_do_not_occur_and_features_that_say_nothing() -> None:
    points, labels = blobs(200)
    points[:, 2] = 0.25
    weight, offset = logistic_regression(points, 2 * labels, 8)
    logits = points @ weight.T + offset
    assert weight.shape == (8, 6)
    assert torch.isfinite(logits).all()
    assert not (logits.argmax(1) % 2).any()


@pytest.mark.parametrize("size", [500, 12])
def test_the_neighbour_probe_is_scikit_learns(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_SIMILARITIES", 700)  # several chunks
    (bank, classes), (points, _) = blobs(size), blobs(90, seed=5)
    reference = KNeighborsClassifier(
        min(20, size), metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
    ).fit(bank.double().numpy(), classes.numpy())
    votes = neighbour_votes(points, bank, classes, 5)
    np.testing.assert_allclose(votes[:, :4].numpy(), reference.predict_proba(points.double().numpy()), atol=1e-4)
    assert not votes[:, 4].any()


def test_neighbours_votes_are_enlarged_and_the_bank_is_bounded(easy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = Segmenter.load(easy, "cpu")
    pixels = torch.randint(0, 256, (2, 3, 6, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    points = segmenter.encode(pixels).permute(0, 2, 3, 1).flatten(0, 2).clone()
    labels = torch.arange(len(points)) % 3
    monkeypatch.setattr(probes, "_NEIGHBOURS", 1)
    assert np.array_equal(neighbour_probe(segmenter, points, labels, 3)(pixels, (6, 9)).ravel(), labels.numpy())
    votes = F.one_hot(labels, 3).float().view(2, 6, 9, 3).permute(0, 3, 1, 2)
    expected = F.interpolate(votes, (18, 27), mode="bilinear", align_corners=False)
    larger = neighbour_probe(segmenter, points, labels, 3)(pixels, (18, 27))
    assert (expected.gather(1, torch.from_numpy(larger)[:, None])[:, 0] - expected.amax(1)).abs().max() < 1e-5
    banks = []
    monkeypatch.setattr(probes, "_BANK", 30)
    monkeypatch.setattr(
        probes, "neighbour_votes", lambda z, bank, classes, n: banks.append((bank, classes)) or torch.ones(len(z), n)
    )
    neighbour_probe(segmenter, points, labels, 3)(pixels, (6, 9))
    ((bank, classes),) = banks
    assert bank.shape == (30, points.shape[1])
    where = [int((points - row).abs().sum(1).argmin()) for row in bank]
    assert len(set(where)) == 30
    assert torch.equal(labels[where], classes)


def test_what_the_features_hold_is_found(easy: Path) -> None:
    rows = evaluate_probes(easy, options=ScoreOptions(device="cpu", progress=False))
    assert list(rows) == [FINER, LINEAR, NEIGHBOURS]
    assert rows[LINEAR].scores.accuracy > 0.99
    assert rows[NEIGHBOURS].scores.accuracy > 0.99
    assert rows[FINER].confusion.shape == (3, 9)
    assert rows[FINER].scores.accuracy > 0.97
    assert evaluate(easy, options=ScoreOptions(progress=False)).scores.accuracy < 0.9  # two clusters for three classes


def test_twice_gives_the_same(trained: Path) -> None:
    first, second = (evaluate_probes(trained, options=ScoreOptions(device="cpu", progress=False)) for _ in range(2))
    assert len(first) == 3
    for name, row in first.items():
        assert np.array_equal(row.confusion, second[name].confusion)


def test_the_command_shows_and_writes_them(cli: Call, trained: Path, tmp_path: Path) -> None:
    status, stdout, stderr = cli("evaluate", trained, "--probes", "--json", tmp_path / "s.json")
    assert status == 0, stderr
    rows = json.loads((tmp_path / "s.json").read_text("utf-8"))["probes"]
    assert [(name, row["protocol"].split("; ")[3]) for name, row in rows.items()] == [
        (FINER, "many-to-one by majority of pixels over the split"),
        (LINEAR, "values taken as classes"),
        (NEIGHBOURS, "values taken as classes"),
    ]
    for text in (FINER, "labels of train", "many-to-one", "identity", "one-to-one"):
        assert text in stdout


def test_without_usable_train_labels_only_the_clustering_is_left(cli: Call, own_folder: Path, trained: Path) -> None:
    options = ("evaluate", trained, "--data", own_folder, "--probes")
    missing = own_folder / "labels" / "train" / "003.png"
    missing.unlink()
    status, stdout, stderr = cli(*options)
    assert status == 0
    assert "warning: skipped: linear and k-NN probe: " in stderr
    assert str(missing) in stderr
    assert stderr.count("\n") == 1
    shutil.rmtree(own_folder / "labels" / "train")
    status, stdout, stderr = cli(*options)
    assert status == 0
    assert "split 'train' has no labels" in stderr
    assert FINER in stdout
    assert "labels of train" not in stdout


def test_a_score_on_the_very_labels_that_were_learnt_is_remarked_on(cli: Call, trained: Path) -> None:
    assert "trained on 6 of the 6 images that they are scored on" in cli("evaluate", trained, "--probes", "--split", "train")[2]
    assert "that they are scored on" not in cli("evaluate", trained, "--probes")[2]
