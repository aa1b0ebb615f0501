"""The classifier from a few labelled cells: what it must get right, and that the other cells help."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from picie.inference import few_labels
from picie.inference.few_labels import FewLabels, class_shares, random_cells, softmax_regression


def mixture(seed: int, sizes: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Cells of classes that differ in 4 of 16 directions and scatter widely in the others; their classes; the means."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.zeros(len(sizes), 16)
    means[:, :4] = torch.randn(len(sizes), 4, generator=generator)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    scatter = torch.tensor([0.25] * 4 + [1.5] * 12)
    return means[labels] + scatter * torch.randn(len(labels), 16, generator=generator), labels, means


@pytest.mark.parametrize("pictures", [1, 7, 100])
def test_the_cells_of_all_pictures_are_limited_and_differ(pictures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_labels, "CELLS", 40)
    features = torch.arange(2.0 * 5 * 11).reshape(2, 5, 11)
    columns = set(map(tuple, features.flatten(1).T.tolist()))
    chosen = [random_cells(features, pictures, index) for index in range(pictures)]
    assert {len(cells) for cells in chosen} == {max(1, 40 // pictures)}
    assert all(len(found) == len(cells) and found <= columns for cells in chosen if (found := set(map(tuple, cells.tolist()))))
    assert torch.equal(chosen[0], random_cells(features, pictures, 0))
    assert pictures == 1 or any(not torch.equal(cells, chosen[0]) for cells in chosen[1:])


def test_cells_without_labels_improve_on_logistic_regression() -> None:
    gains = []
    for seed in range(4):
        cells, labels, means = mixture(seed, (900, 600, 300, 100))
        shuffled = torch.randperm(len(cells), generator=torch.Generator().manual_seed(seed))
        clicked = torch.cat([shuffled[labels[shuffled] == value][:5] for value in range(4)])
        weight, offset = FewLabels(cells, (means, -means.square().sum(1) / 2)).fit(cells[clicked], labels[clicked], 4)
        accuracy = float(((cells @ weight.T + offset).argmax(1) == labels).float().mean())
        plain = LogisticRegression(max_iter=1000).fit(cells[clicked].numpy(), labels[clicked].numpy())
        gains.append(accuracy - plain.score(cells.numpy(), labels.numpy()))
    assert np.mean(gains) > 0.05
    assert min(gains) > 0


def test_the_regression_is_scikit_learns() -> None:
    cells, labels, _ = mixture(0, (50, 50, 50))
    weights = torch.rand(len(cells), generator=torch.Generator().manual_seed(0))
    weights = weights / weights.sum()
    penalty = 0.05
    weight, offset = softmax_regression(cells, F.one_hot(labels).float(), penalty, weights, steps=500)
    reference = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=5000)
    reference.fit(cells.numpy(), labels.numpy(), sample_weight=weights.numpy())
    logits = cells @ weight.T + offset
    assert np.allclose(logits.softmax(1).numpy(), reference.predict_proba(cells.numpy()), atol=5e-3)


def test_a_class_with_more_clicks_has_no_more_weight() -> None:
    cells, labels, means = mixture(1, (200, 200))
    clusters = (means, -means.square().sum(1) / 2)
    once = torch.tensor([0, 1, 250, 251])
    repeated = torch.cat([once, torch.tensor([0, 1] * 10)])
    fitter = FewLabels(cells, clusters)
    first, second = (fitter.fit(cells[chosen], labels[chosen], 2) for chosen in (once, repeated))
    same = ((cells @ first[0].T + first[1]).argmax(1) == (cells @ second[0].T + second[1]).argmax(1)).float().mean()
    assert same > 0.98


def test_shares_follow_the_cells_and_no_class_vanishes() -> None:
    logits = torch.eye(3)[torch.repeat_interleave(torch.arange(2), torch.tensor([900, 100]))] * 20
    shares = class_shares(logits)
    assert float(shares.sum()) == pytest.approx(1)
    assert shares.argsort().tolist() == [2, 1, 0]
    assert float(shares[2]) > 0.01
    assert float(shares[0]) == pytest.approx((0.9 + 0.2 / 3) / 1.2, abs=1e-3)


def test_cells_of_one_kind_and_clusters_without_cells_are_no_error() -> None:
    cells = F.normalize(torch.ones(50, 6), dim=1).repeat(1, 1)
    weight, offset = FewLabels(cells, (torch.eye(6), torch.zeros(6))).fit(cells[:2], torch.tensor([0, 1]), 2)
    assert torch.isfinite(weight).all()
    assert torch.isfinite(offset).all()
