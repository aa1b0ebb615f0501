"""Device, precision and copies to and from the device."""

from __future__ import annotations

import pytest
import torch

from picie.config import ModelConfig
from picie.errors import InputError
from picie.models.extractor import Extractor
from picie.runtime.device import AsyncCopy, Engine, pick_device, to_device
from picie.runtime.system_calls import peak_memory_mb

CPU = torch.device("cpu")


def network() -> Extractor:
    torch.manual_seed(0)
    return Extractor(ModelConfig(backbone="test_efficientnet", pretrained=False, dim=8))


def test_auto_picks_the_best_available_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=cuda: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=mps: there)
        assert pick_device("auto").type == expected


def test_a_named_device_must_be_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    assert pick_device("cpu") == CPU
    for name in ("cuda:2", "xpu", "meta", "cpu:2"):
        with pytest.raises(InputError, match=rf"run\.device: '{name}' is not on this machine"):
            pick_device(name) if name != "cpu:1" else pick_device("cpu:2")
    for name in ("gpu", "", "cuda:x"):
        with pytest.raises(InputError, match=rf"run\.device: unknown device '{name}'"):
            pick_device(name)


def test_images_become_floats_in_0_1() -> None:
    engine = Engine(CPU, "fp32")
    images = engine.to_images(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1))
    assert images.dtype == torch.float32
    assert images.flatten().tolist() == pytest.approx([0, 0.2, 1])


def test_precision_is_as_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("picie.runtime.device._cpu_has_bf16", lambda: True)
    assert [Engine(CPU, p).bf16 for p in ("auto", "fp32", "bf16")] == [True, False, True]
    monkeypatch.setattr("picie.runtime.device._cpu_has_bf16", lambda: False)
    assert [Engine(CPU, p).bf16 for p in ("auto", "fp32", "bf16")] == [False, False, True]
    assert Engine(CPU, "auto").describe()["precision"] == "fp32"


def test_bf16_changes_features_a_little_and_gradients_stay_finite() -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    features = {}
    for precision in ("fp32", "bf16"):
        net = network().eval()
        names = list(net.state_dict())
        net.prepare(CPU, precision == "bf16")
        assert list(net.state_dict()) == names  # checkpoints do not depend on the precision
        z = net(images)
        assert z.dtype == torch.float32
        z.square().mean().backward()
        assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
        assert all(p.dtype == torch.float32 for p in net.parameters())
        features[precision] = z.detach()
    difference = (features["fp32"] - features["bf16"]).abs().max() / features["fp32"].abs().max()
    assert 0 < difference < 0.1


def test_depthwise_convolutions_are_sped_up_for_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[object] = []
    monkeypatch.setattr("picie.models.extractor.speed_up_depthwise", prepared.append)
    nets = {precision: network() for precision in ("fp32", "bf16")}
    for precision, net in nets.items():
        net.prepare(CPU, precision == "bf16")
    assert prepared == [nets["bf16"]]


def test_peak_memory_is_in_megabytes() -> None:
    assert 50 < peak_memory_mb() < 1e6


def test_a_tensor_on_the_cpu_is_not_copied() -> None:
    tensor = torch.arange(3.0)
    assert to_device(tensor, "cpu") is tensor
    assert AsyncCopy(tensor).read() is tensor


@pytest.mark.gpu
def test_a_copy_from_a_gpu_does_not_wait_for_later_work() -> None:
    tensor = to_device(torch.arange(5).pin_memory(), "cuda")
    fetched = AsyncCopy(tensor * 2)
    large = torch.rand(4096, 4096, device="cuda")
    for _ in range(50):
        large = large @ large
    assert fetched.read().tolist() == [0, 2, 4, 6, 8]
    assert not fetched.read().is_cuda
