"""Features of only the pretrained backbone: its levels, concatenated.

Each level is scaled to the same energy.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from picie.config import ModelConfig
from picie.errors import InputError
from picie.models.extractor import Extractor


class RawFeatures(Extractor):
    """The pretrained backbone's levels as one feature map.

    They are resized bilinearly to the finest and concatenated; `fit` centres and scales them.

    Args:
        config: section [model] of the run whose backbone it is.

    Raises:
        InputError: the run's backbone did not start from pretrained weights, or they are not
            available.
    """

    def __init__(self, config: ModelConfig) -> None:
        if not config.pretrained:
            raise InputError("the run's backbone did not start from pretrained weights (model.pretrained = false)")
        super().__init__(config, pretrained=True)
        del self.fpn
        self.dim = sum(self.backbone.channels)
        self.register_buffer("centre", torch.zeros(self.dim, 1, 1))
        self.register_buffer("scale", torch.ones(self.dim, 1, 1))
        self.centre: Tensor
        self.scale: Tensor

    def predict_features(self, images: Tensor) -> Tensor:
        """Return features (B, D, h, w) float32 of `images` (B, 3, H, W) in [0, 1].

        D is the sum of the levels' channels.
        """
        levels = [level.float() for level in self.levels(images)]
        size = levels[0].shape[2:]
        z = torch.cat([F.interpolate(level, size, mode="bilinear", align_corners=False) for level in levels], dim=1)
        return (z - self.centre) * self.scale

    def fit(self, points: Tensor) -> Tensor:
        """Centre each channel and divide each level by its total standard deviation over `points`.

        Args:
            points: (n, D) features of some cells, as `predict_features` returns them before the
                call.

        Returns:
            (n, D) the same points, as `predict_features` returns them after the call.
        """
        levels = points.var(0, correction=0).split(list(self.backbone.channels))
        scale = torch.cat([level.sum().sqrt().clamp(min=1e-6).reciprocal().expand(len(level)) for level in levels])
        centre = points.mean(0)
        self.centre.copy_(centre[:, None, None])
        self.scale.copy_(scale[:, None, None])
        return (points - centre) * scale
