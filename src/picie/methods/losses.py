"""Losses of features against pseudo-labels (paper, section 3).

Shapes: V views, B batch, D feature dimension, h w cells, K clusters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from picie.clustering.kmeans import pad_clusters
from picie.config import LossConfig
from picie.runtime import distributed

ClassWeights = Literal["none", "inverse", "sqrt_inverse", "frequency"]


@dataclass(frozen=True)
class Targets:
    """The pseudo-labels and centroids that the features of a view are compared with.

    They come from the clustering of each view.

    Attributes:
        labels: (V, B, h, w) int64; cell (i, j) is the label of cell (i, j) of the features.
        centroids: (V, K, D), frozen.
        bias: (V, K) offsets of the logits.
        weights: (V, K) class weights, or None.
    """

    labels: Tensor
    centroids: Tensor
    bias: Tensor
    weights: Tensor | None


class Loss(Protocol):
    """A loss, selected by `loss.name`.

    It is constructed as `MyLoss(config, **options)` with [loss] and `loss.options`.
    """

    def __call__(self, features: Tensor, targets: Targets) -> Tensor:
        """Return (V,) losses of `features` against each of the V clusterings of `targets`.

        `features` are (B, D, h, w), of any norm.
        """
        ...


class PrototypeCrossEntropy:
    """Cross-entropy of <z, c_k> / T over frozen centroids (paper, equations 3 to 6).

    z are the features, normalised to norm 1.

    Args:
        config: section [loss]; its temperature is T.
    """

    def __init__(self, config: LossConfig) -> None:
        self.temperature = config.temperature

    def __call__(self, features: Tensor, targets: Targets) -> Tensor:
        """Return (V,) mean losses of `features` (B, D, h, w), floating point of any norm."""
        points = features.permute(0, 2, 3, 1).flatten(0, 2)
        losses: Tensor = _FusedCrossEntropy.apply(points, targets, self.temperature)
        return losses


def prototype_logits(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the logits <z, c_k> + b_k as (B, K, h, w) float32.

    z are `features` (B, D, h, w), c is `weight` (K, D) and b is `bias` (K,).
    """
    points = features.permute(0, 2, 3, 1)
    logits = points @ weight.T.to(points)
    return (logits if bias is None else logits + bias).permute(0, 3, 1, 2)


def class_weights(counts: Tensor, kind: ClassWeights) -> Tensor | None:
    """Return (K,) float32 weights from the number of points in each cluster; None for "none".

    Their mean is 1.

    Args:
        counts: (K,) points in each cluster; an empty one counts as one point.
        kind: "inverse" weights a cluster by 1 / share and "sqrt_inverse" by its square root.
            "frequency" weights it by the share itself, so that large clusters count more; the
            published code does so under a switch named balance.

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
    """Return the weight lambda of each head's loss, proportional to 1 / log K (paper, PiCIE+H).

    For K1 clusters it is log K2 / (log K1 + log K2). At chance the cross-entropy is log K, so both
    heads then contribute equally.

    >>> [round(weight, 3) for weight in head_weights([10, 100])]
    [0.667, 0.333]
    """
    shares = [1 / math.log(k) for k in ks]
    return [share / sum(shares) for share in shares]


def as_shares(weights: Tensor) -> Tensor:
    """Divide `weights` (V, n) of n cells by their sum, as factors of a weighted mean.

    In several processes the sum is over all cells of the batch. The factors are scaled so that the
    processes' means, weighted by their share of the images, add up to the mean of the batch.
    """
    total, n = weights.sum(1), weights.shape[1]
    if distributed.world_size() == 1:
        return weights / total[:, None]
    sums = distributed.all_reduce_sum(torch.cat([total, total.new_full((1,), n)]))
    shares: Tensor = weights / sums[:-1, None] * (sums[-1] / n)
    return shares


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean cross-entropy of `logits` (B, K, h, w) to `labels` (B, h, w).

    `weights` (K,) weight the labels.
    """
    if weights is None or distributed.world_size() == 1:
        return F.cross_entropy(logits, labels, weights)
    shares = as_shares(weights[labels].view(1, -1))
    mean: Tensor = F.cross_entropy(logits, labels, reduction="none").flatten() @ shares[0]
    return mean


class _FusedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of (<z, c_k> + b_k) / T for V sets of frozen centroids, z the points at norm 1.

    Autograd through the normalisation, the logits and the log-softmax writes a dozen temporaries
    of the features' size. The gradient needs only one number per point and centroid:

        g_k = w (softmax_k - [k = y]) / T
        dloss/dp = (sum_k g_k c_k - z sum_k g_k <z, c_k>) / |p|

    Forward and backward of 25,600 points with D = 128 and 2 x 11 centroids take 7 ms instead of 16
    on 2 cores. Logits are stored cluster by cluster, because a CPU vectorises along points: a
    softmax over the last dimension takes 20 times as long.
    """

    @staticmethod
    def forward(ctx: Any, points: Tensor, targets: Targets, temperature: float) -> Tensor:
        """Return (V,) losses of `points` (n, D) against `targets`.

        The labels of `targets` are in the order of the points.
        """
        labels, bias, weights = targets.labels.flatten(1), targets.bias, targets.weights
        flat = targets.centroids.flatten(0, 1)
        p = points.to(flat.dtype)
        norms = torch.linalg.vector_norm(p, dim=1).clamp_(min=1e-12)
        products = (p @ pad_clusters(flat).T)[:, : len(flat)].T.contiguous()
        cosines = products.div_(norms).unflatten(0, bias.shape)
        log_softmax = F.log_softmax((cosines + bias[:, :, None]).div_(temperature), 1)
        entropies = -log_softmax.gather(1, labels[:, None])[:, 0]
        if weights is None:
            shares = torch.full_like(entropies, 1 / max(1, len(points)))
        else:
            shares = as_shares(torch.stack([w[y] for w, y in zip(weights, labels, strict=True)]))
        gradient = log_softmax.exp_()  # the softmax, in the same memory
        gradient.scatter_add_(1, labels[:, None], entropies.new_full((), -1).expand(len(labels), 1, len(points)))
        gradient.mul_((shares / temperature)[:, None])
        along = (gradient * cosines).sum(1)  # summed here, so that the cosines need not be saved
        ctx.save_for_backward(points, flat, norms, along, gradient)
        losses: Tensor = (entropies * shares).sum(1)
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        points, flat, norms, along, gradient = ctx.saved_tensors
        dtype = points.dtype  # computing in the result's dtype saves a fifth of the time
        weighted = (grads[0].repeat_interleave(gradient.shape[1])[:, None] * flat).to(dtype)
        back = (grads[0] @ along).div_(norms.square()).neg_().to(dtype)
        g = gradient.flatten(0, 1).div(norms).to(dtype)
        out = torch.addmm(points * back[:, None], g.T, weighted)
        return out, None, None


def view_distance(z1: Tensor, z2: Tensor) -> Tensor:
    """Return the mean squared difference of two feature maps (B, D, h, w)."""
    return (z1 - z2).square().mean()
