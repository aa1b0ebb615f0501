"""The backbone contract over several families, and where weights come from; nothing in a file is ever run."""

from __future__ import annotations

import functools
import pickle
import time
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torch.nn import functional as F

from picie.config import Config, ModelConfig
from picie.errors import InputError
from picie.methods.base import Method, build_method
from picie.models.backbones import TimmBackbone, build_backbone, shipped_weights
from picie.models.fpn import FPN
from picie.models.weight_files import read_state_dicts
from picie.runtime.device import Engine
from picie.training.checks import feature_size

CONTRACT = {  # name: strides, channels of the last four levels
    "tf_efficientnet_lite0": ([4, 8, 16, 32], [24, 40, 112, 320]),
    "resnet18": ([4, 8, 16, 32], [64, 128, 256, 512]),
    "convnext_atto": ([4, 8, 16, 32], [40, 80, 160, 320]),
    "efficientnet_b0": ([4, 8, 16, 32], [24, 40, 112, 320]),
    "mobilenetv3_small_050": ([4, 8, 16, 32], [8, 16, 24, 288]),
    "vit_tiny_patch16_224": ([16], [192]),
    "swin_tiny_patch4_window7_224": ([4, 8, 16, 32], [96, 192, 384, 768]),
}
TINY = "test_efficientnet"
FEWER_BLOCKS = {"swin_tiny_patch4_window7_224": {"depths": (1, 1, 2, 1)}, "vit_tiny_patch16_224": {"depth": 3}}


@functools.cache
def built(name: str) -> TimmBackbone:
    """The backbone of that name, with few blocks and random weights. Use it, and change nothing."""
    return TimmBackbone(name, pretrained=False, **FEWER_BLOCKS.get(name, {})).eval()


