"""PiCIE's loss: its terms add up to the whole loss, and so do their gradients."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from picie.config import Config
from picie.methods.picie import PiCIE
from picie.views.two_views import BatchViews

Batch = Callable[..., tuple[BatchViews, Tensor, Tensor]]
OPTIONS = [
    {},
    {"temperature": 1.0},
    {"within": 0.0},
    {"cross": 0.0},
    {"within": 3.0, "cross": 0.5},
    {"mse": True},
    {"mse": True, "within": 2.0, "temperature": 0.1},
    {"mse": True, "within": 0.0, "cross": 0.0},
]


def formula(method: PiCIE, views: BatchViews, labels: Tensor, options: dict) -> dict[str, Tensor]:
    """The whole loss of both views at once, as the paper states it."""
    o = {"temperature": 0.3, "within": 1.0, "cross": 1.0, "mse": False} | options
    z = [method.features(views, view) for view in (0, 1)]

    def ce(view: int, clustering: int) -> Tensor:
        logits = torch.einsum("bdhw,kd->bkhw", z[view], method.centroids[clustering]) / o["temperature"]
        weight = None if method.class_weights is None else method.class_weights[clustering]
        return F.cross_entropy(logits, labels[clustering], weight)

    within, cross = (ce(0, 0) + ce(1, 1)) / 2, (ce(0, 1) + ce(1, 0)) / 2
    total = o["within"] + o["cross"]
    loss = (o["within"] * within + o["cross"] * cross) / total if total else None
    if o["mse"]:
        mse = F.mse_loss(z[0], z[1])
        loss = mse if loss is None else (loss + mse) / 2
    assert loss is not None
    return {"loss": loss, "within": within, "cross": cross}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_terms_and_their_gradients_add_up_to_the_formula(
    network: nn.Module, configure: Callable[..., Config], batch: Batch, options: dict, weighted: bool
) -> None:
    method = PiCIE(configure(loss=options), network)
    views, labels, centroids = batch(2, 6)
    weights = torch.rand(2, 5, generator=torch.Generator().manual_seed(1)) + 0.2 if weighted else None
    method.start_epoch(centroids, weights, 0)

    expected = formula(method, views, labels, options)
    expected["loss"].backward()
    joint = [p.grad.clone() for p in method.parameters() if p.grad is not None]
    assert len(joint) == 2
    assert all(g.abs().max() > 1e-6 for g in joint)
    method.zero_grad()

    sums = {"loss": 0.0, "within": 0.0, "cross": 0.0}
    for term in method.losses(views, labels):
        term["loss"].backward()  # before the next is asked for, as training does
        sums = {name: sums[name] + float(term[name].detach()) for name in sums}
    for name, value in sums.items():
        assert value == pytest.approx(float(expected[name].detach()), rel=1e-4), name
    for parameter, gradient in zip(method.parameters(), joint, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)


def over_batch(batch: Batch, weighted: bool) -> tuple[BatchViews, list[tuple[Tensor, Tensor, Tensor | None]]]:
    """Views, and for 5 and 11 clusters: labels (2, B, h, w), centroids (2, K, 6), class weights (2, K) or None."""
    g = torch.Generator().manual_seed(3)
    views, labels, centroids = batch(2, 6)
    over_labels, over_centroids = torch.randint(0, 11, labels.shape, generator=g), torch.randn(2, 11, 6, generator=g)
    weights = [torch.rand(2, k, generator=g) + 0.2 if weighted else None for k in (5, 11)]
    return views, [(labels, centroids, weights[0]), (over_labels, over_centroids, weights[1])]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("metric", ["spherical", "euclidean"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_two_heads_are_weighed_by_the_logarithms_of_their_sizes(
    network: nn.Module, configure: Callable[..., Config], batch: Batch, options: dict, metric: str, weighted: bool
) -> None:
    """PiCIE+H, restated head by head and view by view; the MSE is there once."""
    o = {"temperature": 0.3, "within": 1.0, "cross": 1.0, "mse": False} | options
    method = PiCIE(configure(loss=options, cluster={"k": 5, "over_k": 11, "metric": metric}), network)
    views, heads = over_batch(batch, weighted)
    method.start_epoch(heads[0][1], heads[0][2], 0)
    method.start_over_head(heads[1][1], heads[1][2])

    z = [method.features(views, view) for view in (0, 1)]
    expected: dict[str, Tensor] = {}
    losses = []
    for name, (labels, centroids, weights) in zip(("", "over_"), heads, strict=True):
        ce = {}
        for view in (0, 1):
            for u in (0, 1):
                logits = F.conv2d(z[view], centroids[u][:, :, None, None])
                if metric == "euclidean":
                    logits = logits - (centroids[u] ** 2).sum(1)[:, None, None] / 2
                ce[view, u] = F.cross_entropy(logits / o["temperature"], labels[u], None if weights is None else weights[u])
        within, cross = (ce[0, 0] + ce[1, 1]) / 2, (ce[0, 1] + ce[1, 0]) / 2
        expected |= {f"{name}within": within, f"{name}cross": cross}
        losses.append((o["within"] * within + o["cross"] * cross) / max(o["within"] + o["cross"], 1e-9))
    loss = (math.log(11) * losses[0] + math.log(5) * losses[1]) / (math.log(5) + math.log(11))
    if o["mse"]:
        mse = ((z[0] - z[1]) ** 2).mean()
        expected["mse"] = mse
        loss = (loss + mse) / 2 if o["within"] + o["cross"] else mse
    expected["loss"] = loss
    joint = torch.autograd.grad(loss, list(method.parameters()))
    assert all(g.abs().max() > 1e-6 for g in joint)

    sums: dict[str, float] = defaultdict(float)
    for term in method.losses(views, torch.cat([heads[0][0], heads[1][0]])):
        term["loss"].backward()
        for name, value in term.items():
            sums[name] += float(value.detach())
    assert sums == pytest.approx({name: float(value.detach()) for name, value in expected.items()}, rel=1e-4)
    for parameter, gradient in zip(method.parameters(), joint, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)


def test_the_over_clustering_head_is_saved_and_does_not_predict(
    network: nn.Module, configure: Callable[..., Config], batch: Batch
) -> None:
    method = PiCIE(configure(cluster={"k": 5, "over_k": 11}), network)
    _, heads = over_batch(batch, weighted=False)
    method.start_epoch(heads[0][1], None, 0)
    method.start_over_head(heads[1][1], None)
    assert torch.equal(method.state_dict()["over_centroids"], heads[1][1])
    assert torch.equal(method.classifier()[0], heads[0][1][0])
    assert "over_centroids" not in PiCIE(configure(), network).state_dict()  # checkpoints of runs without it are as before


def test_one_view_at_a_time_holds_half_of_the_activations(
    network: nn.Module, configure: Callable[..., Config], batch: Batch
) -> None:
    """Without the MSE, the second view's network runs after the first term was handed out."""
    calls: list[int] = []
    network.register_forward_hook(lambda *_: calls.append(1))
    method = PiCIE(configure(), network)
    views, labels, centroids = batch(2, 6)
    method.start_epoch(centroids, None, 0)
    terms = method.losses(views, labels)
    next(terms)
    assert len(calls) == 1
    assert len(list(terms)) == 1
    assert len(calls) == 2


