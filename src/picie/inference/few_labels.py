"""A linear classifier of feature cells from a few labelled ones.

The cells without labels help in two ways. Directions in which the cells of one cluster differ
count less, because they tell nothing about the cluster. And the classifier takes the shares of the
classes among the cells into account, because as many clicks on poles as on roads say nothing about
their areas.

Shapes: n labelled cells, m cells without labels, D feature dimension, K clusters, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from picie.runtime.rng import permutation

IMAGES, CELLS = 256, 2**15  # pictures, and cells of them, that a fit uses without labels

_SHRINKAGE = 0.5  # weight of the mean scatter in that within the clusters
_STEPS = 60  # of L-BFGS, at most
_PENALTY = 0.1  # weight of |W|^2 / 2 in the loss
# Weight of equal shares beside those found in the cells, passes to find them, and the part of
# their logarithm that is added to the logits.
_EQUAL, _PASSES, _PART = 0.2, 20, 0.25


def random_cells(features: Tensor, pictures: int, index: int) -> Tensor:
    """Random cells of one picture, so that those of all pictures are at most `CELLS`, but one of each.

    Args:
        features: (D, h, w) of the picture.
        pictures: the number of pictures.
        index: the picture's number, which determines the cells.

    Returns:
        (m, D) features of the dtype of `features`.
    """
    points = features.flatten(1).T
    share = max(1, CELLS // pictures)
    return points[torch.from_numpy(permutation(len(points), "teach cells", index)[:share])]


class FewLabels:
    """Fits linear classifiers to a few labelled cells.

    Args:
        cells: (m, D) features of cells without labels, from as many pictures as possible.
        clusters: (K, D) weights and (K,) offsets of the run's clusters.
    """

    def __init__(self, cells: Tensor, clusters: tuple[Tensor, Tensor]) -> None:
        cells = cells.float().cpu()
        self._center = cells.mean(0)
        self._whitening = _whitening(cells, *(part.float().cpu() for part in clusters))
        self._cells = self._whitened(cells)

    def fit(self, points: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
        """Fit a classifier.

        Every class has the same weight, whatever its number of labelled cells.

        Args:
            points: (n, D) features of labelled cells.
            labels: (n,) int64 classes; each class occurs.
            n_classes: C.

        Returns:
            (C, D) weights and (C,) offsets; their logits are those of a softmax.
        """
        labels = labels.cpu()
        inputs, targets = self._whitened(points.float().cpu()), F.one_hot(labels, n_classes).float()
        weights = 1 / torch.bincount(labels, minlength=n_classes)[labels]
        weights = weights / weights.sum()
        weight, offset = softmax_regression(inputs, targets, _PENALTY, weights)
        offset = offset + _PART * class_shares(self._cells @ weight.T + offset).log()
        weight = weight @ self._whitening.T
        return weight, offset - weight @ self._center

    def _whitened(self, points: Tensor) -> Tensor:
        return (points - self._center) @ self._whitening


def softmax_regression(
    inputs: Tensor, targets: Tensor, penalty: float, weights: Tensor | None = None, steps: int = _STEPS
) -> tuple[Tensor, Tensor]:
    """Fit a multinomial logistic regression by full-batch L-BFGS.

    Args:
        inputs: (n, D) float32.
        targets: (n, C) float32 probabilities of the classes.
        penalty: weight of |W|^2 / 2 beside the mean cross-entropy.
        weights: (n,) weights of the inputs in that mean, whose sum is 1; None weights all the same.
        steps: maximum number of steps.

    Returns:
        (C, D) weights and (C,) offsets.
    """
    weight = torch.zeros(targets.shape[1], inputs.shape[1], requires_grad=True, device=inputs.device)
    offset = torch.zeros(targets.shape[1], requires_grad=True, device=inputs.device)
    optimizer = torch.optim.LBFGS(
        [weight, offset], max_iter=steps, tolerance_grad=1e-5, tolerance_change=1e-8, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = inputs @ weight.T + offset
        entropy = F.cross_entropy(logits, targets, reduction="none")
        value = (entropy.mean() if weights is None else entropy @ weights) + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return weight.detach(), offset.detach()


def class_shares(logits: Tensor) -> Tensor:
    """Estimate the share of each class among cells.

    The classifier was fitted to classes of equal weight. The shares are those that agree with the
    mean of its probabilities under them (Saerens, Latinne and Decaestecker 2002), mixed with equal
    shares so that no class vanishes.

    Args:
        logits: (m, C) under equal shares.

    Returns:
        (C,) above 0; their sum is 1.

    >>> class_shares(torch.tensor([[9.0, 0.0]] * 3 + [[0.0, 9.0]])).round(decimals=2)
    tensor([0.7100, 0.2900])
    """
    n_classes = logits.shape[1]
    shares = torch.full((n_classes,), 1 / n_classes)
    for _ in range(_PASSES):
        found = (logits + shares.log()).softmax(1).mean(0)
        shares = (found + _EQUAL / n_classes) / (1 + _EQUAL)
    return shares


def _whitening(cells: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
    """Return a (D, D) matrix under which the cells of a cluster scatter alike in all directions.

    The scatter within clusters is mixed with its mean over the directions.
    """
    assigned = torch.addmm(offset, cells, weight.T).argmax(1)
    sums = torch.zeros(len(weight), cells.shape[1]).index_add_(0, assigned, cells)
    means = sums / torch.bincount(assigned, minlength=len(weight)).clamp(min=1)[:, None]
    inner = cells - means[assigned]
    values, vectors = torch.linalg.eigh((inner.T @ inner).double() / len(cells))
    values = values.clamp(min=0)
    scatter = (1 - _SHRINKAGE) * values + _SHRINKAGE * values.mean()
    whitening: Tensor = (vectors / scatter.clamp(min=1e-12).sqrt()).float()
    return whitening
