"""The backbone's levels as features, against a restatement in NumPy and SciPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from picie.config import ModelConfig
from picie.errors import InputError
from picie.models.backbones import build_backbone
from picie.models.raw_levels import RawFeatures


@pytest.fixture
def config(tmp_path: Path) -> ModelConfig:
    torch.manual_seed(3)
    save_file(timm.create_model("test_efficientnet").state_dict(), tmp_path / "w.safetensors")
    return ModelConfig(backbone="test_efficientnet", weights=str(tmp_path / "w.safetensors"))


def enlarged(level: np.ndarray, side: int) -> np.ndarray:
    """(B, C, side, side) of (B, C, h, h): linear interpolation between cell centres, constant beyond the outer ones."""
    h = level.shape[2]
    centres = (np.arange(h) + 0.5) / h
    at = (np.arange(side) + 0.5) / side
    weights = np.stack([np.interp(at, centres, row) for row in np.eye(h)], axis=1)
    return np.einsum("yh,xw,bchw->bcyx", weights, weights, level)


def test_levels_are_enlarged_concatenated_centred_and_scaled(config: ModelConfig) -> None:
    network = RawFeatures(config).eval()
    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    backbone = build_backbone(config, True).eval()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.mean, backbone.std))
    with torch.no_grad():
        levels = [enlarged(level.double().numpy(), 16) for level in backbone((images - mean) / std)]
        before = network.predict_features(images)
        assert before.shape == (5, network.dim, 16, 16)
        np.testing.assert_allclose(before.numpy(), np.concatenate(levels, 1), atol=1e-4)
        points = network.fit(before.permute(0, 2, 3, 1).flatten(0, 2))
        after = network.predict_features(images)
    np.testing.assert_allclose(points.numpy(), after.permute(0, 2, 3, 1).flatten(0, 2).numpy(), atol=1e-4)
    normalised = []
    for level in levels:
        centred = level - level.mean((0, 2, 3), keepdims=True)
        normalised.append(centred / np.sqrt((centred**2).sum(1).mean()))
    np.testing.assert_allclose(after.numpy(), np.concatenate(normalised, 1), atol=1e-3)


def test_it_is_the_backbone_as_it_was_pretrained(config: ModelConfig) -> None:
    network, state = RawFeatures(config), build_backbone(config, True).state_dict()
    for name, tensor in network.backbone.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert not [name for name, _ in network.named_parameters() if not name.startswith("backbone.")]


def test_a_level_that_says_nothing_stays_finite(config: ModelConfig) -> None:
    network = RawFeatures(config).eval()
    points = network.fit(torch.full((10, network.dim), 3.0))
    assert not points.any()
    assert torch.isfinite(F.normalize(points, dim=1)).all()


def test_without_pretrained_weights_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did not start from pretrained weights"):
        RawFeatures(ModelConfig(backbone="test_efficientnet", pretrained=False))
    with pytest.raises(InputError, match="no such file"):
        RawFeatures(ModelConfig(backbone="test_efficientnet", weights=str(tmp_path / "gone.pth")))
