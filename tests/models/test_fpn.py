"""The decoder against a plain restatement, and its PCA start against scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional as F

from picie.models.fpn import FPN, channel_blocks, pca_start


def features(channels: Sequence[int], sides: Sequence[int], batch: int = 2, seed: int = 0) -> list[Tensor]:
    """Levels with correlated channels, a mean, and an energy of their own each."""
    g = torch.Generator().manual_seed(seed)
    mixing = torch.Generator().manual_seed(99)
    levels = []
    for i, (c, side) in enumerate(zip(channels, sides, strict=True)):
        mix = torch.randn(c, c, generator=mixing) * torch.linspace(2, 0.1, c)[:, None]
        noise = torch.randn(batch, side, side, c, generator=g)
        levels.append(((noise @ mix + 3 * torch.randn(c, generator=mixing)) * 10.0**i).permute(0, 3, 1, 2).contiguous())
    return levels


def points(level: Tensor) -> np.ndarray:
    return level.permute(0, 2, 3, 1).flatten(0, 2).double().numpy()


def test_it_is_a_plain_top_down_sum() -> None:
    """out = L1 + up(L2 + up(L3 + up(L4))), with no norm, no 3x3 and nothing else."""
    channels, sides = [3, 5, 7, 9], [12, 6, 3, 2]
    fpn, levels = FPN(channels, 4), features(channels, sides)
    out = torch.zeros(2, 4, 2, 2)
    for i in (3, 2, 1, 0):
        lateral = torch.einsum("oc,bchw->bohw", fpn.laterals[i].weight[:, :, 0, 0], levels[i])
        lateral = lateral + fpn.laterals[i].bias[None, :, None, None]
        out = lateral + F.interpolate(out, sides[i], mode="bilinear", align_corners=False)
    torch.testing.assert_close(fpn(levels), out, rtol=1e-4, atol=1e-2)
    assert sum(p.numel() for p in fpn.parameters()) == sum(4 * c + 4 for c in channels)


def test_it_is_affine_and_each_level_counts() -> None:
    channels = [3, 5]
    fpn, a, b = FPN(channels, 4).double(), *(features(channels, [6, 3], seed=s) for s in (0, 1))
    a, b = [level.double() for level in a], [level.double() for level in b]
    both = fpn([x + y for x, y in zip(a, b, strict=True)]) + fpn([torch.zeros_like(x) for x in a])
    torch.testing.assert_close(both, fpn(a) + fpn(b))
    for i in range(2):
        silenced = [torch.zeros_like(level) if j == i else level for j, level in enumerate(a)]
        assert (fpn(silenced) - fpn(a)).abs().amax((2, 3)).min() > 1e-3


def test_the_start_is_the_concatenation_of_standardised_pca_projections() -> None:
    channels, sides = [6, 8, 10, 40], [9, 9, 9, 9]
    levels = features(channels, sides)
    fpn = FPN(channels, 32)
    pca_start(fpn, [[level[:1] for level in levels], [level[1:] for level in levels]])
    out = points(fpn(levels).detach())
    blocks = channel_blocks(channels, 32)
    assert blocks == [4, 4, 8, 16]
    start = 0
    for level, block in zip(levels, blocks, strict=True):
        x = points(level)
        expected = PCA(block).fit_transform(x) / np.sqrt(x.var(0).sum())
        got = out[:, start : start + block]
        signs = np.sign((got * expected).sum(0))
        np.testing.assert_allclose(got * signs, expected, atol=2e-3)
        start += block


def test_equal_energy_where_nothing_is_cut_off() -> None:
    """A level that keeps all its components has variance 1 in all, whatever its scale was."""
    channels = [4, 4, 8, 16]
    levels = features(channels, [16, 16, 16, 16], batch=3)
    fpn = FPN(channels, 32)
    pca_start(fpn, [levels])
    out = points(fpn(levels).detach())
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-3)
    edges = np.cumsum([0, *channel_blocks(channels, 32)])
    for a, b in pairwise(edges):
        assert out[:, a:b].var(0).sum() == pytest.approx(1, rel=1e-3)
        assert (np.diff(out[:, a:b].var(0)) < 1e-6).all()  # leading components first


def test_signs_are_fixed_and_batches_only_add_up() -> None:
    channels, levels = [6, 8], features([6, 8], [8, 4], batch=4)
    weights = []
    for cut in ([levels], [[x[i : i + 1] for x in levels] for i in range(4)]):
        fpn = FPN(channels, 8)
        pca_start(fpn, cut)
        weights.append(torch.cat([lateral.weight[:, :, 0, 0] for lateral in fpn.laterals], dim=1))
    torch.testing.assert_close(weights[0], weights[1], atol=1e-4, rtol=1e-3)
    for lateral in fpn.laterals:
        rows = lateral.weight[:, :, 0, 0]
        rows = rows[rows.abs().sum(1) > 0]
        assert (rows.gather(1, rows.abs().argmax(1, keepdim=True)) > 0).all()


def test_each_level_writes_to_channels_of_its_own_and_still_trains_all() -> None:
    channels, levels = [6, 8], features([6, 8], [8, 4])
    fpn = FPN(channels, 10)
    pca_start(fpn, [levels])
    writes = torch.stack([lateral.weight.abs().sum((1, 2, 3)) > 0 for lateral in fpn.laterals])
    assert (writes.sum(0) == 1).all()
    fpn(levels).square().sum().backward()
    assert all(lateral.weight.grad is not None for lateral in fpn.laterals)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=5), st.integers(1, 300))
def test_blocks_fill_the_dimension_as_far_as_channels_allow(channels: list[int], dim: int) -> None:
    blocks = channel_blocks(channels, dim)
    assert len(blocks) == len(channels)
    assert all(0 <= block <= c for block, c in zip(blocks, channels, strict=True))
    assert sum(blocks) <= dim
    if all(c >= dim for c in channels):
        assert sum(blocks) == dim


@pytest.mark.parametrize(
    ("channels", "dim", "blocks"),
    [
        ([64, 128, 256, 512], 128, [16, 16, 32, 64]),  # ResNet-18
        ([256, 512, 1024, 2048], 256, [32, 32, 64, 128]),
        ([192] * 4, 128, [16, 16, 32, 64]),
        ([10], 4, [4]),
        ([24, 40, 112, 20], 128, [24, 27, 54, 20]),  # what the coarsest cannot use goes to the others
    ],
)
def test_blocks_by_hand(channels: list[int], dim: int, blocks: list[int]) -> None:
    assert channel_blocks(channels, dim) == blocks
