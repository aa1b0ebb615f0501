"""A network and a linear classifier of its feature cells: the part of a segmenter without names.

Shapes: B batch, D feature dimension, K clusters, H W pixels, h w feature cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from picie.config import Config
from picie.data.images import whole_size
from picie.inference.enlarging import enlarged_argmax
from picie.methods.losses import prototype_logits
from picie.runtime.device import Engine


class Features(Protocol):
    """The part of a method that a segmenter uses: features of pictures, and the mode."""

    training: bool

    def predict_features(self, images: Tensor) -> Tensor:
        """Return features (B, D, h, w), of any norm, of `images` (B, 3, H, W) in [0, 1]."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Set the mode."""
        ...

    def eval(self) -> Any:
        """Set evaluation mode."""
        ...


class CellClassifier:
    """A network, and the linear classifier that finds the cluster of each of its cells.

    Args:
        method: the method, or another module with `predict_features`.
        classifier: (K, D) weights and (K,) offsets; a cell's cluster is the arg max of its logits.
        config: the run's configuration.
        engine: device and precision.

    Attributes:
        k: the number of clusters, K.
    """

    def __init__(self, method: Features, classifier: tuple[Tensor, Tensor], config: Config, engine: Engine) -> None:
        self.method, self.config, self.engine = method, config, engine
        self.classifier = (classifier[0].to(engine.device), classifier[1].to(engine.device))
        self.k = len(classifier[0])

    def logits(self, images: Tensor) -> Tensor:
        """Return (B, K, h, w) float32 logits of each feature cell.

        `images` are (B, 3, H, W) float32 in [0, 1].
        """
        return prototype_logits(F.normalize(self.method.predict_features(images).float(), dim=1), *self.classifier)

    @torch.inference_mode()
    def clusters(self, pixels: Tensor, size: tuple[int, int]) -> np.ndarray:
        """Return (B, *size) int64 clusters of `pixels` (B, 3, H, W) uint8.

        The logits are enlarged bilinearly to `size` before the arg max.
        """
        return self.clusters_of(self.encode(pixels), size)

    @torch.inference_mode()
    def clusters_of(self, features: Tensor, size: tuple[int, int]) -> np.ndarray:
        """Return (B, *size) int64 clusters of unit-norm `features` (B, D, h, w).

        This is the second half of `clusters`.
        """
        return enlarged_argmax(prototype_logits(features, *self.classifier), size).cpu().numpy()

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """Return unit-norm features (B, D, h, w) float32 of `pixels` (B, 3, H, W) uint8.

        They are on the engine's device.
        """
        training = self.method.training
        self.method.eval()
        z = self.method.predict_features(self.engine.to_images(pixels))
        self.method.train(training)
        return F.normalize(z.float(), dim=1)

    def encode_each(self, pixels: Sequence[Tensor]) -> list[Tensor]:
        """Return the features (1, D, h, w) of each of `pixels`, (1, 3, H, W) uint8 of any sizes.

        Those of the same size form a batch.
        """
        alike: dict[torch.Size, list[int]] = {}
        for index, one in enumerate(pixels):
            alike.setdefault(one.shape, []).append(index)
        features: dict[int, Tensor] = {}
        for indices in alike.values():
            features.update(zip(indices, self.encode(torch.cat([pixels[i] for i in indices])).split(1), strict=True))
        return [features[index] for index in range(len(pixels))]

    def to_pixels(self, image: Image.Image) -> Tensor:
        """Return (1, 3, H, W) uint8 of an RGB picture, with the short side `Config.predict_size`."""
        height, width = whole_size(image.height, image.width, self.config.predict_size)
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.asarray(resized).transpose(2, 0, 1)[None].copy())
