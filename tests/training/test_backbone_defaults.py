"""Options whose default depends on the backbone."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from picie.config import Config, from_dict, load, preset_text
from picie.errors import InputError
from picie.inference.segmenter import Segmenter
from picie.methods.base import build_method
from picie.models import timm_models
from picie.models.catalogue import KNOWN, VIEW_CELLS
from picie.runtime import checkpoint
from picie.training import api
from picie.training.backbone_defaults import with_backbone_defaults

VIT = "model.backbone=test_vit"  # 6 blocks of 64 channels, a patch of 16 px
OWN = "model.backbone=tests.test_extension:ToyBackbone"
RANDOM = "model.pretrained=false"


def resolved(*options: str) -> Config:
    return with_backbone_defaults(load(None, None, options))


@pytest.mark.parametrize(
    ("options", "size", "freeze", "backbone_lr", "layer_decay"),
    [
        ((), 160, True, 1.0, 1.0),
        (("model.backbone=resnet18",), 160, True, 1.0, 1.0),
        (("model.freeze=false",), 160, False, 1.0, 1.0),
        ((RANDOM,), 160, False, 1.0, 1.0),
        ((RANDOM, "model.freeze=true"), 160, True, 1.0, 1.0),
        ((OWN,), 160, False, 1.0, 1.0),
        ((OWN, "model.weights=own.pth"), 160, True, 1.0, 1.0),
        (("model.backbone=dinov3-s",), 448, True, 1.0, 1.0),
        (("model.backbone=dinov2-b",), 392, True, 1.0, 1.0),
        ((VIT,), 448, True, 1.0, 1.0),
        ((VIT, "views.crop=320"), 320, True, 1.0, 1.0),
        ((VIT, "views.size=160"), 160, True, 1.0, 1.0),
        ((VIT, "model.freeze=false"), 448, False, 1e-5 / 3e-5, 0.75),
        ((VIT, "model.freeze=false", "train.lr=1e-3"), 448, False, 0.01, 0.75),
        ((VIT, "model.freeze=false", "train.backbone_lr=1.0", "train.layer_decay=1.0"), 448, False, 1.0, 1.0),
        ((VIT, RANDOM), 448, False, 1.0, 1.0),
    ],
)
def test_what_is_not_set_follows_the_backbone(
    options: tuple[str, ...], size: int, freeze: bool, backbone_lr: float, layer_decay: float
) -> None:
    config = resolved(*options)
    assert (config.views.size, config.model.freeze) == (size, freeze)
    assert config.train.backbone_lr == pytest.approx(backbone_lr)
    assert config.train.layer_decay == layer_decay
    assert config.evaluate.scale == (1.0 if size != 160 or "vit" in config.model.backbone else 2.0)
    assert with_backbone_defaults(config) == config


def test_a_complete_configuration_stays_as_it_is() -> None:
    """A run's own configuration is complete, so resuming and scoring it ask nothing of the backbone."""
    complete = from_dict(resolved().model_dump(mode="json") | {"model": {"backbone": "no such", "freeze": False}})
    assert with_backbone_defaults(complete) is complete


def test_another_process_gets_the_same_defaults() -> None:
    config = load(None, None, [VIT])
    assert with_backbone_defaults(pickle.loads(pickle.dumps(config))) == with_backbone_defaults(config)


def test_an_unknown_backbone_is_named() -> None:
    with pytest.raises(InputError, match="did you mean 'dinov3-s'"):
        resolved("model.backbone=dinov3_s")


def test_a_vit_trains_frozen_and_says_so(tiny: Callable[..., Config], tmp_path: Path, told: list[str]) -> None:
    run = api.train(tiny(VIT, "views.size=96", "train.epochs=1", "model.freeze=true"), tmp_path / "run")
    text = "\n".join(told)
    assert "test_vit: 6 x 6 cells of 16 px for a view of 96 px; frozen" in text
    assert "views.size = 96 gives test_vit only 6 x 6 cells; small objects are lost: give --size 448 or more" in text
    config = checkpoint.load(run)["config"]
    assert (config["model"]["freeze"], config["views"]["size"]) == (True, 96)
    assert Segmenter.load(run, "cpu").method.network.frozen


def test_d_shrinks_to_what_the_levels_have(tiny: Callable[..., Config], tmp_path: Path, told: list[str]) -> None:
    config = tiny("train.epochs=0", "model.dim=500", "model.backbone_options={levels = 1}")
    run = api.train(config, tmp_path / "run")
    network = Segmenter.load(run, "cpu").method.network
    (channels,) = network.backbone.channels
    assert network.dim == channels < 500
    assert f"model.dim = 500: the backbone's levels have fewer principal components, so D = {channels}" in "\n".join(told)
    weight = network.fpn.laterals[0].weight
    assert (weight.abs().sum((1, 2, 3)) > 0).all()  # no output is wasted


def test_the_blocks_of_a_trained_vit_have_rates_that_fall_with_depth() -> None:
    config = resolved(VIT, "model.freeze=false", "train.layer_decay=0.5")
    method = build_method(config, pretrained=False)
    groups = method.parameter_groups()
    names = {id(p): name for name, p in method.named_parameters()}
    rates = {names[id(p)]: group.get("lr", config.train.lr) for group in groups for p in group["params"]}
    assert sorted(rates) == sorted(name for name, p in method.named_parameters() if p.requires_grad)  # each once
    block = "network.backbone.net.model.blocks.{}.attn.qkv.weight".format
    depth = len(method.network.backbone.net.model.blocks)
    for i in range(depth - 1):
        assert rates[block(i)] == pytest.approx(rates[block(i + 1)] / 2)
    assert rates["network.backbone.net.model.norm.weight"] == pytest.approx(1e-5)
    assert rates["network.fpn.laterals.0.weight"] == config.train.lr


def test_layer_decay_of_a_pyramid_is_refused() -> None:
    method = build_method(resolved(RANDOM, "model.backbone=test_efficientnet", "train.layer_decay=0.5"))
    with pytest.raises(InputError, match=r"train\.layer_decay is for the blocks of a ViT"):
        method.parameter_groups()


@pytest.mark.parametrize("preset", ["dinov2", "dinov3"])
def test_the_presets_of_vits_set_what_belongs_together(preset: str) -> None:
    config, plain = load(preset), load(None)
    known = KNOWN[config.model.backbone]
    assert known.is_vit
    assert config.views.size % known.strides[0] == 0
    assert config.views.size // known.strides[0] >= VIEW_CELLS
    assert (config.model.freeze, config.model.backbone_options) == (True, {"levels": 1})
    assert 0 < config.loss.temperature < plain.loss.temperature
    megabytes = f"({known.megabytes} MB, "
    assert megabytes in preset_text(preset)


@pytest.mark.parametrize("backbone", ["levit_128s", "test_vit"])
def test_a_backbone_of_one_size_is_refused_before_its_weights_are_fetched(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, backbone: str
) -> None:
    fetched: list[str] = []

    def fetch(name: str, **_: Any) -> None:
        fetched.append(name)
        raise InputError("no hub here")

    monkeypatch.setattr(timm_models, "_fetch", fetch)
    one_size = backbone == "levit_128s"
    with pytest.raises(
        InputError, match="'levit_128s' cannot take images of 32x32 pixels" if one_size else "no hub here"
    ) as error:
        api.check(tiny(f"model.backbone={backbone}", "model.pretrained=true"))
    assert "\n" not in str(error.value)
    assert len(fetched) == (0 if one_size else 1)
