"""The loss against METHOD section 2.3, restated pixel by pixel in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from picie.clustering.kmeans import assign, bias
from picie.config import LossConfig
from picie.methods.losses import (
    PrototypeCrossEntropy,
    Targets,
    class_weights,
    head_weights,
    prototype_logits,
    view_distance,
)

B, D, H, W, K = 2, 5, 3, 4, 6


def tensors(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    z = torch.nn.functional.normalize(torch.randn(2, B, D, H, W, generator=g), dim=2)
    labels = torch.randint(0, K, (2, B, H, W), generator=g)
    return z, labels, torch.randn(2, K, D, generator=g)


def view_loss(
    features: torch.Tensor,
    view: int,
    labels: torch.Tensor,
    centroids: torch.Tensor,
    offsets: torch.Tensor,
    weights: torch.Tensor | None,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One view's share of the within-view and of the cross-view loss, as PiCIE computes them."""
    losses = PrototypeCrossEntropy(LossConfig(temperature=temperature))(features, Targets(labels, centroids, offsets, weights))
    return losses[view] / 2, losses[1 - view] / 2


def ce(z: np.ndarray, centroids: np.ndarray, offset: np.ndarray, y: np.ndarray, w: np.ndarray, temperature: float) -> float:
    """Weighted mean over cells of -log softmax, one cell at a time."""
    total = weight = 0.0
    for b in range(B):
        for i in range(H):
            for j in range(W):
                logits = (centroids @ z[b, :, i, j] + offset) / temperature
                label = y[b, i, j]
                total += w[label] * (np.log(np.exp(logits).sum()) - logits[label])
                weight += w[label]
    return total / weight


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("offset", [False, True])
def test_within_and_cross_by_the_definition(temperature: float, weighted: bool, offset: bool) -> None:
    z, y, c = tensors()
    b = torch.stack([bias(own) for own in c]) if offset else torch.zeros(2, K)
    weights = torch.rand(2, K, generator=torch.Generator().manual_seed(5)) + 0.1 if weighted else None
    parts = [view_loss(z[v], v, y, c, b, weights, temperature) for v in (0, 1)]
    w = np.ones((2, K)) if weights is None else weights.numpy()

    def loss(view: int, clustering: int) -> float:
        return ce(
            z[view].numpy(), c[clustering].numpy(), b[clustering].numpy(), y[clustering].numpy(), w[clustering], temperature
        )

    within = (loss(0, 0) + loss(1, 1)) / 2
    cross = (loss(0, 1) + loss(1, 0)) / 2
    assert float(parts[0][0] + parts[1][0]) == pytest.approx(within, rel=1e-5)
    assert float(parts[0][1] + parts[1][1]) == pytest.approx(cross, rel=1e-5)
    assert float(parts[1][1]) == pytest.approx(loss(1, 0) / 2, rel=1e-5)  # view 1's features, view 0's clusters and labels


def test_logits_by_hand() -> None:
    z = torch.tensor([[1.0, 2.0], [0.0, -1.0]]).view(1, 2, 1, 2)  # two cells: (1, 0) and (2, -1)
    weight = torch.tensor([[1.0, 0.0], [1.0, 3.0], [0.0, -2.0]])
    assert prototype_logits(z, weight)[0, :, 0].T.tolist() == [[1, 1, 0], [2, -1, 2]]
    assert prototype_logits(z, weight, torch.tensor([0.0, 1.0, 5.0]))[0, :, 0].T.tolist() == [[1, 2, 5], [2, 0, 7]]


def test_with_the_bias_the_largest_logit_is_the_nearest_centroid() -> None:
    z, _, c = tensors()
    points = z[0].permute(0, 2, 3, 1).reshape(-1, D)
    biased = prototype_logits(z[0], c[0], bias(c[0])).argmax(1).flatten()
    assert torch.equal(biased, assign(points, c[0])[0])
    assert not torch.equal(prototype_logits(z[0], c[0]).argmax(1).flatten(), biased)  # these differ


def test_gradients_reach_the_features_alone_and_are_right() -> None:
    z, y, c = tensors()
    z0 = z[0].double().requires_grad_()
    zeros = torch.zeros(2, K, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda t: sum(view_loss(t, 0, y, c.double(), zeros, None, 0.5)), (z0,))


