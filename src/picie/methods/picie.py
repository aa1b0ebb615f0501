"""PiCIE: two views, each with its own clustering, each predicting the clusters of both (paper, section 3)."""

from __future__ import annotations

from torch import Tensor

from picie.losses import two_view_loss, view_distance
from picie.methods.base import Method
from picie.views.two_views import ViewDraws


class PiCIE(Method):
    """loss = (w within + c cross) / (w + c) with w = `loss.within` and c = `loss.cross`; `loss.mse` averages in MSE(z1, z2)."""

    views = 2

    def forward(self, frames: Tensor, draws: ViewDraws, labels: Tensor) -> dict[str, Tensor]:
        z = (self.features(frames, draws, 0), self.features(frames, draws, 1))
        options = self.config.loss
        within, cross = two_view_loss(
            z, labels, self.centroids, self.logit_bias(), self.class_weights, options.temperature
        )
        parts = {"within": within, "cross": cross}
        weight = options.within + options.cross
        terms = [(options.within * within + options.cross * cross) / weight] if weight else []
        if options.mse:
            parts["mse"] = view_distance(z)
            terms.append(parts["mse"])
        return {"loss": sum(terms[1:], terms[0]) / len(terms), **parts}
