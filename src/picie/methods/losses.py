"""The loss of the paper's section 3: frozen centroids are the classifier of both views' features.

Shapes: V views, B batch, D feature dimension, h w cells, K clusters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from picie.clustering.kmeans import pad_clusters
from picie.runtime import distributed

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


def as_shares(weights: Tensor) -> Tensor:
    """`weights` (V, n) of n cells as shares of their sum, by which a weighted mean is taken.

    Of several processes, each with a part of a batch's images: so that their means, each weighted by its share of the images,
    add up to the mean of the batch. The plain ones would not, for a cell's share is of the weights of all.
    """
    total, n = weights.sum(1), weights.shape[1]
    if distributed.world_size() == 1:
        return weights / total[:, None]
    sums = distributed.all_reduce_sum(torch.cat([total, total.new_full((1,), n)]))
    shares: Tensor = weights / sums[:-1, None] * (sums[-1] / n)
    return shares


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Mean cross-entropy of `logits` (B, K, h, w) to `labels` (B, h, w), weighted by `weights` (K,) of the labels."""
    if weights is None or distributed.world_size() == 1:
        return F.cross_entropy(logits, labels, weights)
    shares = as_shares(weights[labels].view(1, -1))
    mean: Tensor = F.cross_entropy(logits, labels, reduction="none").flatten() @ shares[0]
    return mean


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
        features: (B, D, h, w), of z1 or z2, of any norm, floating point; z is taken at norm 1.
        view: which: 0 or 1.
        labels: (2, B, h, w) int64 pseudo-labels of both views, cell (i, j) at cell (i, j) of the features.
        centroids: (2, K, D), frozen.
        bias: (2, K) offsets of the logits.
        weights: (2, K) class weights or None.
        temperature: the logits are divided by it.

    Returns:
        CE(z_v C_v, y_v) / 2 and CE(z_v C_u, y_u) / 2 where u is the other view; summed over v they are within and cross.
    """
    points = features.permute(0, 2, 3, 1).flatten(0, 2)
    losses = _PrototypeCrossEntropy.apply(points, centroids, bias, labels.flatten(1), weights, temperature)
    return losses[view] / 2, losses[1 - view] / 2


class _PrototypeCrossEntropy(torch.autograd.Function):
    """Cross-entropy of <z, c_k> + b_k over frozen centroids of V views, z the points at norm 1.

    Autograd's own way through normalisation, slices of logits and log-softmax writes a dozen temporaries of the features' size.
    All that the gradient needs of them is one number a point and centroid:

        g_k = w (softmax_k - [k = y]) / T;   dloss/dp = (sum_k g_k c_k - z sum_k g_k <z, c_k>) / |p|

    On 2 cores, forwards and backwards of 25,600 points with D = 128 and 2 x 11 centroids: 7 ms instead of 16. A point's logits
    lie n apart, for the vectors of a CPU run along points: a softmax over the last dimension takes 20 times as long.
    """

    @staticmethod
    def forward(
        ctx: Any, points: Tensor, centroids: Tensor, bias: Tensor, labels: Tensor, weights: Tensor | None, temperature: float
    ) -> Tensor:
        """(V,) losses of `points` (n, D), `centroids` (V, K, D), `bias` (V, K), `labels` (V, n), `weights` (V, K)."""
        flat = centroids.flatten(0, 1)
        p = points.to(flat.dtype)
        norms = torch.linalg.vector_norm(p, dim=1).clamp_(min=1e-12)
        products = (p @ pad_clusters(flat).T)[:, : len(flat)].T.contiguous()
        cosines = products.div_(norms).unflatten(0, bias.shape)
        log_softmax = F.log_softmax((cosines + bias[:, :, None]).div_(temperature), 1)
        entropies = -log_softmax.gather(1, labels[:, None])[:, 0]
        if weights is None:
            shares = torch.full_like(entropies, 1 / max(1, len(points)))
        else:
            shares = as_shares(torch.stack([own[y] for own, y in zip(weights, labels, strict=True)]))
        gradient = log_softmax.exp_()  # the softmax, and its memory
        gradient.scatter_add_(1, labels[:, None], entropies.new_full((), -1).expand(len(labels), 1, len(points)))
        gradient.mul_((shares / temperature)[:, None])
        along = (gradient * cosines).sum(1)  # of each view, so that the cosines need not be kept
        ctx.save_for_backward(points, flat, norms, along, gradient)
        losses: Tensor = (entropies * shares).sum(1)
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        points, flat, norms, along, gradient = ctx.saved_tensors
        dtype = points.dtype  # that of the result, in which it takes a fifth of the whole less time
        weighted = (grads[0].repeat_interleave(gradient.shape[1])[:, None] * flat).to(dtype)
        back = (grads[0] @ along).div_(norms.square()).neg_().to(dtype)
        g = gradient.flatten(0, 1).div(norms).to(dtype)
        out = torch.addmm(points * back[:, None], g.T, weighted)
        return out, None, None, None, None, None


def view_distance(z1: Tensor, z2: Tensor) -> Tensor:
    """Mean squared difference of two feature maps (B, D, h, w)."""
    return (z1 - z2).square().mean()