def test_logits_of_norm_one_cannot_fall_below_the_bound_that_temperature_lifts() -> None:
    """At temperature 1 and K = 27, cross-entropy of logits in [-1, 1] is at least 1.51."""
    k = 27
    z = torch.ones(1, 1, 1, 1)
    c = torch.full((2, k, 1), -1.0)
    c[:, 3] = 1.0
    labels = torch.full((2, 1, 1, 1), 3)
    for temperature, bound in ((1.0, np.log(1 + 26 * np.exp(-2))), (0.1, np.log(1 + 26 * np.exp(-20)))):
        within, cross = view_loss(z, 0, labels, c, torch.zeros(2, k), None, temperature)
        assert float(within + cross) == pytest.approx(bound, rel=1e-4, abs=1e-6)
    assert np.log(1 + 26 * np.exp(-2)) == pytest.approx(1.51, abs=0.01)


@pytest.mark.parametrize(
    ("kind", "counts", "expected"),
    [
        ("inverse", [1, 2, 4], [12 / 7, 6 / 7, 3 / 7]),
        ("sqrt_inverse", [1, 4, 16], [12 / 7, 6 / 7, 3 / 7]),
        ("frequency", [1, 2, 3], [0.5, 1.0, 1.5]),
        ("frequency", [0, 2, 3], [0.5, 1.0, 1.5]),  # an empty cluster counts as one point
        ("inverse", [0, 1], [1.0, 1.0]),
    ],
)
def test_class_weights_by_hand(kind: str, counts: list[int], expected: list[float]) -> None:
    weights = class_weights(torch.tensor(counts), kind)
    assert weights is not None
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ks", "expected"),
    [
        ((8,), [1.0]),
        ((4, 16), [2 / 3, 1 / 3]),
        ((16, 4), [1 / 3, 2 / 3]),
        ((9, 9), [0.5, 0.5]),
        ((27, 100), [0.582859, 0.417141]),
    ],
)
def test_head_weights_by_hand(ks: tuple[int, ...], expected: list[float]) -> None:
    """log 16 = 2 log 4; log 27 = 3.295837, log 100 = 4.605170."""
    assert head_weights(ks) == pytest.approx(expected, abs=1e-6)


def test_one_head_has_weight_1_to_the_bit() -> None:
    assert all(head_weights([k]) == [1.0] for k in range(2, 2000))


def test_no_class_weights() -> None:
    assert class_weights(torch.tensor([1, 3]), "none") is None


def test_view_distance_by_hand() -> None:
    a, b = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 2, 1, 2), torch.tensor([1.0, 0.0, 3.0, 1.0]).view(1, 2, 1, 2)
    assert float(view_distance(a, b)) == pytest.approx((0 + 4 + 0 + 9) / 4)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("view", [0, 1])
def test_gradients_are_right_with_class_weights_and_bias_at_points_of_any_norm(view: int, weighted: bool, offset: bool) -> None:
    z, y, c = (t.double() if t.is_floating_point() else t for t in tensors())
    g = torch.Generator().manual_seed(3)
    norms = 0.2 + 3 * torch.rand(B, 1, H, W, generator=g, dtype=torch.float64)
    points = (z[view] * norms).requires_grad_()
    weights = 0.1 + torch.rand(2, K, generator=g, dtype=torch.float64) if weighted else None
    b = bias(c) if offset else torch.zeros(2, K, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda t: view_loss(t, view, y, c, b, weights, 0.5), (points,))


@pytest.mark.parametrize("weighted", [False, True])
def test_bf16_features_have_the_loss_and_gradient_of_float32(weighted: bool) -> None:
    z, y, c = tensors()
    weights = 0.1 + torch.rand(2, K, generator=torch.Generator().manual_seed(5)) if weighted else None
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        points = (3 * z[0]).to(dtype).requires_grad_()
        losses = view_loss(points, 0, y, c, bias(c), weights, 0.5)
        sum(losses).backward()
        assert points.grad is not None
        assert points.grad.dtype == dtype
        found.append((torch.stack(losses).detach(), points.grad.float()))
    for ours, expected in zip(*found, strict=True):
        assert 0 < float((ours - expected).norm() / expected.norm()) < 0.02


@pytest.mark.parametrize("weighted", [False, True])
def test_no_point_has_no_loss_and_moves_nothing(weighted: bool) -> None:
    """What a process meets that has no image of a batch."""
    _, y, c = tensors()
    scale = torch.ones(D, requires_grad=True)
    features = torch.zeros(0, D, H, W) * scale.view(1, D, 1, 1)
    losses = view_loss(features, 0, y[:, :0], c, bias(c), torch.ones(2, K) if weighted else None, 0.5)
    sum(losses).backward()
    assert [float(loss.detach()) for loss in losses] == [0, 0]
    assert scale.grad is not None
    assert scale.grad.tolist() == [0] * D
