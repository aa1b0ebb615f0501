"""PiCIE: two views, each with its own clustering, each predicting the clusters of both (paper, section 3)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from picie.config import Config
from picie.errors import InputError
from picie.losses import view_distance, view_loss
from picie.methods.base import Method
from picie.models.extractor import Extractor
from picie.views.two_views import ViewDraws


class PiCIE(Method):
    """PiCIE: two views of each image, each predicting the clusters of both.

    loss = (w within + c cross) / (w + c) with w = `loss.within` and c = `loss.cross`; `loss.mse` averages in MSE(z1, z2).
    """

    views = 2

    def __init__(self, config: Config, network: Extractor) -> None:
        super().__init__(config, network)
        if config.loss.within == 0 and config.loss.cross == 0 and not config.loss.mse:
            raise InputError("loss.within, loss.cross and loss.mse are all off; nothing would be trained")

    def losses(self, frames: Tensor, draws: ViewDraws, labels: Tensor) -> Iterator[dict[str, Tensor]]:
        if self.config.loss.mse:
            z = [self.features(frames, draws, view) for view in range(self.views)]
            shares = [self._share(z[view], view, labels) for view in range(self.views)]
            total = {name: shares[0][name] + shares[1][name] for name in shares[0]}
            mse = view_distance(z[0], z[1])
            weighed = self.config.loss.within + self.config.loss.cross > 0
            yield total | {"loss": (total["loss"] + mse) / 2 if weighed else mse, "mse": mse}
        else:  # each term depends on one view alone, so half the activations suffice
            for view in range(self.views):
                yield self._share(self.features(frames, draws, view), view, labels)

    def _share(self, z: Tensor, view: int, labels: Tensor) -> dict[str, Tensor]:
        options = self.config.loss
        bias = self.logit_bias(self.centroids)
        within, cross = view_loss(z, view, labels, self.centroids, bias, self.class_weights, options.temperature)
        weight = max(options.within + options.cross, 1e-12)
        return {"loss": (options.within * within + options.cross * cross) / weight, "within": within, "cross": cross}
