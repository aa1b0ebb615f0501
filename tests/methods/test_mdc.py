"""MDC: one view, and a classifier that begins anew with every epoch's clusters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from picie.config import Config
from picie.methods.mdc import MDC
from picie.views.two_views import BatchViews

Batch = Callable[..., tuple[BatchViews, Tensor, Tensor]]


def only(method: MDC, *batch: object) -> Tensor:
    terms = list(method.losses(*batch))
    assert len(terms) == 1
    return terms[0]["loss"]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classifier", ["linear", "centroids"])
def test_loss_is_the_cross_entropy_of_view_0(
    network: nn.Module, configure: Callable[..., Config], batch: Batch, classifier: str, weighted: bool
) -> None:
    method = MDC(configure(mdc={"classifier": classifier}, loss={"temperature": 0.5}), network)
    views, labels, centroids = batch(1, 6)
    weights = torch.rand(1, 5, generator=torch.Generator().manual_seed(1)) + 0.2 if weighted else None
    method.start_epoch(centroids, weights, 0)
    if method.linear is not None:
        with torch.no_grad():
            method.linear.bias.uniform_(-1, 1)
    z = method.features(views, 0)
    if classifier == "linear":
        logits = F.conv2d(z, method.linear.weight[:, :, None, None], method.linear.bias)  # the paper's 1x1 classifier
    else:
        logits = torch.einsum("bdhw,kd->bkhw", z, centroids[0]) / 0.5
    expected = F.cross_entropy(logits, labels[0], None if weights is None else weights[0])
    torch.testing.assert_close(only(method, views, labels), expected)


def test_the_classifier_and_its_optimiser_begin_anew_each_epoch(
    network: nn.Module, configure: Callable[..., Config], batch: Batch
) -> None:
    method = MDC(configure(mdc={"lr": 0.05}), network)
    views, labels, centroids = batch(1, 6)
    starts, optimisers = [], []
    for epoch in (0, 1):
        method.start_epoch(centroids, None, epoch)
        starts.append(method.linear.weight.detach().clone())
        (optimiser,) = method.optimizers()
        optimisers.append(optimiser)
        assert optimiser.defaults["lr"] == 0.05
        assert not optimiser.state
        assert not method.linear.bias.any()
        before = only(method, views, labels).item()
        for _ in range(10):
            optimiser.zero_grad()
            only(method, views, labels).backward()
            optimiser.step()
        assert only(method, views, labels).item() < before  # it trains what the loss uses
        assert method.linear.bias.any()
    assert optimisers[0] is not optimisers[1]
    assert not torch.equal(starts[0], starts[1])
    again = MDC(configure(), network)
    again.start_epoch(centroids, None, 1)
    assert torch.equal(again.linear.weight, starts[1])  # a function of (seed, epoch): a resumed run has the same
    other = MDC(Config.model_validate(configure().model_dump() | {"seed": 1}), network)
    other.start_epoch(centroids, None, 1)
    assert not torch.equal(other.linear.weight, starts[1])


def test_its_optimiser_leaves_the_network_alone(network: nn.Module, configure: Callable[..., Config]) -> None:
    method = MDC(configure(), network)
    mine = {id(p) for group in method.optimizers()[0].param_groups for p in group["params"]}
    assert mine == {id(method.linear.weight), id(method.linear.bias)}


def test_prediction_uses_what_was_trained(network: nn.Module, configure: Callable[..., Config], batch: Batch) -> None:
    _, _, centroids = batch(1, 6)
    for sections, trained in (
        ({}, True),
        ({"train": {"epochs": 0}}, False),
        ({"mdc": {"classifier": "centroids"}}, False),
    ):
        method = MDC(configure(**sections), network)
        method.start_epoch(centroids, None, 0)
        weight, bias = method.classifier()
        expected = method.linear.weight if trained else centroids[0]
        assert torch.equal(weight, expected)
        assert not weight.requires_grad
        assert bias.shape == (5,)


def test_frozen_centroids_need_no_optimiser(network: nn.Module, configure: Callable[..., Config]) -> None:
    method = MDC(configure(mdc={"classifier": "centroids"}), network)
    assert method.optimizers() == ()
    assert sum(p.numel() for p in method.parameters()) == sum(p.numel() for p in network.parameters())


def test_it_has_one_view(network: nn.Module, configure: Callable[..., Config]) -> None:
    assert MDC(configure(), network).centroids.shape == (1, 5, 6)
