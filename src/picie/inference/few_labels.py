"""A linear classifier of feature cells from a few labelled ones.

The cells without labels help in two ways. Directions in which the cells of one cluster differ
count less, because they tell nothing about the cluster. And the classifier's offsets are moved
towards the shares of the classes that it finds among all cells, because as many clicks on poles
as on roads say nothing about their areas.

Shapes: n labelled cells, m cells without labels, D feature dimension, K clusters, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Weight of the mean scatter in that within the clusters; of |W|^2 / 2 in the loss.
_SHRINKAGE, _PENALTY, _STEPS = 0.5, 0.1, 100
# Weight of equal shares beside the cells', passes to find the shares, and the part of their
# logarithm that the offsets take on.
_EQUAL, _PASSES, _PART = 0.2, 20, 0.5


class FewLabels:
    """Fits linear classifiers to a few labelled cells.

    Args:
        cells: (m, D) features of cells without labels, from as many pictures as possible.
        clusters: (K, D) weights and (K,) offsets of the run's clusters.
    """

    def __init__(self, cells: Tensor, clusters: tuple[Tensor, Tensor]) -> None:
        self.cells = cells.float().cpu()
        self._whitening = _whitening(self.cells, *(part.float().cpu() for part in clusters))
        self._center = self.cells.mean(0)

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
        inputs = (points.float().cpu() - self._center) @ self._whitening
        counts = torch.bincount(labels.cpu(), minlength=n_classes)
        weights = 1 / counts[labels.cpu()]
        weight, offset = softmax_regression(inputs, labels.cpu(), n_classes, _PENALTY, weights)
        weight = weight @ self._whitening.T
        offset = offset - weight @ self._center
        shares = class_shares(self.cells @ weight.T + offset)
        return weight, offset + _PART * shares.log()


def softmax_regression(
    inputs: Tensor, labels: Tensor, n_classes: int, penalty: float, weights: Tensor | None = None, steps: int = _STEPS
) -> tuple[Tensor, Tensor]:
    """Fit a multinomial logistic regression by full-batch L-BFGS.

    Args:
        inputs: (n, D) float32.
        labels: (n,) int64.
        n_classes: C.
        penalty: weight of |W|^2 / 2 beside the mean cross-entropy.
        weights: (n,) weights of the inputs in that mean; None weights all the same.
        steps: maximum number of steps.

    Returns:
        (C, D) weights and (C,) offsets.
    """
    weight = torch.zeros(n_classes, inputs.shape[1], requires_grad=True, device=inputs.device)
    offset = torch.zeros(n_classes, requires_grad=True, device=inputs.device)
    optimizer = torch.optim.LBFGS(
        [weight, offset], max_iter=steps, tolerance_grad=1e-5, tolerance_change=1e-8, line_search_fn="strong_wolfe"
    )
    part = None if weights is None else weights / weights.sum()

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = inputs @ weight.T + offset
        entropy = F.cross_entropy(logits, labels) if part is None else F.cross_entropy(logits, labels, reduction="none") @ part
        value = entropy + penalty / 2 * weight.square().sum()
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
