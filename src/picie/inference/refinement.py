"""Labels whose borders follow the edges of the picture: `picie predict --refine`.

The probabilities of the clusters are enlarged to the picture's own resolution, and each is filtered
by a guided filter (He, Sun and Tang, 2013), which fits it by a linear function of the picture's
colours around each pixel.

Shapes: K clusters, h w feature cells, H W pixels.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from picie.errors import InputError
from picie.inference.enlarging import cells_near, enlarged_argmax
from picie.inference.segmenter import Segmenter
from picie.methods.losses import prototype_logits

_RADIUS = 1 / 11  # of the filter, as a share of the short side; smaller ones gain less on CamVid
_EPS = 1e-3  # variance of colours in [0, 1] below which the picture counts as flat
_DETAIL = 8  # the fit is computed at a resolution at which the radius has about so many pixels
_BLOCK = 768  # pixels, side of the parts that are filtered at once, without their surroundings


def check_available() -> None:
    """Raise `InputError` unless kornia is installed (the extra `refine`)."""
    if importlib.util.find_spec("kornia") is None:
        raise InputError("--refine needs kornia; pip install 'picie[refine]'")


@torch.inference_mode()
def refined_labels(segmenter: Segmenter, image: Image.Image) -> np.ndarray:
    """Return the refined label map (H, W) of an RGB image, uint8, or uint16 for more than 256 values."""
    logits = prototype_logits(segmenter.encode(segmenter.to_pixels(image)), *segmenter.classifier)
    probabilities = (logits[0] / segmenter.mixture.temperature).softmax(0)
    clusters = refined_clusters(probabilities, image).cpu().numpy()
    return segmenter.values(clusters)


def refined_clusters(probabilities: Tensor, image: Image.Image) -> Tensor:
    """Return (H, W) int64 the most probable cluster of each pixel.

    Args:
        probabilities: (K, h, w) float32.
        image: the picture, of mode RGB.
    """
    from kornia.filters import guided_blur

    _, h, w = probabilities.shape
    step = (h / image.height, w / image.width)
    radius = round(_RADIUS * min(image.size))
    if radius < 2:  # a picture of a few pixels
        return enlarged_argmax(probabilities[None], (image.height, image.width))[0]
    coarse = max(1, radius // _DETAIL)
    # a multiple of `coarse`, so that the cells of the fit are the same in all parts
    margin = -(-2 * radius // coarse) * coarse
    block = -(-_BLOCK // coarse) * coarse
    result = torch.empty(image.height, image.width, dtype=torch.int64, device=probabilities.device)
    for top in range(0, image.height, block):
        for left in range(0, image.width, block):
            bottom, right = min(top + block, image.height), min(left + block, image.width)
            box = (
                max(0, left - margin),
                max(0, top - margin),
                min(right + margin, image.width),
                min(bottom + margin, image.height),
            )
            near_columns, across = cells_near(box[0], box[2], step[1], 0, w)
            near_rows, down = cells_near(box[1], box[3], step[0], 0, h)
            part = down.to(probabilities) @ probabilities[:, near_rows, near_columns] @ across.T.to(probabilities)
            guide = torch.from_numpy(np.asarray(image.crop(box)).copy()).to(part).permute(2, 0, 1)[None] / 255
            filtered = guided_blur(guide, part[None], 2 * radius + 1, _EPS, subsample=coarse)[0]
            inner = filtered[:, top - box[1] : bottom - box[1], left - box[0] : right - box[0]]
            result[top:bottom, left:right] = inner.max(0).indices
    return result
