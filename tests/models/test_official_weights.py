"""Weights as their authors publish them: files in their layouts, made from random networks, and a hub on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save
from tests.inference.hub_server import serving
from torch import Tensor, nn
from torch.nn import functional as F

from picie.errors import InputError
from picie.models.backbones import TimmBackbone

State = dict[str, Tensor]
SHALLOW = {"depth": 3}


def dinov2(state: State) -> State:
    """The layout of dinov2_vits14_pretrain.pth."""
    return state | {"mask_token": torch.zeros(1, 384)}


def dinov2_with_registers(state: State) -> State:
    """The layout of dinov2_vits14_reg4_pretrain.pth: position embeddings have a place for the class token."""
    state = dinov2(state)
    place = torch.randn_like(state["cls_token"])
    positions = torch.cat([place, state.pop("pos_embed")], dim=1)
    return state | {"cls_token": state["cls_token"] - place, "pos_embed": positions, "register_tokens": state.pop("reg_token")}


def dinov3(state: State) -> State:
    """The layout of dinov3_vits16_pretrain_lvd1689m.pth: biases that are 0, masks for them, periods of the rotation."""
    names = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    official: State = {"mask_token": torch.zeros(1, 384), "rope_embed.periods": torch.ones(16)}
    for name, tensor in state.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        official[name] = tensor
        if name.endswith("qkv.weight"):
            for extra in ("bias", "bias_mask"):
                official[name.replace("weight", extra)] = torch.zeros(len(tensor))
    return official


def dinov3_convnext(state: State) -> State:
    """The layout of dinov3_convnext_tiny_pretrain_lvd1689m.pth; `norms.3` is the final norm once more."""
    official: State = {}
    for name, tensor in state.items():
        first, stage, *rest = name.split(".")
        if first == "stem":
            name = ".".join(["downsample_layers.0", stage, *rest])
        elif first == "stages" and rest[0] == "downsample":
            name = ".".join(["downsample_layers", stage, *rest[1:]])
        elif first == "stages":
            name = ".".join(["stages", stage, *rest[1:]]).replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        else:
            name = name.removeprefix("head.")
            official[f"norms.3.{name.removeprefix('norm.')}"] = tensor
        official[name] = tensor
    return official


def tokens(count: int) -> Callable[[nn.Module, Tensor], Tensor]:
    """What the authors read: normalised tokens of the last block, without the first `count`, as a map."""

    def read(network: Any, images: Tensor) -> Tensor:
        patches = network.forward_features(images)[:, count:]
        side = round(patches.shape[1] ** 0.5)
        return patches.transpose(1, 2).unflatten(2, (side, side))

    return read


def last_stage(network: Any, images: Tensor) -> Tensor:
    """The last stage of a ConvNeXt."""
    return network.stages(network.stem(images))


LAYOUTS: dict[str, tuple[Callable[[State], State], Callable[[Any, Tensor], Tensor], dict[str, Any]]] = {
    "vit_small_patch14_dinov2": (dinov2, tokens(1), SHALLOW),
    "vit_small_patch14_reg4_dinov2": (dinov2_with_registers, tokens(5), SHALLOW),
    "vit_small_patch16_dinov3": (dinov3, tokens(5), SHALLOW),
    "convnext_tiny": (dinov3_convnext, last_stage, {"depths": (1, 1, 1, 1)}),
}


def network(name: str, **options: Any) -> Any:
    """A timm network with random weights; scales and offsets are random too, so that each of them matters."""
    torch.manual_seed(0)
    made = timm.create_model(name, num_classes=0, **options).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize(("name", "wrapped"), [*((name, False) for name in LAYOUTS), ("vit_small_patch16_dinov3", True)])
def test_a_file_in_its_authors_layout_gives_their_features(tmp_path: Path, name: str, wrapped: bool) -> None:
    convert, read, options = LAYOUTS[name]
    any_size = {} if name.startswith("convnext") else {"dynamic_img_size": True}
    donor = network(name, **options, **any_size)
    state = convert(donor.state_dict())
    if wrapped:  # as in checkpoints of training
        state = {"teacher": {f"backbone.{name}": tensor for name, tensor in state.items()}}
    torch.save(state, tmp_path / "w.pth")
    backbone = TimmBackbone(name, weights=str(tmp_path / "w.pth"), **options).eval()
    side = 96 if name.startswith("convnext") else 112
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(backbone(images)[-1], read(donor, images), atol=1e-4, rtol=1e-4)


def test_position_embeddings_of_another_size_are_resized(tmp_path: Path) -> None:
    name = "vit_small_patch14_dinov2"
    donor = network(name, img_size=98, **SHALLOW)  # 7 x 7 patches; the backbone has 37 x 37
    torch.save(dinov2(donor.state_dict()), tmp_path / "w.pth")
    loaded = TimmBackbone(name, weights=str(tmp_path / "w.pth"), **SHALLOW).net.state_dict()["model.pos_embed"]
    patches = donor.pos_embed[:, 1:].unflatten(1, (7, 7)).permute(0, 3, 1, 2)
    wanted = F.interpolate(patches, (37, 37), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(loaded[:, 1:], wanted)
    assert torch.equal(loaded[:, :1], donor.pos_embed[:, :1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: {n: t for n, t in state.items() if n != "norm.weight"},
            "of 45 names of the backbone are missing",
        ),
        (lambda state: {n: t for n, t in state.items() if "storage" not in n}, "names of the backbone are missing"),
        (lambda state: {n: t[..., :100] for n, t in state.items()}, "names of the backbone"),
        (lambda state: state | {"norm.bias": state["norm.bias"] * torch.nan}, "norm.bias holds values that are not finite"),
        (
            lambda state: {
                ("layer." if "blocks" in n else "embeddings.") + n.removeprefix("blocks."): t for n, t in state.items()
            },
            "the layout of the transformers library",
        ),
    ],
)
def test_an_official_file_that_does_not_fit_is_one_line(tmp_path: Path, change: Callable[[State], State], message: str) -> None:
    name = "vit_small_patch16_dinov3"
    torch.save(change(dinov3(network(name, **SHALLOW).state_dict())), tmp_path / "w.pth")
    with pytest.raises(InputError, match=message) as error:
        TimmBackbone(name, weights=str(tmp_path / "w.pth"), **SHALLOW)
    assert "\n" not in str(error.value)


def test_weights_come_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    donor = network("test_vit", dynamic_img_size=True)
    images = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    name = "test_vit.r160_in1k"
    with serving(monkeypatch) as hub:
        with pytest.raises(InputError, match=rf"the weights of '{name}' cannot be fetched from the hub .*model\.weights=FILE"):
            TimmBackbone(name)
        hub.files[f"timm/{name}/model.safetensors"] = save(donor.state_dict())
        backbone = TimmBackbone(name).eval()
        assert f"GET /timm/{name}/resolve/main/model.safetensors" in hub.requests
    again = TimmBackbone(name).eval()  # the hub is gone, the file is not
    with torch.no_grad():
        for made in (backbone, again):
            torch.testing.assert_close(made(images)[0], tokens(1)(donor, images))
