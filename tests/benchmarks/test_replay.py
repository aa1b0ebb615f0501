"""What an epoch asks of the network is noted down, and asked again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.replay import Call, as_it_was, counts, ready, recorded, replay
from picie.config import ModelConfig
from picie.models.extractor import Extractor

CPU = torch.device("cpu")


def small(precision: str = "fp32", freeze: bool = False) -> Extractor:
    network = Extractor(ModelConfig(backbone="test_efficientnet", pretrained=False, dim=8, freeze=freeze))
    network.prepare(CPU, precision == "bf16")
    return network


def calls_by_hand(network: Extractor) -> list[Call]:
    """Those of: a training step on 3 images, 2 images looked at, and the levels of 4 kept, whose FPN is trained."""
    with recorded(network) as calls:
        network.train()(torch.rand(3, 3, 64, 32)).sum().backward()
        network.eval()
        with torch.no_grad():
            network(torch.rand(2, 3, 32, 32))
            kept = [level.clone() for level in network.levels(torch.rand(4, 3, 32, 32))]
        network.train().decode(kept).sum().backward()
    return calls


def test_every_call_is_noted_with_its_part_shape_mode_and_gradients() -> None:
    calls = calls_by_hand(small())
    assert [(c.part, c.images, c.training, c.grad) for c in calls] == [
        ("network", 3, True, True),
        ("network", 2, False, False),
        ("backbone", 4, False, False),
        ("fpn", 4, True, True),
    ]
    assert calls[0].shapes == ((3, 3, 64, 32),)
    assert [shape[0] for shape in calls[3].shapes] == [4] * len(calls[3].shapes)
    assert counts(calls) == {"forwards": 9, "backwards": 7, "fpn_alone": 4}


def test_nothing_is_noted_afterwards() -> None:
    network = small()
    with recorded(network) as calls:
        pass
    network.eval()(torch.rand(1, 3, 32, 32))
    assert calls == []


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_replay_makes_the_very_calls(precision: str) -> None:
    network = small(precision)
    calls = calls_by_hand(network)
    with recorded(network) as again:
        replay(network, calls, ready(calls, CPU))
    assert again == calls


def test_each_call_with_gradients_has_its_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small()
    calls = calls_by_hand(network)
    given, backwards = ready(calls, CPU), []
    network.fpn.laterals[0].weight.register_hook(lambda gradient: backwards.append(float(gradient.abs().sum())))
    replay(network, calls, given)
    assert len(backwards) == sum(call.grad for call in calls) == 2
    assert all(backwards)


def test_a_frozen_backbone_is_not_trained_by_the_replay() -> None:
    network = small(freeze=True)
    with recorded(network) as calls:
        network.train()(torch.rand(2, 3, 32, 32)).sum().backward()
    assert [(c.part, c.training, c.grad) for c in calls] == [("network", True, True)]
    before = {name: value.clone() for name, value in network.backbone.state_dict().items()}
    replay(network, calls, ready(calls, CPU))
    assert all(torch.equal(value, before[name]) for name, value in network.backbone.state_dict().items())


def test_the_network_is_given_back_as_it_was(tmp_path: Path) -> None:
    network = small()
    calls = calls_by_hand(network)
    network.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with as_it_was(network):
        replay(network, calls, ready(calls, CPU))
        assert any(not torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.training
