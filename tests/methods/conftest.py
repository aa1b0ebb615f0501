"""Networks small enough to know what they do, and frames whose colours tell where they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from picie.config import Config, from_dict
from picie.views.two_views import BatchViews, TwoViews

STRIDE = 4


class Plain(nn.Module):
    """A network whose one level is its output."""

    def levels(self, images: Tensor) -> list[Tensor]:
        out: Tensor = self(images)
        return [out]

    def decode(self, levels: Sequence[Tensor]) -> Tensor:
        return levels[0]


class PoolNet(Plain):
    """4x4 mean pooling: features are mean colours, so it is equivariant and has nothing to train."""

    dim, stride = 3, STRIDE

    def forward(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images, STRIDE)


class ConvNet(Plain):
    """One strided convolution to D = 6."""

    dim, stride = 6, STRIDE

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, self.dim, STRIDE, STRIDE)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            self.conv.weight.copy_(torch.randn(self.conv.weight.shape, generator=generator) / 4)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.conv(images - 0.5)
        return out


@pytest.fixture
def pool_network() -> nn.Module:
    return PoolNet()


@pytest.fixture
def network() -> nn.Module:
    return ConvNet()


@pytest.fixture
def configure() -> Callable[..., Config]:
    """configure(section={...}, ...): a configuration with views of 32, K = 5 and these values."""

    def make(**sections: dict) -> Config:
        base: dict[str, dict] = {"views": {"size": 32}, "cluster": {"k": 5}}
        return from_dict(
            {
                **({"method": "mdc"} if "mdc" in sections else {}),
                **{k: base.get(k, {}) | sections.get(k, {}) for k in base.keys() | sections.keys()},
            }
        )

    return make


@pytest.fixture
def batch(configure: Callable[..., Config]) -> Callable[..., tuple[BatchViews, Tensor, Tensor]]:
    """batch(views, dim): their views, labels (V, B, h, w) and unit-norm centroids (V, K, D) for three images."""

    def make(views: int, dim: int) -> tuple[BatchViews, Tensor, Tensor]:
        g = torch.Generator().manual_seed(7)
        options = configure().views
        draws = TwoViews(options.invariance, options.equivariance, 0).draw(2, [4, 0, 9], views)
        labels = torch.randint(0, 5, (views, 3, 8, 8), generator=g)
        centroids = F.normalize(torch.randn(views, 5, dim, generator=g), dim=2)
        return BatchViews(draws, options.view_size, torch.rand(3, 3, 64, 64, generator=g)), labels, centroids

    return make
