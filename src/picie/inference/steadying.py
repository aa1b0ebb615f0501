"""Labels of the frames of a video, steadied over time."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from picie.inference.outputs import Maps
from picie.inference.segmenter import Segmenter
from picie.methods.losses import prototype_logits

_CUT = 0.5  # share of the cells that change their cluster at once where the scene changes


class SteadyLabels:
    """Predicts frame after frame from an exponential average of the logits of each cell.

    After n frames of a still scene, an earlier frame counts by `weight` to the power n. At a cut,
    where more than half of the cells change their cluster, the average begins again.

    Args:
        segmenter: the network and its segments.
        weight: the share of the average that stays in each frame, in [0, 1); 0 averages nothing.
    """

    def __init__(self, segmenter: Segmenter, weight: float) -> None:
        self.segmenter, self.weight = segmenter, weight
        self._average: Tensor | None = None

    @torch.inference_mode()
    def predict(self, frame: Image.Image, margin: bool = False) -> Maps:
        """Return the maps (H, W) of the next frame, an image of mode RGB."""
        segmenter = self.segmenter
        logits = prototype_logits(segmenter.encode(segmenter.to_pixels(frame)), *segmenter.classifier)
        return segmenter.maps_of(self._steadied(logits), (frame.height, frame.width), margin)

    def _steadied(self, logits: Tensor) -> Tensor:
        """Return the average (1, K, h, w) with the logits of the next frame."""
        average = self._average
        if average is not None and average.shape == logits.shape:
            changed = (average.max(1).indices != logits.max(1).indices).float().mean()
            if changed <= _CUT:
                logits = torch.lerp(logits, average, self.weight)
        self._average = logits
        return logits
