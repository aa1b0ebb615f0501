"""What each process does that tests/runtime/test_distributed.py starts.

It runs every command line in FOLDER/commands.json and writes exit statuses to status.RANK.json and
the output beside it. Then it passes its part of some batches through normalising layers and saves
the results to layers.RANK.pt.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from picie.cli.main import main
from picie.models.synced_batchnorm import synchronise, uncounted
from picie.runtime import distributed

LAYERS = {
    "plain": lambda: nn.BatchNorm2d(5),
    "average of all batches": lambda: nn.BatchNorm2d(5, momentum=None, eps=1e-2),
    "without weights": lambda: nn.BatchNorm2d(5, affine=False),
    "without running statistics": lambda: nn.BatchNorm2d(5, track_running_stats=False),
    "with an activation": lambda: BatchNormAct2d(5, act_layer=nn.SiLU),
    "of vectors": lambda: nn.BatchNorm1d(5),
}
SPLITS = ((2, 2), (1, 3), (4, 0), (0, 4))


def batches(name: str) -> list[tuple[Tensor, Tensor]]:
    """Return for each split a batch of four, far from 0, and the gradient of its output."""
    generator = torch.Generator().manual_seed(len(name))
    shape = (4, 5) if name == "of vectors" else (4, 5, 3, 2)
    return [(torch.randn(shape, generator=generator) + 50, torch.randn(shape, generator=generator) / shape[0]) for _ in SPLITS]


def passed(layer: nn.Module, x: Tensor, slope: Tensor) -> dict[str, Tensor]:
    """Return the output of `layer` for `x`, and the gradients for an output gradient of `slope`."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.backward(slope)
    assert x.grad is not None
    return {"y": y.detach(), "dx": x.grad} | {
        f"d{n}": p.grad.clone() for n, p in layer.named_parameters() if p.grad is not None
    }


def start(layer: nn.Module) -> nn.Module:
    """Give `layer` weights that differ from each other."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.linspace(0.5, 2, parameter.numel()))
    return layer


def through_layers() -> dict[str, Any]:
    """Return for each layer the results of this process for its part of each batch, and the final state."""
    results = {}
    for name, make in LAYERS.items():
        layer = start(make())
        names = list(layer.state_dict())
        synchronise(layer)
        assert list(layer.state_dict()) == names
        passes = []
        for (x, slope), sizes in zip(batches(name), SPLITS, strict=True):
            share = slice(sum(sizes[: distributed.rank()]), sum(sizes[: distributed.rank() + 1]))
            if sizes[distributed.rank()]:
                passes.append(passed(layer, x[share], slope[share]))
            else:
                layer.zero_grad()
                black = torch.zeros_like(x[:1], requires_grad=True)
                with uncounted(layer):
                    y = layer(black)
                y.backward(torch.ones_like(y))  # the gradients must not count
                assert all(not p.grad.any() for p in [black, *layer.parameters()] if p.grad is not None)
                passes.append({})
        state = {key: value.clone() for key, value in layer.state_dict().items()}
        layer.eval()
        results[name] = {"passes": passes, "state": state, "evaluated": layer(batches(name)[0][0]).detach()}
    return results


def run(folder: Path) -> None:
    """Run the commands, then the layers."""
    torch.set_num_threads(1)
    rank, statuses = distributed.rank(), {}
    for name, command in json.loads((folder / "commands.json").read_text("utf-8")).items():
        with (
            (folder / f"{name}.{rank}.err").open("w") as err,
            (folder / f"{name}.{rank}.out").open("w") as out,
            contextlib.redirect_stderr(err),
            contextlib.redirect_stdout(out),
        ):
            statuses[name] = main(command)
    (folder / f"status.{rank}.json").write_text(json.dumps(statuses))
    with distributed.process_group():
        torch.save(through_layers(), folder / f"layers.{rank}.pt")
