"""BatchNorm folded into convolutions: what comes out is what came out before, and nothing of it stays."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, Conv2dSame, StdConv2d
from torch import Tensor, nn

from picie.config import ModelConfig
from picie.models.depthwise import speed_up_depthwise
from picie.models.extractor import Extractor
from picie.models.folding import foldable, folded


class Levels(nn.Module):
    """Layers in a row, as a backbone of one level; what comes out of layer `twice` is used once more, as `how` says."""

    def __init__(self, *layers: nn.Module, twice: int | None = None, how: str = "added") -> None:
        super().__init__()
        self.layers, self.twice, self.how = nn.ModuleList(layers), twice, how

    def forward(self, x: Tensor) -> list[Tensor]:
        seen = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i == self.twice:
                seen = [x]
        return [x, *seen] if self.how == "returned" else [sum(seen, x)]


def settled(network: nn.Module) -> nn.Module:
    """`network` in evaluation mode, with statistics and factors that are those of nothing."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                if values is not None:
                    nn.init.uniform_(values, 0.5, 2)
            for values in (module.bias, module.running_mean):
                if values is not None:
                    nn.init.normal_(values)
    return network.eval()


def images() -> Tensor:
    return torch.randn(2, 3, 32, 24, generator=torch.Generator().manual_seed(1))


ONE: dict[str, Callable[[], Levels]] = {
    "plain": lambda: Levels(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)),
    "with a bias": lambda: Levels(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)),
    "without factors": lambda: Levels(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False)),
    "depthwise": lambda: Levels(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)),
    "with an activation": lambda: Levels(nn.Conv2d(3, 8, 3), BatchNormAct2d(8, act_layer=nn.ReLU6)),
    "padded as TensorFlow": lambda: Levels(Conv2dSame(3, 8, 3, 2, bias=False), BatchNormAct2d(8)),
}
NONE: dict[str, Callable[[], Levels]] = {
    "added to the result": lambda: Levels(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), twice=0),
    "a level itself": lambda: Levels(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), twice=0, how="returned"),
    "changed in place between": lambda: Levels(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(8)),
    "by the batch's own statistics": lambda: Levels(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)),
    "not side by side": lambda: Levels(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8)),
    "with a weight that is standardised": lambda: Levels(StdConv2d(3, 8, 3), nn.BatchNorm2d(8)),
    "other kinds": lambda: Levels(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)),
}


@pytest.mark.parametrize("kind", ONE)
def test_one_convolution_does_what_two_layers_did(kind: str) -> None:
    network = settled(ONE[kind]()).double()
    x = images().double()
    with torch.no_grad():
        plain = network(x)[0]
        pairs = foldable(network, x)
        assert len(pairs) == 1
        with folded(pairs, torch.float64):
            pairs[0][1].running_mean.add_(100)  # of no account any more
            found = network(x)[0]
    torch.testing.assert_close(found, plain)
    assert plain.std() > 0.1


@pytest.mark.parametrize("kind", NONE)
def test_nothing_is_folded_that_would_change_the_result(kind: str) -> None:
    assert foldable(settled(NONE[kind]()), images()) == []


def test_layers_that_are_called_twice_are_left_alone_and_others_are_not() -> None:
    conv, norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
    once = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
    assert foldable(settled(Levels(conv, norm, conv, nn.BatchNorm2d(3), *once)), images()) == [once]
    assert foldable(settled(Levels(conv, norm, nn.Conv2d(3, 3, 1), norm, *once)), images()) == [once]


def test_what_is_foldable_does_not_depend_on_values() -> None:
    network = settled(
        Levels(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.weight)  # a branch that starts at nothing
    assert foldable(network, images()) == [(network.layers[3], network.layers[4])]


def test_afterwards_all_is_as_it_was_also_after_an_error() -> None:
    network = settled(Levels(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)))
    marked = network.layers[3]
    marked.forward = own = marked.forward  # as processes that share a batch do
    parameters, state, names = list(network.parameters()), copy.deepcopy(network.state_dict()), dict(network.named_modules())
    with pytest.raises(ZeroDivisionError), folded(foldable(network, images()), torch.bfloat16):
        assert network.layers[0].weight.dtype == torch.bfloat16
        raise ZeroDivisionError
    assert [id(p) for p in network.parameters()] == [id(p) for p in parameters]
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)
    assert dict(network.named_modules()).keys() == names.keys()
    assert vars(marked)["forward"] is own
    assert "forward" not in vars(network.layers[1])


@pytest.mark.parametrize(("name", "folds"), [("tf_efficientnet_lite0", 48), ("resnet18", 20), ("mobilenetv3_small_050", 34)])
def test_backbones_fold(name: str, folds: int) -> None:
    network = settled(timm.create_model(name, features_only=True))
    speed_up_depthwise(network)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    pairs = foldable(network, x)
    assert len(pairs) == folds
    x = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), folded(pairs, torch.float32):
        found = network(x)
    with torch.no_grad():
        plain = network(x)
    for f, p in zip(found, plain, strict=True):
        torch.testing.assert_close(f, p, rtol=1e-4, atol=1e-4 * float(p.abs().max()))


def extractor(**options: object) -> Extractor:
    torch.manual_seed(0)
    return settled(Extractor(ModelConfig(backbone="resnet18", pretrained=False, **options), pretrained=False))


def test_in_bfloat16_folding_loses_nothing() -> None:
    network = extractor().to(memory_format=torch.channels_last)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        exact = network(x)
        network.autocast_to = torch.bfloat16
        plain = network(x)
        with network.folded((64, 64)):
            quick = network(x)
    assert len(network._foldable or ()) == 20
    off = [float((z - exact).norm() / exact.norm()) for z in (plain, quick)]
    assert 0 < off[1] < 1.2 * off[0] < 0.05


def changed_inside(network: Extractor) -> bool:
    """Whether the backbone's first convolution has another weight inside, and its own afterwards."""
    first = next(module for module in network.backbone.modules() if isinstance(module, nn.Conv2d))
    own = first.weight
    with network.folded((32, 32)):
        inside = first.weight
    assert first.weight is own
    return inside is not own


def test_a_backbone_in_training_mode_is_left_alone_and_a_frozen_one_never_is() -> None:
    assert not changed_inside(extractor().train())
    assert changed_inside(extractor().eval())
    assert changed_inside(extractor(freeze=True).train())
