"""The paper's linear decoder: 1x1 laterals and a top-down sum.

Its initialisation by PCA needs no labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from picie.runtime import distributed


class FPN(nn.Module):
    """Projects each level to D channels by a 1x1 convolution and sums them from coarse to fine.

    Coarser levels are enlarged bilinearly. There is no normalisation and no 3x3 convolution.

    Args:
        channels: Channels of each level, fine to coarse.
        dim: D.
    """

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.channels, self.dim = list(channels), dim
        self.laterals = nn.ModuleList(nn.Conv2d(c, dim, 1) for c in channels)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Return (B, D, h, w) at the resolution of the finest level."""
        out: Tensor | None = None
        for lateral, level in zip(reversed(self.laterals), reversed(levels), strict=True):
            projected = lateral(level)
            if out is not None:
                if out.shape[2:] != projected.shape[2:]:
                    out = F.interpolate(out, size=projected.shape[2:], mode="bilinear", align_corners=False)
                projected = projected + out
            out = projected
        assert out is not None
        return out


def channel_blocks(channels: Sequence[int], dim: int) -> list[int]:
    """Return how many of the D channels each level gets, fine to coarse.

    The coarsest level gets half, the next half of the rest, and so on: 16, 16, 32, 64 for D = 128
    and four levels. No level gets more than its number of channels.

    >>> channel_blocks([24, 40, 112, 320], 128)
    [16, 16, 32, 64]
    """
    blocks, remaining = [], dim
    for position, available in enumerate(reversed(channels)):
        is_last = position == len(channels) - 1
        block = min(available, remaining if is_last else remaining // 2)
        blocks.append(block)
        remaining -= block
    return blocks[::-1]


@torch.no_grad()
def pca_start(fpn: FPN, batches: Iterable[Sequence[Tensor]]) -> None:
    """Initialise each lateral with the centred PCA of its level.

    It is divided by the level's total standard deviation. Each level writes to its own block of
    output channels, so the decoder starts as the concatenation of the levels' principal
    components, with about equal energy. Random laterals would discard ImageNet's features.

    Args:
        fpn: The decoder.
        batches: Levels of some images, fine to coarse, (B, C_i, h_i, w_i) each; every process
            passes its own.
    """
    moments = [_Moments(c) for c in fpn.channels]
    for levels in batches:
        for moment, level in zip(moments, levels, strict=True):
            moment.update(level)
    start = 0
    blocks = channel_blocks(fpn.channels, fpn.dim)
    for lateral, moment, block in zip(fpn.laterals, moments, blocks, strict=True):
        assert isinstance(lateral, nn.Conv2d)
        assert lateral.bias is not None
        moment.add_others()
        components, mean, total_std = moment.principal(block)
        weight = torch.zeros(lateral.out_channels, lateral.in_channels, dtype=torch.float64)
        weight[start : start + block] = components / total_std
        lateral.weight.copy_(weight[:, :, None, None].to(lateral.weight))
        lateral.bias.copy_((-weight @ mean).to(lateral.bias))
        start += block


class _Moments:
    """Mean and covariance of C-dimensional vectors, accumulated over batches in float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.sum = torch.zeros(channels, dtype=torch.float64)
        self.outer = torch.zeros(channels, channels, dtype=torch.float64)

    def update(self, level: Tensor) -> None:
        points = level.float().permute(0, 2, 3, 1).reshape(-1, level.shape[1])
        self.count += len(points)
        self.sum += points.sum(0).cpu().double()
        self.outer += (points.T @ points).cpu().double()

    def add_others(self) -> None:
        """Add the moments of the other processes of a run."""
        self.count = sum(distributed.all_gather_object(self.count))
        self.sum, self.outer = distributed.all_reduce_sum(self.sum), distributed.all_reduce_sum(self.outer)

    def principal(self, n: int) -> tuple[Tensor, Tensor, float]:
        """Return the n leading components (n, C), the mean (C,) and the total standard deviation.

        The signs of the components are fixed.
        """
        mean = self.sum / self.count
        covariance = self.outer / self.count - torch.outer(mean, mean)
        _, vectors = torch.linalg.eigh(covariance)
        components = vectors.flip(1)[:, :n].T
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        total_std = float(covariance.trace().clamp(min=1e-12).sqrt())
        return components * largest.sign(), mean, total_std
