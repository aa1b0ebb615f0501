"""The loss of the paper's section 3: frozen centroids are the classifier of both views' features.

Shapes: V views, B batch, D feature dimension, h w cells, K clusters.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

ClassWeights = Literal["none", "inverse", "sqrt_inverse", "frequency"]


def prototype_logits(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """<z, c_k> + b_k of `features` (B, D, h, w) with `weight` (K, D) and `bias` (K,), as (B, K, h, w) float32."""
    points = features.permute(0, 2, 3, 1)
    logits = points @ weight.T.to(points)
    return (logits if bias is None else logits + bias).permute(0, 3, 1, 2)


def class_weights(counts: Tensor, kind: ClassWeights) -> Tensor | None:
    """(K,) float32 weights from each cluster's count of points, with mean 1; None for "none".

    Args:
        counts: (K,) points in each cluster; an empty one counts as one point.
        kind: "inverse" weighs a cluster by 1 / share, "sqrt_inverse" by its root, and "frequency", as published under a
            switch named balance, by the share itself, so that large clusters weigh more.

    >>> class_weights(torch.tensor([1, 3]), "inverse").tolist()
    [1.5, 0.5]
    """
    if kind == "none":
        return None
    share = counts.double().clamp(min=1)
    power = {"inverse": -1.0, "sqrt_inverse": -0.5, "frequency": 1.0}[kind]
    weights = share**power
    return (weights / weights.mean()).float()


def two_view_loss(
    features: tuple[Tensor, Tensor],
    labels: Tensor,
    centroids: Tensor,
    bias: Tensor,
    weights: Tensor | None,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """The within-view and the cross-view loss (METHOD 2.3, paper equations 3 to 6).

    Args:
        features: z1 and z2, (B, D, h, w) each, cell (i, j) of one at cell (i, j) of the other.
        labels: (2, B, h, w) int64 pseudo-labels of both views.
        centroids: (2, K, D), frozen.
        bias: (2, K) offsets of the logits.
        weights: (2, K) class weights or None.
        temperature: the logits are divided by it.

    Returns:
        within = (CE(z1 C1, y1) + CE(z2 C2, y2)) / 2 and cross = (CE(z1 C2, y2) + CE(z2 C1, y1)) / 2.
    """
    k = centroids.shape[1]
    both = centroids.flatten(0, 1)  # both views' centroids at once: one product a feature map
    losses = {}
    for view, z in enumerate(features):
        logits = prototype_logits(z, both, bias.flatten()) / temperature
        for target in (0, 1):
            own = logits[:, target * k : (target + 1) * k]
            weight = None if weights is None else weights[target]
            losses[view, target] = F.cross_entropy(own, labels[target], weight)
    within = (losses[0, 0] + losses[1, 1]) / 2
    cross = (losses[0, 1] + losses[1, 0]) / 2
    return within, cross


def view_distance(features: tuple[Tensor, Tensor]) -> Tensor:
    """Mean squared difference of z1 and z2."""
    return torch.mean((features[0] - features[1]).square())
