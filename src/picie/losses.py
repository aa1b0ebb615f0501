"""The loss of the paper's section 3: frozen centroids are the classifier of both views' features.

Shapes: V views, B batch, D feature dimension, h w cells, K clusters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from picie import processes

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

    >>> class_weights(Tensor([1, 3]), "inverse").tolist()
    [1.5, 0.5]
    """
    if kind == "none":
        return None
    share = counts.double().clamp(min=1)
    power = {"inverse": -1.0, "sqrt_inverse": -0.5, "frequency": 1.0}[kind]
    weights = share**power
    return (weights / weights.mean()).float()


def head_weights(ks: Iterable[int]) -> list[float]:
    """The lambda of each head's loss from its number of clusters (paper, PiCIE+H): in proportion to 1 / log K.

    That is log K2 / (log K1 + log K2) for K1 clusters and the converse for K2; by chance alone, where cross-entropy is log K,
    both heads then count the same.

    >>> [round(weight, 3) for weight in head_weights([10, 100])]
    [0.667, 0.333]
    """
    shares = [1 / math.log(k) for k in ks]
    return [share / sum(shares) for share in shares]


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Mean cross-entropy of `logits` (B, K, h, w) to `labels` (B, h, w), weighed by `weights` (K,) of the labels.

    Weighed, the mean of a batch is not that of the means of its parts, which several processes hold: each process then gives
    what, weighed by its share of the images, adds up to it.
    """
    if weights is None or processes.count() == 1:
        return F.cross_entropy(logits, labels, weights)
    weight, cells = processes.total(torch.stack([weights[labels].sum(), weights.new_tensor(labels.numel())])).unbind()
    return F.cross_entropy(logits, labels, weights, reduction="sum") / weight * (cells / labels.numel())


def view_loss(
    features: Tensor,
    view: int,
    labels: Tensor,
    centroids: Tensor,
    bias: Tensor,
    weights: Tensor | None,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """One view's share of the within-view and the cross-view loss (METHOD 2.3, paper equations 3 to 6).

    Args:
        features: (B, D, h, w), z1 or z2.
        view: which: 0 or 1.
        labels: (2, B, h, w) int64 pseudo-labels of both views, cell (i, j) at cell (i, j) of the features.
        centroids: (2, K, D), frozen.
        bias: (2, K) offsets of the logits.
        weights: (2, K) class weights or None.
        temperature: the logits are divided by it.

    Returns:
        CE(z_v C_v, y_v) / 2 and CE(z_v C_u, y_u) / 2 where u is the other view; summed over v they are within and cross.
    """
    k = centroids.shape[1]
    logits = prototype_logits(features, centroids.flatten(0, 1), bias.flatten()) / temperature  # both views in one product
    shares = [
        cross_entropy(logits[:, u * k : (u + 1) * k], labels[u], None if weights is None else weights[u]) / 2 for u in (0, 1)
    ]
    return shares[view], shares[1 - view]


def view_distance(z1: Tensor, z2: Tensor) -> Tensor:
    """Mean squared difference of two feature maps (B, D, h, w)."""
    return (z1 - z2).square().mean()