def test_centroids_are_frozen_and_saved(network: nn.Module, configure: Callable[..., Config], batch: Batch) -> None:
    method = PiCIE(configure(), network)
    views, labels, centroids = batch(2, 6)
    method.start_epoch(centroids, None, 0)
    centroids.zero_()  # the method has its own
    for term in method.losses(views, labels):
        term["loss"].backward()
    assert method.centroids.grad is None
    torch.testing.assert_close(method.centroids.norm(dim=2), torch.ones(2, 5))
    assert torch.equal(method.state_dict()["centroids"], method.centroids)
    assert method.optimizers() == ()


def test_training_lowers_the_loss_and_raises_agreement(
    network: nn.Module, configure: Callable[..., Config], batch: Batch
) -> None:
    method = PiCIE(configure(), network)
    views, _, centroids = batch(2, 6)
    method.start_epoch(centroids, None, 0)
    with torch.no_grad():  # labels as clustering gives them: the nearest centroid of each cell
        scores = [torch.einsum("bdhw,kd->bkhw", method.features(views, v), method.centroids[v]).argmax(1) for v in (0, 1)]
    labels = torch.stack(scores)
    optimizer = torch.optim.Adam(method.parameters(), 1e-2)
    history = []
    for _ in range(30):
        optimizer.zero_grad()
        total = 0.0
        for term in method.losses(views, labels):
            term["loss"].backward()
            total += float(term["loss"].detach())
        optimizer.step()
        history.append(total)
    assert history[-1] < 0.9 * history[0]
