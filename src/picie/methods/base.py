"""What a method is: how the features of a view are made, and what loss they are trained with.

Methods do not see datasets. They are given frames, the epoch's draws and pseudo-labels, and hold the network and whatever they
train beside it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from picie.clustering.kmeans import bias
from picie.config import Config
from picie.errors import InputError
from picie.models.extractor import Extractor
from picie.runtime.profiling import stage
from picie.views.two_views import BatchViews


class Method(nn.Module):
    """Base of the methods; `views` says how many views each image has, `over_clusters` whether `losses` trains a second head.

    Args:
        config: the run's configuration.
        network: f.

    Attributes:
        centroids: (V, K, D) of the epoch's clustering, frozen while training.
        prototypes: (K, D), what predicts: the first view's centroids until `cluster.refit` replaces them.
        class_weights: (V, K) of the epoch, or None.
        over_centroids: (V, K2, D) of the over-clustering head, or None without one.
        over_class_weights: (V, K2) of that head, or None.

    Raises:
        InputError: `cluster.over_k` asks for a second head, and the method has none.
    """

    views: ClassVar[int]
    over_clusters: ClassVar[bool] = False

    def __init__(self, config: Config, network: Extractor) -> None:
        super().__init__()
        k, over_k = config.cluster.k, config.cluster.over_k
        if over_k and not self.over_clusters:
            raise InputError(
                f"cluster.over_k = {over_k}: method={config.method} has no over-clustering head; leave it out, or use "
                "method=picie"
            )
        self.config, self.network = config, network
        self.register_buffer("centroids", torch.zeros(self.views, k, network.dim))
        self.register_buffer("over_centroids", torch.zeros(self.views, over_k, network.dim) if over_k else None)
        self.register_buffer("prototypes", torch.zeros(k, network.dim))
        self.centroids: Tensor
        self.over_centroids: Tensor | None
        self.prototypes: Tensor
        self.class_weights: Tensor | None = None
        self.over_class_weights: Tensor | None = None

    @property
    def heads(self) -> list[tuple[Tensor, Tensor | None]]:
        """Centroids and class weights of each head, in the order of `cluster.heads` and of the labels."""
        heads = [(self.centroids, self.class_weights)]
        if self.over_centroids is not None:
            heads.append((self.over_centroids, self.over_class_weights))
        return heads

    def levels(self, batch: BatchViews, view: int) -> Sequence[Tensor]:
        """The backbone's levels of one view's pictures: those kept, or made now."""
        if view in batch.levels:
            return batch.levels[view]
        with stage("augment"):
            pictures = batch.pictures(view)
        with stage("forward"):
            levels: Sequence[Tensor] = self.network.levels(pictures)
        return levels

    def maps(self, batch: BatchViews, view: int, levels: Sequence[Tensor] | None = None) -> Tensor:
        """Features (B, D, h, w) of one view, of any norm, in the transformed frame; every pass calls this.

        View 0 is f(G(P1 x)): transform the image, then the network. View 1 is G(f(P2 x)): the network, then transform its
        feature map. Cell (i, j) of one is cell (i, j) of the other.

        Args:
            batch: the images' views.
            view: 0 or 1.
            levels: what `levels` gave; None asks for it.

        Returns:
            float32, or bfloat16 where the network computes with it.
        """
        levels = self.levels(batch, view) if levels is None else levels
        with stage("forward"):
            z: Tensor = self.network.decode(levels)
        if view > 0:
            with stage("features"):
                z = batch.draws.geometry.apply(z, (z.shape[2], z.shape[3]))
        return z

    def features(self, batch: BatchViews, view: int) -> Tensor:
        """`maps` at norm 1, float32; clustering and labels go by `maps` themselves, so that is what to override."""
        z = self.maps(batch, view)
        with stage("features"):
            return F.normalize(z.float(), dim=1)

    def start_epoch(self, centroids: Tensor, class_weights: Tensor | None, epoch: int) -> None:
        """Take over the epoch's clustering: `centroids` (V, K, D), `class_weights` (V, K) or None."""
        self.centroids.copy_(centroids)
        self.prototypes.copy_(centroids[0])
        self.class_weights = None if class_weights is None else class_weights.to(self.centroids)

    def start_over_head(self, centroids: Tensor, class_weights: Tensor | None) -> None:
        """Take over that of the over-clustering head: `centroids` (V, K2, D), `class_weights` (V, K2) or None."""
        assert self.over_centroids is not None
        self.over_centroids.copy_(centroids)
        self.over_class_weights = None if class_weights is None else class_weights.to(self.over_centroids)

    def logit_bias(self, centroids: Tensor) -> Tensor:
        """(..., K) offsets of the logits of `centroids` (..., K, D): those of the nearest one if euclidean, else none."""
        return bias(centroids) if self.config.cluster.metric == "euclidean" else torch.zeros_like(centroids[..., 0])

    def classifier(self) -> tuple[Tensor, Tensor]:
        """(K, D) weights and (K,) offsets whose arg max over a cell's features is its cluster when predicting."""
        return self.prototypes, self.logit_bias(self.prototypes)

    @property
    def predicts_by_prototypes(self) -> bool:
        """Whether `classifier` is made of `prototypes`, so that fitting them anew is of use."""
        return True

    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        """Optimisers of what the method trains beside the network."""
        return ()

    @abstractmethod
    def losses(self, batch: BatchViews, labels: Tensor) -> Iterator[dict[str, Tensor]]:
        """The loss of a batch in terms whose sum it is, each to be propagated back before the next is asked for.

        So a method whose loss falls apart by views holds the activations of one view at a time.

        Args:
            batch: the images' views.
            labels: (V, B, h, w) int64 pseudo-labels; those of the over-clustering head, if any, follow: (2 V, B, h, w).

        Yields:
            {"loss": the term to minimise, and its parts by name}, all scalars.
        """
