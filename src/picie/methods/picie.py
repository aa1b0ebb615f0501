"""PiCIE: two views, each with its own clustering, each predicting the clusters of both (paper, section 3)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from picie.config import Config
from picie.errors import InputError
from picie.methods.base import Method
from picie.methods.losses import head_weights, view_distance, view_loss
from picie.models.extractor import Extractor
from picie.runtime.profiling import stage
from picie.views.two_views import BatchViews


class PiCIE(Method):
    """PiCIE: two views of each image, each predicting the clusters of both.

    loss = (w within + c cross) / (w + c) with w = `loss.within` and c = `loss.cross`; `loss.mse` averages in MSE(z1, z2).
    With `cluster.over_k` (PiCIE+H) it is the mean of two such losses, of K and of K2 clusters, by `head_weights`.
    """

    views = 2
    over_clusters = True

    def __init__(self, config: Config, network: Extractor) -> None:
        super().__init__(config, network)
        if config.loss.within == 0 and config.loss.cross == 0 and not config.loss.mse:
            raise InputError("loss.within, loss.cross and loss.mse are all off; nothing would be trained")

    def losses(self, batch: BatchViews, labels: Tensor) -> Iterator[dict[str, Tensor]]:
        if self.config.loss.mse:
            z = [self.features(batch, view) for view in range(self.views)]
            shares = [self._share(z[view], view, labels) for view in range(self.views)]
            total = {name: shares[0][name] + shares[1][name] for name in shares[0]}
            mse = view_distance(z[0], z[1])
            weighted = self.config.loss.within + self.config.loss.cross > 0
            yield total | {"loss": (total["loss"] + mse) / 2 if weighted else mse, "mse": mse}
        else:  # each term depends on one view alone, so half the activations suffice
            for view in range(self.views):
                yield self._share(self.maps(batch, view), view, labels)

    def _share(self, z: Tensor, view: int, labels: Tensor) -> dict[str, Tensor]:
        """What one view's features add to the loss and to its parts, of every head."""
        with stage("loss"):
            return self._weighed(z, view, labels)

    def _weighed(self, z: Tensor, view: int, labels: Tensor) -> dict[str, Tensor]:
        options, ks = self.config.loss, self.config.cluster.heads
        total = max(options.within + options.cross, 1e-12)
        share = {"loss": z.new_zeros(())}
        heads = zip(ks, head_weights(ks.values()), self.heads, labels.split(self.views), strict=True)
        for prefix, weight, (centroids, class_weights), y in heads:
            within, cross = view_loss(z, view, y, centroids, self.logit_bias(centroids), class_weights, options.temperature)
            share["loss"] = share["loss"] + weight * ((options.within * within + options.cross * cross) / total)
            share |= {f"{prefix}within": within, f"{prefix}cross": cross}
        return share
