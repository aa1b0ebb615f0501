"""Every backbone of the catalogue is what it states; its network is made without memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch.overrides import TorchFunctionMode

from picie.models.backbones import TimmBackbone
from picie.models.catalogue import KNOWN, SHIPPED

DRAWS = {"uniform_", "normal_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_"}


class Undrawn(TorchFunctionMode):
    """Leaves out the draws of initial weights, which on the meta device take most of the time."""

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in DRAWS:
            return next(iter((*args, *(kwargs or {}).values())))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", KNOWN)
def test_timm_has_the_weights_under_the_stated_licence(name: str) -> None:
    known = KNOWN[name]
    model, _, tag = known.timm.partition(".")
    assert tag
    assert timm.is_model(model)
    weights = timm.get_pretrained_cfg(known.timm)
    assert weights is not None  # timm knows the tag
    assert weights.hf_hub_id == f"timm/{known.timm}"
    assert weights.license == known.licence


@pytest.mark.parametrize("name", KNOWN)
def test_it_has_the_stated_size_and_gives_the_stated_levels(name: str) -> None:
    known = KNOWN[name]
    with torch.device("meta"), Undrawn():
        backbone = TimmBackbone(name, pretrained=False).eval()
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(known.millions, abs=0.051)
    assert (tuple(backbone.strides), tuple(backbone.channels)) == (known.strides, known.channels)
    assert backbone.patch_tokens == known.is_vit == (len(known.strides) == 1)
    assert len(backbone.mean) == len(backbone.std) == 3
    rows, columns = 2, 3  # cells of the coarsest level
    size = (rows * known.strides[-1], columns * known.strides[-1])
    with torch.no_grad():
        levels = backbone(torch.empty(1, 3, *size, device="meta"))
    for level, stride, channels in zip(levels, known.strides, known.channels, strict=True):
        assert level.shape == (1, channels, size[0] // stride, size[1] // stride)


@pytest.mark.parametrize("name", ["mobilenetv4-s", "fastvit-t8", "pe-spatial-t", "eupe-t", SHIPPED])
def test_small_ones_compute_finite_features_with_random_weights(name: str) -> None:
    backbone = TimmBackbone(name, pretrained=False).eval()
    with torch.no_grad():
        levels = backbone(torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)))
    assert [level.shape[1] for level in levels] == list(KNOWN[name].channels)
    assert all(level.isfinite().all() and level.std() > 0 for level in levels)