def images(*size: int) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CONTRACT)
def test_contract(name: str) -> None:
    backbone = built(name)
    assert (backbone.strides, backbone.channels) == CONTRACT[name]
    assert len(backbone.mean) == len(backbone.std) == 3
    for size in ((96, 64), (96, 128)):
        with torch.no_grad():
            maps = backbone(images(*size))
        for level, stride, channels in zip(maps, backbone.strides, backbone.channels, strict=True):
            assert level.shape == (2, channels, size[0] // stride, size[1] // stride)


PYRAMIDS = ["resnet18", "tf_efficientnet_lite0", "mobilenetv3_small_050"]


@pytest.mark.parametrize("name", [*PYRAMIDS, "swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize(
    ("size", "resized"), [((75, 101), (64, 96)), ((160, 213), (160, 224)), ((96, 128), (96, 128)), ((7, 50), (32, 64))]
)
def test_every_level_spans_the_nearest_multiple_of_the_coarsest_stride(
    name: str, size: tuple[int, int], resized: tuple[int, int]
) -> None:
    backbone = built(name)
    x = images(*size)
    with torch.no_grad():
        maps = backbone(x)
        expected = backbone.net(F.interpolate(x, resized, mode="bilinear", antialias=True) if size != resized else x)
    for level, wanted, stride in zip(maps, expected, backbone.strides, strict=True):
        assert level.shape[2:] == (resized[0] // stride, resized[1] // stride)
        torch.testing.assert_close(level, wanted.permute(0, 3, 1, 2) if name.startswith("swin") else wanted)


class MeanPyramid(nn.Module):
    """Stands in for a network: the mean colour of each cell; cells round up, as those of convolutions do."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(x, stride, ceil_mode=True, count_include_pad=False) for stride in (4, 8, 16, 32)]


def only(fpn: FPN, levels: list[Tensor], which: int) -> Tensor:
    """What one level gives the decoder."""
    return fpn([level if i == which else torch.zeros_like(level) for i, level in enumerate(levels)])


@pytest.mark.parametrize("size", [(160, 213), (213, 160), (75, 101), (109, 147)])
def test_every_cell_of_every_level_sees_its_own_part_of_the_image(size: tuple[int, int]) -> None:
    """On an image that says where each pixel is, relative to height and width, each feature cell says where it is."""
    backbone = TimmBackbone(TINY, pretrained=False)
    backbone.net = MeanPyramid()
    fpn = FPN([3] * 4, 3)
    for lateral in fpn.laterals:
        lateral.weight.data = torch.eye(3)[:, :, None, None]
        nn.init.zeros_(lateral.bias)

    def places(height: int, width: int) -> Tensor:
        y, x = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
        return torch.stack([y[:, None].expand(height, width), x.expand(height, width), torch.zeros(height, width)])

    with torch.no_grad():
        levels = backbone(places(*size)[None])
        for which, stride in enumerate(backbone.strides):
            out = only(fpn, levels, which)[0]
            edge = stride // 4 - 1  # cells that enlargement repeats the outermost coarse ones for
            inner = (slice(None), *(slice(edge, n - edge) for n in out.shape[1:]))
            torch.testing.assert_close(out[inner], places(*out.shape[1:])[inner], atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", PYRAMIDS)
@pytest.mark.parametrize("place", [(0.3, 0.25), (0.6, 0.75)])
def test_an_impulse_stays_at_its_place_at_an_odd_size(name: str, place: tuple[float, float]) -> None:
    """The decoder's answer to a spot is where it is at a size that the strides divide (networks shift it a bit, always)."""
    torch.manual_seed(0)
    backbone = TimmBackbone(name, pretrained=name == "tf_efficientnet_lite0").eval()
    fpn = FPN(backbone.channels, 8)

    def answers(height: int, width: int) -> Tensor:
        """(4, 2) relative centres of the answers, by level."""
        y, x = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
        spot = 2 * torch.exp(-(((y[:, None] - place[0]) / 0.04) ** 2 + ((x - place[1]) / 0.04) ** 2) / 2)
        with torch.no_grad():
            on, off = backbone(spot.expand(1, 3, height, width)), backbone(torch.zeros(1, 3, height, width))
            centers = []
            for which in range(4):
                energy = (only(fpn, on, which) - only(fpn, off, which)).square().sum((0, 1))
                h, w = energy.shape
                rows, columns = (torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w
                centers.append([(energy.sum(1) * rows).sum() / energy.sum(), (energy.sum(0) * columns).sum() / energy.sum()])
        return torch.tensor(centers)

    torch.testing.assert_close(answers(160, 213), answers(160, 224), atol=2e-3, rtol=0)


@pytest.mark.parametrize(("size", "cells"), [((96, 96), (6, 6)), ((100, 71), (6, 4)), ((7, 40), (1, 2))])
def test_a_vit_takes_any_size_as_the_nearest_number_of_patches(size: tuple[int, int], cells: tuple[int, int]) -> None:
    backbone = built("vit_tiny_patch16_224")
    x = images(*size)
    resized = torch.nn.functional.interpolate(x, [16 * c for c in cells], mode="bilinear", antialias=True)
    with torch.no_grad():
        maps, expected = backbone(x), backbone(resized)
    assert all(level.shape == (2, 192, *cells) for level in maps)
    torch.testing.assert_close(maps[-1], expected[-1])


def test_the_shipped_weights_are_those_of_the_default_backbone() -> None:
    """Loaded by hand into the whole classifier, they know a photo; the backbone gives that model's own features."""
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    state = shipped_weights()
    assert len(state) == len(whole.state_dict())
    whole.load_state_dict(dict(zip(whole.state_dict(), state.values(), strict=True)))
    photo = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1)[None] / 127.5 - 1
    photo = torch.nn.functional.interpolate(photo[..., :427, 100:527], (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        top = whole(photo).softmax(1)[0].topk(3)
        assert 698 in top.indices.tolist()  # ImageNet's class "palace"
        reference = whole.forward_intermediates(photo, indices=[1, 2, 3, 4], intermediates_only=True)
        maps = TimmBackbone("tf_efficientnet_lite0").eval()(photo)
    for level, expected in zip(maps, reference, strict=True):
        torch.testing.assert_close(level, expected, atol=1e-4, rtol=1e-4)


def test_unknown_models_name_the_nearest() -> None:
    with pytest.raises(InputError, match=r"model\.backbone: unknown name 'resnet81'; did you mean 'resnet18'"):
        TimmBackbone("resnet81", pretrained=False)


def test_models_without_feature_maps_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:  # as older releases of timm do for some models
        raise RuntimeError("features_only not implemented for this model.\nmore")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(
        InputError, match=r"timm's 'resnet18.a1_in1k' gives no feature maps \(features_only not implemented .*\.\)$"
    ):
        TimmBackbone("resnet18", pretrained=False)


def sized(backbone: str, side: int) -> tuple[Method, Engine, Config]:
    """The arguments of `feature_size`."""
    options = FEWER_BLOCKS.get(backbone, {})
    values = {
        "model": {"backbone": backbone, "pretrained": False, "dim": 8, "backbone_options": options},
        "views": {"size": side},
    }
    config = Config.model_validate(values)
    return build_method(config), Engine(torch.device("cpu"), "fp32"), config


@pytest.mark.parametrize(
    ("name", "side", "cells"),
    [("swin_tiny_patch4_window7_224", 96, 24), ("resnet18", 96, 24), ("resnet18", 75, 16), ("vit_tiny_patch16_224", 96, 6)],
)
def test_the_features_of_a_view_are_as_large_as_found(name: str, side: int, cells: int) -> None:
    method, engine, config = sized(name, side)
    assert feature_size(method, engine, config) == (cells, cells)
    with torch.no_grad():
        assert method.predict_features(torch.rand(2, 3, side, side)).shape == (2, 8, cells, cells)


@pytest.mark.parametrize("side", [160, 224])
def test_models_of_one_size_are_refused_before_any_work(side: int) -> None:
    with pytest.raises(InputError) as error:
        feature_size(*sized("levit_128s", side))
    message = str(error.value)
    assert message.startswith(f"model.backbone: 'levit_128s' cannot take images of {side}x{side} pixels (")
    assert message.endswith("; choose another backbone, or a views.size that it takes")
    assert "\n" not in message


def test_models_of_squares_alone_are_refused_before_any_work() -> None:
    method, engine, config = sized(TINY, 64)

    def squares(_: nn.Module, given: tuple[Tensor]) -> None:
        assert given[0].shape[2] == given[0].shape[3], "squares, please"

    method.network.backbone.net.register_forward_pre_hook(squares)
    with pytest.raises(InputError, match=rf"'{TINY}' cannot take images of 64x96 pixels \(squares, please"):
        feature_size(method, engine, config)


def test_nothing_drops_out_and_nothing_is_drawn() -> None:
    """Labels must fit the features that are trained on; timm's own Swin drops paths."""
    name, x = "swin_tiny_patch4_window7_224", images(96, 64)
    blocks = FEWER_BLOCKS[name]
    plain = timm.create_model(name, features_only=True, strict_img_size=False, **blocks).train()
    backbone = TimmBackbone(name, pretrained=False, **blocks).train()
    passes = [plain(x) for _ in range(30)]  # a path is dropped in some of them
    assert not all(torch.equal(a, b) for maps in passes for a, b in zip(maps, passes[0], strict=True))
    state = torch.get_rng_state()
    first, second = backbone(x), backbone(x)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_is_switched_off_as_well() -> None:
    dropped = {"proj_drop_rate": 0.5, "attn_drop_rate": 0.5, "depth": 3}
    backbone, x = TimmBackbone("vit_tiny_patch16_224", pretrained=False, **dropped).train(), images(32, 32)
    assert any(isinstance(module, nn.Dropout) for module in backbone.modules())
    assert all(torch.equal(a, b) for a, b in zip(backbone(x), backbone(x), strict=True))


def test_the_registry_and_the_options_lead_here() -> None:
    backbone = build_backbone(ModelConfig(backbone=TINY, weights="/nowhere.pth"), pretrained=False)
    assert isinstance(backbone, TimmBackbone)  # a checkpoint is loaded next, so the file is not asked for
    with pytest.raises(InputError, match=r"/nowhere\.pth: no such file"):
        build_backbone(ModelConfig(backbone=TINY, weights="/nowhere.pth"), pretrained=True)


def test_without_the_hub_the_error_names_both_other_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError) as error:
        TimmBackbone("resnet18")
    message = str(error.value)
    assert "\n" not in message
    for word in ("model.pretrained", "'resnet18.a1_in1k'", "model.weights=FILE", "--backbone tf_efficientnet_lite0"):
        assert word in message


def test_a_hub_that_cannot_be_reached_is_not_asked_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    began = time.monotonic()
    with pytest.raises(InputError, match=r"cannot be fetched from the hub \(http://127\.0\.0\.1:1 cannot be reached: "):
        TimmBackbone("test_resnet")
    assert time.monotonic() - began < 10  # 46 s with the retries of huggingface_hub
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


@pytest.fixture(scope="module")
def donor() -> torch.nn.Module:
    torch.manual_seed(3)
    return timm.create_model(TINY).eval()


def prefixed(state: dict, prefix: str) -> dict:
    return {prefix + name: tensor for name, tensor in state.items()}


PREFIXES = (
    "_orig_mod.",
    "module._orig_mod.",
    "backbone.",
    "encoder.",
    "model.backbone.",
    "module.base_encoder.",
    "timm_model.",
)
WRAPPINGS: dict[str, Callable[[dict], dict]] = {
    "plain": lambda state: state,
    "module.": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
    "model_state": lambda state: {"model_state": state},
    "no head": lambda state: {name: tensor for name, tensor in state.items() if not name.startswith("classifier")},
    **{prefix: lambda state, prefix=prefix: prefixed(state, prefix) for prefix in PREFIXES},
    "net": lambda state: {"net": state, "optimizer": {"state": {0: {"step": torch.zeros(1)}}}},
    "model_ema": lambda state: {"epoch": 3, "model_ema": {"module": prefixed(state, "backbone.")}},
    "both kinds": lambda state: {"state_dict": state, "state_dict_ema": {n: t + 1 for n, t in state.items()}},
}


FLAT = ["plain", "module.", "no head", *PREFIXES]  # a .safetensors file holds names and tensors, nothing nested


@pytest.mark.parametrize(
    ("suffix", "wrapping"), [(".pth", wrapping) for wrapping in WRAPPINGS] + [(".safetensors", flat) for flat in FLAT]
)
def test_local_weights_are_loaded(donor: torch.nn.Module, tmp_path: Path, suffix: str, wrapping: str) -> None:
    state = WRAPPINGS[wrapping](donor.state_dict())
    if suffix == ".safetensors":
        save_file(state, tmp_path / "w.safetensors")
    else:
        torch.save(state, tmp_path / "w.pth")
    torch.manual_seed(4)  # so that equal features come from the file
    backbone = TimmBackbone(TINY, weights=str(tmp_path / f"w{suffix}")).eval()
    x = images(64, 64)
    with torch.no_grad():
        expected = donor.forward_intermediates(x, indices=[1, 2, 3, 4], intermediates_only=True)
        for level, wanted in zip(backbone(x), expected, strict=True):
            torch.testing.assert_close(level, wanted)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_local_weights_of_other_families_are_loaded(tmp_path: Path, name: str) -> None:
    whole = timm.create_model(name)
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    loaded = TimmBackbone(name, weights=str(tmp_path / "w.pth")).state_dict()
    given = list(whole.state_dict().values())
    for key, tensor in loaded.items():
        assert any(tensor.shape == v.shape and torch.equal(tensor, v) for v in given), key


@pytest.mark.parametrize("other", ["test_resnet", "test_vit", "test_efficientnet_gn"])
def test_weights_of_another_model_are_refused(tmp_path: Path, other: str) -> None:
    torch.save(timm.create_model(other).state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"of the backbone|in the backbone it is"):
        TimmBackbone(TINY, weights=str(tmp_path / "w.pth"))


def test_of_several_weights_that_fit_one_must_be_chosen(donor: torch.nn.Module, tmp_path: Path) -> None:
    state = donor.state_dict()
    teacher = {name: tensor + 1 for name, tensor in state.items()}
    moco = prefixed(state, "module.encoder_q.") | prefixed(teacher, "module.encoder_k.")
    dino = {"student": prefixed(state, "module.backbone."), "teacher": prefixed(teacher, "backbone.")}
    for content, label, student, chosen in (
        ({"state_dict": moco}, "state_dict.module.encoder_q", "encoder_q", "module.encoder_k"),
        (dino, "student.module.backbone", "student", "teacher"),
    ):
        file = tmp_path / "w.pth"
        torch.save(content, file)
        with pytest.raises(InputError, match=rf"2 sets of weights fit: .*{label}.*; choose one, e.g. model.weights_key="):
            TimmBackbone(TINY, weights=str(file))
        with pytest.raises(InputError, match=r"no weights that fit under model.weights_key = 'nothing'; they are under: "):
            TimmBackbone(TINY, weights=str(file), weights_key="nothing")
        for key, difference in ((student, 0), (chosen, 1)):
            config = ModelConfig(backbone=TINY, weights=str(file), weights_key=key)
            loaded = build_backbone(config, pretrained=True).state_dict()
            name = next(n for n in loaded if n.endswith("conv_stem.weight"))
            assert torch.equal(loaded[name], state["conv_stem.weight"] + difference)


def test_where_unusual_weights_were_found_is_logged(
    donor: torch.nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({"teacher": prefixed(donor.state_dict(), "backbone.")}, tmp_path / "w.pth")
    with caplog.at_level("INFO", "picie"):
        TimmBackbone(TINY, weights=str(tmp_path / "w.pth"))
    assert "using the weights under 'teacher.backbone'" in caplog.text


def test_weights_that_do_not_fit_are_told_by_the_names_of_both_sides(tmp_path: Path) -> None:
    torch.save({f"layer{i}.weight": torch.zeros(2) for i in range(5)} | {7: torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(InputError) as error:
        TimmBackbone(TINY, weights=str(tmp_path / "w.pth"))
    assert "the file's layer0.weight, layer1.weight, layer2.weight, ..." in str(error.value)
    assert "the backbone's names are conv_stem.weight, " in str(error.value)
    assert "belongs" not in str(error.value)


@pytest.mark.parametrize("odd", [torch.zeros(1).expand(10**7, 10**6), torch.zeros(3, 3).to_sparse()], ids=["vast", "sparse"])
def test_tensors_that_cannot_be_filled_are_refused(tmp_path: Path, odd: Tensor) -> None:
    state = timm.create_model(TINY).state_dict()
    state["conv_stem.weight"] = odd
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"conv_stem\.weight"):
        TimmBackbone(TINY, weights=str(tmp_path / "w.pth"))
    with pytest.raises(InputError):
        TimmBackbone(TINY, weights=str(_renamed(tmp_path, state)))


def _renamed(folder: Path, state: dict[str, Tensor]) -> Path:
    """The weights under names of no known layout, so that timm's conversion is tried."""
    torch.save({f"x.{number}": tensor for number, tensor in enumerate(state.values())}, folder / "renamed.pth")
    return folder / "renamed.pth"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensor: tensor.fill_(float("nan")), "holds values that are not finite"),
        (lambda tensor: tensor.fill_(float("inf")), "holds values that are not finite"),
        (lambda tensor: tensor.to("meta"), "has no values"),
        (lambda tensor: tensor[:1], "in the backbone it is"),
    ],
)
def test_weights_without_good_values_are_refused(tmp_path: Path, change: Callable, message: str) -> None:
    state = timm.create_model(TINY).state_dict()
    state["conv_stem.weight"] = change(state["conv_stem.weight"])
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match=f"conv_stem.weight .*{message}"):
        TimmBackbone(TINY, weights=str(tmp_path / "w.pth"))


class Touch:
    """What a malicious file holds: unpickling it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("kind", ["torch", "torch legacy", "pickle"])
def test_a_malicious_file_is_refused_and_not_run(tmp_path: Path, kind: str) -> None:
    target, file = tmp_path / "touched", tmp_path / "w.pth"
    content = {"state_dict": {"weight": torch.zeros(2)}, "args": Touch(target)}
    if kind == "pickle":
        file.write_bytes(pickle.dumps(content["args"], protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=kind == "torch")
    with pytest.raises(
        InputError,
        match=r"w\.pth: is not a PyTorch file, .* \(nothing was run\); compare its size .* or fetch it again$",
    ):
        read_state_dicts(file)
    assert not target.exists()
    if kind == "pickle":
        pickle.loads(file.read_bytes())  # the file is what it claims to be
        assert target.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("w.pth", b""),
        ("w.pth", b"<html>404 not found</html>"),
        ("w.safetensors", b"\x10\0\0\0\0\0\0\0not json at all.."),
        ("w.safetensors", b""),
    ],
)
def test_files_of_other_formats_are_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    said = {
        "w.pth": r"/w\.pth: is not a PyTorch file, is damaged, or",
        "w.safetensors": r"model\.weights: .*/w\.safetensors: is not a",
    }
    with pytest.raises(InputError, match=said[name]):
        read_state_dicts(tmp_path / name)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], torch.zeros(3)])
def test_files_without_a_state_dict_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match="holds no state_dict"):
        read_state_dicts(tmp_path / "w.pth")


def test_a_picture_is_no_file_of_weights(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "w.pth", "PNG")
    with pytest.raises(InputError, match=r"w\.pth: is not a PyTorch file"):
        read_state_dicts(tmp_path / "w.pth")
