"""The base class of the methods: features of views and of pictures, and the loss they train with.

A method does not depend on datasets. It receives the views of a batch and their pseudo-labels. It
holds the network and everything that is trained with it, and all of it is saved in the checkpoint.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn import functional as F

from picie import registry
from picie.clustering.kmeans import bias
from picie.config import Config
from picie.errors import InputError
from picie.methods.losses import Loss, Targets
from picie.models.extractor import Extractor
from picie.models.fpn import pca_start
from picie.runtime.profiling import stage
from picie.views.two_views import BatchViews


class Method(nn.Module):
    """Base class of the methods.

    A subclass sets `views` and implements `losses`. To change the features, override `levels` or
    `decode`, which are used by every pass over the views and every prediction. If you override
    `predict_features` instead, nothing is cached between passes. To change the training, override
    `initialize`, `parameter_groups`, `optimizers`, `start_epoch` or `after_step`.

    Args:
        config: the run's configuration.
        network: f, the backbone and the FPN.
        dim: D, the number of channels of the features; None uses that of the network.

    Attributes:
        views: number of views of each image, V.
        over_clusters: whether `losses` trains the over-clustering head of `cluster.over_k`.
        Options: pydantic model of the method's own options, or None.
        section: name of their section in the configuration; None uses the class name in lower case.
        options: the values of `Options`, or None.
        centroids: (V, K, D) centroids of the epoch's clustering, frozen while training.
        prototypes: (K, D) centroids for prediction: the first view's, until `cluster.refit`
            replaces them.
        class_weights: (V, K) weights of the epoch, or None.
        over_centroids: (V, K2, D) centroids of the over-clustering head, or None.
        over_class_weights: (V, K2) weights of that head, or None.

    Raises:
        InputError: `cluster.over_k` is set and the method has no over-clustering head.
    """

    views: ClassVar[int]
    over_clusters: ClassVar[bool] = False
    Options: ClassVar[type[BaseModel] | None] = None
    section: ClassVar[str | None] = None

    def __init__(self, config: Config, network: Extractor, dim: int | None = None) -> None:
        super().__init__()
        k, over_k = config.cluster.k, config.cluster.over_k
        if over_k and not self.over_clusters:
            raise InputError(
                f"cluster.over_k = {over_k}: method={config.method} has no over-clustering head; "
                "leave it out, or use method=picie"
            )
        self.config, self.network = config, network
        self.options: Any = config.options_of(type(self))
        self.dim = network.dim if dim is None else dim
        self.loss = make_loss(config)
        self.register_buffer("centroids", torch.zeros(self.views, k, self.dim))
        self.register_buffer("over_centroids", torch.zeros(self.views, over_k, self.dim) if over_k else None)
        self.register_buffer("prototypes", torch.zeros(k, self.dim))
        self.centroids: Tensor
        self.over_centroids: Tensor | None
        self.prototypes: Tensor
        self.class_weights: Tensor | None = None
        self.over_class_weights: Tensor | None = None

    # Features

    def levels(self, images: Tensor) -> Sequence[Tensor]:
        """Return the feature maps from which `decode` computes the features.

        Passes over the views may cache them.

        Args:
            images: (B, 3, H, W) floating point in [0, 1].

        Returns:
            Maps (B, C_i, h_i, w_i), fine to coarse: by default the backbone's levels.
        """
        levels: Sequence[Tensor] = self.network.levels(images)
        return levels

    def decode(self, levels: Sequence[Tensor]) -> Tensor:
        """Return features (B, D, h, w), of any norm, of the maps that `levels` returned.

        By default they are the FPN's output.
        """
        z: Tensor = self.network.decode(levels)
        return z

    def predict_features(self, images: Tensor) -> Tensor:
        """Return features (B, D, h, w), of any norm, of `images` (B, 3, H, W) in [0, 1].

        Prediction, scoring, the refit, neighbours, the report, the app and the export call this.
        """
        return self.decode(self.levels(images))

    @property
    def caches_levels(self) -> bool:
        """Whether the features are `decode(levels(images))`, so that levels can be cached."""
        return type(self).predict_features is Method.predict_features

    @property
    def has_fixed_levels(self) -> bool:
        """Whether training leaves `levels(images)` as they are, so that they serve every pass of an epoch."""
        return self.caches_levels and self.network.frozen and type(self).levels is Method.levels

    def view_levels(self, batch: BatchViews, view: int) -> Sequence[Tensor]:
        """`levels` of one view's pictures, cached by an earlier pass or computed now."""
        if view in batch.levels:
            return batch.levels[view]
        with stage("augment"):
            pictures = batch.pictures(view)
        with stage("forward"):
            return self.levels(pictures)

    def view_features(self, batch: BatchViews, view: int, levels: Sequence[Tensor] | None = None) -> Tensor:
        """Return the features of one view in the transformed frame (paper, section 3).

        They are (B, D, h, w), of any norm.

        View 0 is f(G(P1 x)): the image is transformed, and the network is applied to it. View 1 is
        G(f(P2 x)): the network is applied first, and its feature map is transformed. Cell (i, j)
        of one view shows the same place as cell (i, j) of the other. Clustering, labelling and
        training all call this.

        Args:
            batch: views of a batch of images.
            view: 0 or 1.
            levels: the result of `view_levels`; None computes it.

        Returns:
            float32, or bfloat16 if the network computes in bfloat16.
        """
        if self.caches_levels:
            levels = self.view_levels(batch, view) if levels is None else levels
            with stage("forward"):
                z = self.decode(levels)
        else:
            with stage("augment"):
                pictures = batch.pictures(view)
            with stage("forward"):
                z = self.predict_features(pictures)
        if view > 0:
            with stage("features"):
                z = batch.draws.geometry.apply(z, (z.shape[2], z.shape[3]))
        return z

    def features(self, batch: BatchViews, view: int) -> Tensor:
        """`view_features` scaled to norm 1, float32."""
        z = self.view_features(batch, view)
        with stage("features"):
            return F.normalize(z.float(), dim=1)

    def prepare(self, device: torch.device, bf16: bool) -> None:
        """Move the method to `device` and let its networks compute in bfloat16, or in float32."""
        for module in self.modules():
            if isinstance(module, Extractor):
                module.prepare(device, bf16)
        self.to(device)

    def folded(self, size: tuple[int, int]) -> contextlib.AbstractContextManager[None]:
        """A context for passes without gradients; see `Extractor.folded`."""
        return self.network.folded(size)

    # Training

    def initialize(self, batches: Iterable[Tensor]) -> None:
        """Prepare a new network for its first epoch.

        By default the FPN's laterals are initialised by PCA.

        Args:
            batches: (B, 3, H, W) whole training images in [0, 1], a few at a time.
        """
        if self.config.model.laterals == "pca":
            pca_start(self.network.fpn, (self.network.levels(images) for images in batches))

    def start_epoch(self, centroids: Tensor, class_weights: Tensor | None, epoch: int) -> None:
        """Take the epoch's clustering: `centroids` (V, K, D) and `class_weights` (V, K) or None."""
        self.centroids.copy_(centroids)
        self.prototypes.copy_(centroids[0])
        self.class_weights = None if class_weights is None else class_weights.to(self.centroids)

    def start_over_head(self, centroids: Tensor, class_weights: Tensor | None) -> None:
        """Take the clustering of the over-clustering head: (V, K2, D), and (V, K2) or None."""
        assert self.over_centroids is not None
        self.over_centroids.copy_(centroids)
        self.over_class_weights = None if class_weights is None else class_weights.to(self.over_centroids)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups of the run's Adam optimiser.

        A group may set its own "lr", from which the schedule starts.

        They hold all parameters that need a gradient and do not belong to one of the `optimizers`:
        by default a group of the backbone's, whose rate is `train.backbone_lr` times `train.lr`,
        and one of all others. With `train.layer_decay` each block of a ViT has groups of its own.
        """
        others = {id(p) for optimizer in self.optimizers() for group in optimizer.param_groups for p in group["params"]}
        own = [p for p in self.parameters() if p.requires_grad and id(p) not in others]
        ids = {id(p) for p in own}
        backbone = {id(p) for p in self.network.backbone.parameters()}
        train = self.config.train
        layers = self.network.layer_rates(train.layer_decay)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in layer if id(p) in ids], "lr": train.lr * train.backbone_lr * rate} for layer, rate in layers
        ]
        return [*groups, {"params": [p for p in own if id(p) not in backbone]}]

    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        """Return the method's own optimisers, in addition to the run's.

        The schedule does not change their learning rates.
        """
        return ()

    def after_step(self) -> None:
        """Called after each training step, once the weights have changed.

        Does nothing by default.
        """

    @abstractmethod
    def losses(self, batch: BatchViews, labels: Tensor) -> Iterator[dict[str, Tensor]]:
        """Yield the terms of a batch's loss; each is backpropagated before the next is computed.

        A method whose loss is a sum over views then holds the activations of one view at a time.

        Args:
            batch: views of the batch's images.
            labels: (V, B, h, w) int64 pseudo-labels; (2 V, B, h, w) with an over-clustering head,
                whose labels are last.

        Yields:
            {"loss": the term to minimise, and its parts by name}, all scalars.
        """

    # Clusters

    @property
    def heads(self) -> list[tuple[Tensor, Tensor | None]]:
        """Return the centroids and class weights of each head.

        The order is that of `cluster.heads` and of the labels.
        """
        heads = [(self.centroids, self.class_weights)]
        if self.over_centroids is not None:
            heads.append((self.over_centroids, self.over_class_weights))
        return heads

    def targets(self, labels: Tensor) -> list[Targets]:
        """Return the targets of the loss for each head, from the `labels` of `losses`."""
        parts = labels.split(self.views)
        return [
            Targets(y, centroids, self.logit_bias(centroids), weights)
            for y, (centroids, weights) in zip(parts, self.heads, strict=True)
        ]

    def logit_bias(self, centroids: Tensor) -> Tensor:
        """Return (..., K) offsets of the logits of `centroids` (..., K, D).

        With the euclidean metric they give the nearest centroid the largest logit; otherwise they
        are 0.
        """
        return bias(centroids) if self.config.cluster.metric == "euclidean" else torch.zeros_like(centroids[..., 0])

    def classifier(self) -> tuple[Tensor, Tensor]:
        """Return (K, D) weights and (K,) offsets of the logits.

        The predicted cluster of a cell is the arg max of its logits.
        """
        return self.prototypes, self.logit_bias(self.prototypes)

    @property
    def predicts_by_prototypes(self) -> bool:
        """Whether `classifier` returns the `prototypes`, so that the refit has an effect."""
        return True


def build_method(config: Config, pretrained: bool | None = None) -> Method:
    """Build the method that `config` names, with its network.

    Args:
        config: the run's configuration.
        pretrained: whether to load the backbone's weights; None is `model.pretrained`, False leaves
            them to a checkpoint that is loaded next.

    Raises:
        InputError: an unknown name, or options or weights that do not fit.
    """
    method_class: type[Method] = registry.find(registry.METHODS, config.method, "method")
    return method_class(config, Extractor(config.model, pretrained))


def make_loss(config: Config) -> Loss:
    """Build the loss that `loss.name` names.

    Raises `InputError` for an unknown name or invalid options.
    """
    make = registry.find(registry.LOSSES, config.loss.name, "loss.name")
    loss: Loss = registry.call(make, "loss.options", config.loss.options, config.loss)
    return loss
