"""Device, precision and stopping."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch

from picie.config import ModelConfig
from picie.errors import InputError, Stopped
from picie.models.extractor import Extractor
from picie.runtime.device import Engine, peak_memory_mb, pick_device
from picie.runtime.interrupts import graceful_stop

CPU = torch.device("cpu")


def network() -> Extractor:
    torch.manual_seed(0)
    return Extractor(ModelConfig(backbone="test_efficientnet", pretrained=False, dim=8))


def test_auto_takes_the_best_device_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=cuda: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=mps: there)
        assert pick_device("auto").type == expected


def test_a_named_device_must_be_here(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_precision_is_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_depthwise_convolutions_are_made_quick_where_bf16_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[object] = []
    monkeypatch.setattr("picie.models.extractor.speed_up_depthwise", prepared.append)
    nets = {precision: network() for precision in ("fp32", "bf16")}
    for precision, net in nets.items():
        net.prepare(CPU, precision == "bf16")
    assert prepared == [nets["bf16"]]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request_and_the_second_acts(signum: signal.Signals) -> None:
    second: list[int] = []
    before = signal.signal(signum, lambda number, _: second.append(number))
    try:
        with graceful_stop() as stop:
            stop.check()  # nothing yet
            os.kill(os.getpid(), signum)
            with pytest.raises(Stopped, match="enough") as stopped:
                stop.check("enough")
            assert stopped.value.signum == signum
            assert not second
            os.kill(os.getpid(), signum)
            assert second == [signum]
    finally:
        signal.signal(signum, before)


def test_a_signal_that_comes_while_processes_ask_each_other_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_late(value: int) -> int:
        signal.raise_signal(signal.SIGTERM)
        return 0  # what all said before

    with graceful_stop() as stop:
        with monkeypatch.context() as patched:
            patched.setattr("picie.runtime.distributed.all_reduce_max", too_late)
            assert not stop.is_asked()  # all get one answer
        assert stop.signum == signal.SIGTERM
        assert stop.is_asked()
        with pytest.raises(Stopped):
            stop.check()


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(RuntimeError), graceful_stop():
        assert signal.getsignal(signal.SIGINT) != before[0]
        raise RuntimeError
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_in_another_thread_signals_are_left_alone() -> None:
    seen: list[object] = []

    def run() -> None:
        with graceful_stop() as stop:
            seen.append(stop.signum)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [None]


def test_peak_memory_is_in_megabytes() -> None:
    assert 50 < peak_memory_mb() < 1e6
