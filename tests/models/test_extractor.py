"""From pixels to features: normalisation, freezing, precision."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from picie.config import ModelConfig
from picie.models.extractor import Extractor


def extractor(**options: object) -> Extractor:
    torch.manual_seed(0)
    return Extractor(ModelConfig(**({"backbone": "test_efficientnet", "dim": 8, "pretrained": False} | options)))


def images(side: int = 64) -> torch.Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_it_is_normalisation_then_backbone_then_decoder() -> None:
    net, x = extractor().eval(), images()
    assert (net.dim, net.stride) == (8, min(net.backbone.strides))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (net.backbone.mean, net.backbone.std))
    levels = net.backbone((x - mean) / std)
    out = net(x)
    torch.testing.assert_close(out, net.fpn(levels))
    assert out.shape == (2, 8, 64 // net.stride, 64 // net.stride)
    for got, expected in zip(net.levels(x), levels, strict=True):
        torch.testing.assert_close(got, expected)


def test_the_backbones_own_statistics_are_used() -> None:
    """tf_efficientnet_lite0 was trained on values in [-1, 1], ResNet-18 on ImageNet's mean and deviation."""
    for name, mean, std in (
        ("tf_efficientnet_lite0", [0.5] * 3, [0.5] * 3),
        ("resnet18", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ):
        net = extractor(backbone=name)
        assert net.input_mean.flatten().tolist() == pytest.approx(mean)
        assert net.input_std.flatten().tolist() == pytest.approx(std)


def test_a_frozen_backbone_stays_in_eval_and_gets_no_gradient() -> None:
    net = extractor(freeze=True).train()
    assert net.fpn.training
    assert not any(m.training for m in net.backbone.modules())
    before = {name: value.clone() for name, value in net.backbone.state_dict().items()}
    out = net(images())
    assert out.requires_grad
    F.normalize(out, dim=1)[:, 0].sum().backward()
    assert all(p.grad is None for p in net.backbone.parameters())
    assert all(p.grad is not None for p in net.fpn.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.backbone.state_dict().items())
    assert not net.eval().train().backbone.training


def test_a_free_backbone_trains() -> None:
    net = extractor().train()
    assert all(m.training for m in net.backbone.modules())
    F.normalize(net(images()), dim=1)[:, 0].sum().backward()
    assert all(p.grad is not None for p in net.backbone.parameters())
    with torch.no_grad():
        assert not net(images()).requires_grad


def test_features_are_float32_under_bf16_and_close() -> None:
    net, x = extractor().eval(), images()
    full = net(x)
    net.autocast_to = torch.bfloat16
    assert net.levels(x)[0].dtype == torch.bfloat16
    low = net(x)
    assert low.dtype == torch.float32
    assert 0.99 < F.cosine_similarity(low.flatten(), full.flatten(), dim=0) < 1 - 1e-9


def test_buffers_of_the_input_are_no_weights() -> None:
    """They belong to the backbone's name, and a checkpoint need not carry them."""
    assert not any("input" in name for name in extractor().state_dict())
