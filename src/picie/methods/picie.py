"""PiCIE: two views, clustered separately; each predicts the clusters of both (paper, section 3)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from picie.config import Config
from picie.errors import InputError
from picie.methods.base import Method
from picie.methods.losses import head_weights, view_distance
from picie.models.extractor import Extractor
from picie.runtime.profiling import stage
from picie.views.two_views import BatchViews


class PiCIE(Method):
    """PiCIE: two views of each image, each predicting the clusters of both.

    The loss is (w within + c cross) / (w + c) with w = `loss.within` and c = `loss.cross`;
    `loss.mse` averages it with MSE(z1, z2). With `cluster.over_k` (PiCIE+H) it is the mean of two
    such losses, of K and of K2 clusters, weighted by `head_weights`.
    """

    views = 2
    over_clusters = True

    def __init__(self, config: Config, network: Extractor, dim: int | None = None) -> None:
        super().__init__(config, network, dim)
        if config.loss.within == 0 and config.loss.cross == 0 and not config.loss.mse:
            raise InputError("loss.within, loss.cross and loss.mse are all off; nothing would be trained")

    def losses(self, batch: BatchViews, labels: Tensor) -> Iterator[dict[str, Tensor]]:
        if self.config.loss.mse:
            z = [self.features(batch, view) for view in range(self.views)]
            terms = [self._view_term(z[view], view, labels) for view in range(self.views)]
            total = {name: terms[0][name] + terms[1][name] for name in terms[0]}
            mse = view_distance(z[0], z[1])
            compared = self.config.loss.within + self.config.loss.cross > 0
            yield total | {"loss": (total["loss"] + mse) / 2 if compared else mse, "mse": mse}
        else:  # each term depends on one view alone, so half of the activations suffice
            for view in range(self.views):
                yield self._view_term(self.view_features(batch, view), view, labels)

    def _view_term(self, z: Tensor, view: int, labels: Tensor) -> dict[str, Tensor]:
        """One view's part of the loss and of its named parts, over all heads."""
        options, ks = self.config.loss, self.config.cluster.heads
        total = max(options.within + options.cross, 1e-12)
        term = {"loss": z.new_zeros(())}
        with stage("loss"):
            heads = zip(ks, head_weights(ks.values()), self.targets(labels), strict=True)
            for prefix, weight, targets in heads:
                losses = self.loss(z, targets)
                within, cross = losses[view] / 2, losses[1 - view] / 2
                term["loss"] = term["loss"] + weight * ((options.within * within + options.cross * cross) / total)
                term |= {f"{prefix}within": within, f"{prefix}cross": cross}
        return term
