"""The published network and its files, restated plainly on torchvision's ResNets: the oracle of the import.

res2 to res5, a 1x1 lateral each (`layer1` is res5's, `layer4` res2's), summed from coarse to fine with bilinear enlargement.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # ImageNet's


class PublishedNetwork(nn.Module):
    """Features (B, D, H / 4, W / 4) of images (B, 3, H, W) in [0, 1], H and W multiples of 32."""

    def __init__(self, name: str, dim: int) -> None:
        super().__init__()
        self.backbone = torchvision.models.get_model(name, weights=None)
        c = self.backbone.fc.in_features
        channels = {"layer1": c, "layer2": c // 2, "layer3": c // 4, "layer4": c // 8}
        self.decoder = nn.ModuleDict({layer: nn.Conv2d(width, dim, 1) for layer, width in channels.items()})

    def forward(self, images: Tensor) -> Tensor:
        net = self.backbone
        x = (images - MEAN[:, None, None]) / STD[:, None, None]
        res2 = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x)))))
        res3 = net.layer2(res2)
        res4 = net.layer3(res3)
        res5 = net.layer4(res4)
        out = self.decoder["layer1"](res5)
        for layer, level in (("layer2", res4), ("layer3", res3), ("layer4", res2)):
            enlarged = F.interpolate(out, scale_factor=2, mode="bilinear", align_corners=False)
            out = self.decoder[layer](level) + enlarged
        return out


def random_network(name: str, dim: int) -> PublishedNetwork:
    """The network in evaluation mode, with random weights and random BatchNorm statistics."""
    torch.manual_seed(5)
    network = PublishedNetwork(name, dim).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return network


def file_content(
    network: PublishedNetwork, k: int, classifiers: int = 2, prefix: str = "module.", **args: Any
) -> dict[str, Any]:
    """What the published code saves: the network's tensors, `classifiers` of K weights, and the command's arguments."""
    dim = network.decoder["layer1"].out_channels
    content: dict[str, Any] = {
        "epoch": 9,
        "args": argparse.Namespace(**args),
        "state_dict": {prefix + name: tensor for name, tensor in network.state_dict().items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4, "params": [0, 1]}]},
    }
    for number in range(1, classifiers + 1):
        generator = torch.Generator().manual_seed(number)
        weight = 3 * torch.randn(k, dim, 1, 1, generator=generator)
        content[f"classifier{number}_state_dict"] = {prefix + "weight": weight, prefix + "bias": torch.zeros(k)}
    return content


def hollow_content(name: str = "resnet18", dim: int = 8, k: int = 3, **args: Any) -> dict[str, Any]:
    """`file_content` of a network of zeros, whose file is small: its tensors share their zeros, in half precision."""
    content = file_content(_hollow_network(name, dim), k, **args)
    state = content["state_dict"]
    zeros = torch.zeros(max(t.numel() for t in state.values()), dtype=torch.half)
    content["state_dict"] = {
        key: zeros[: t.numel()].view(t.shape) if t.is_floating_point() else torch.zeros(t.shape, dtype=t.dtype)
        for key, t in state.items()
    }
    return content


@cache
def _hollow_network(name: str, dim: int) -> PublishedNetwork:
    with torch.device("meta"):
        return PublishedNetwork(name, dim)


def write(path: Path, content: dict[str, Any], old_format: bool = False) -> Path:
    """Save `content` as the published code does, or by the older format of torch's files."""
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    return path
