"""MDC, Modified DeepCluster: the paper's baseline (section 4.2).

It has one view and trains a classifier on its clusters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from picie.config import Config
from picie.errors import InputError
from picie.methods.base import Method
from picie.methods.losses import cross_entropy, prototype_logits
from picie.methods.options import MDCOptions
from picie.models.extractor import Extractor
from picie.runtime.rng import derived_seed
from picie.views.two_views import BatchViews


class MDC(Method):
    """The baseline, Modified DeepCluster: one view, and a classifier trained on its clusters.

    z = f(G(P1 x)). The loss is the cross-entropy of a linear classifier, new each epoch, or of the
    frozen centroids (`mdc.classifier`).
    """

    views = 1
    Options = MDCOptions
    options: MDCOptions

    def __init__(self, config: Config, network: Extractor, dim: int | None = None) -> None:
        super().__init__(config, network, dim)
        if config.loss.mse or config.loss.within != 1 or config.loss.cross != 1:
            raise InputError("loss.within, loss.cross and loss.mse compare two views, and method=mdc has one; leave them out")
        self.linear = nn.Linear(self.dim, config.cluster.k) if self.options.classifier == "linear" else None
        self._optimizer: torch.optim.Optimizer | None = None
        if self.linear is not None:
            self._new_classifier(0)

    def start_epoch(self, centroids: Tensor, class_weights: Tensor | None, epoch: int) -> None:
        """Take the epoch's clustering and reinitialise the classifier, as the clusters are new."""
        super().start_epoch(centroids, class_weights, epoch)
        if self.linear is not None:
            self._new_classifier(epoch)

    def _new_classifier(self, epoch: int) -> None:
        assert self.linear is not None
        generator = torch.Generator().manual_seed(derived_seed(self.config.seed, epoch, "classifier"))
        with torch.no_grad():
            weight = torch.randn(self.linear.weight.shape, generator=generator) * 0.01
            self.linear.weight.copy_(weight)
            self.linear.bias.zero_()
        self._optimizer = torch.optim.Adam(self.linear.parameters(), lr=self.options.lr)

    @property
    def predicts_by_prototypes(self) -> bool:
        return self.linear is None or self.config.train.epochs == 0

    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        """Return the classifier's optimiser, which is reinitialised each epoch as well."""
        return () if self._optimizer is None else (self._optimizer,)

    def classifier(self) -> tuple[Tensor, Tensor]:
        """Return the trained classifier.

        Without one, or if nothing was trained (epochs = 0), return the centroids.
        """
        if self.linear is None or self.predicts_by_prototypes:
            return super().classifier()
        return self.linear.weight.detach(), self.linear.bias.detach()

    def losses(self, batch: BatchViews, labels: Tensor) -> Iterator[dict[str, Tensor]]:
        if self.linear is None:
            (targets,) = self.targets(labels)
            yield {"loss": self.loss(self.view_features(batch, 0), targets)[0]}
        else:
            logits = prototype_logits(self.features(batch, 0), self.linear.weight, self.linear.bias)
            yield {"loss": cross_entropy(logits, labels[0], None if self.class_weights is None else self.class_weights[0])}
