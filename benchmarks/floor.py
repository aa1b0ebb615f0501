"""The floor: the bare network on ready tensors, forwards and backwards, at each precision.

    python benchmarks/floor.py tf_efficientnet_lite0 resnet18

Milliseconds an image and view at 160 px and batch 16, the least of several steps. Ratios count, not the figures.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch

from picie.config import ModelConfig
from picie.engine import Engine, pick_device
from picie.models.extractor import Extractor

BATCH, SIDE, STEPS = 16, 160, 8


def main() -> None:
    """Measure and print."""
    device = pick_device("auto")
    print("| network | precision | forward and backward | forward alone |\n|---|---|---|---|")
    for name in sys.argv[1:] or ["tf_efficientnet_lite0"]:
        for precision in ("fp32", "bf16"):
            network = Extractor(ModelConfig(backbone=name, pretrained=False))
            Engine(device, precision, network)
            images = torch.rand(BATCH, 3, SIDE, SIDE, device=device)
            both = _least(lambda n=network, x=images: n.train()(x).square().mean().backward())
            with torch.inference_mode():
                alone = _least(lambda n=network, x=images: n.eval()(x))
            print(f"| {name} | {precision} | {both:.1f} ms | {alone:.1f} ms |", flush=True)


def _least(step: Callable[[], object]) -> float:
    times = []
    for _ in range(STEPS):
        began = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 1000 * min(times) / BATCH


if __name__ == "__main__":
    main()
