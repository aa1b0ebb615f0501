"""What `benchmarks.peers` compares: k-means of scikit-learn and faiss on timm features, `picie
train`, and a supervised training step. Each function runs in a process of its own.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from picie.config import Config
from picie.data import open_dataset
from picie.data.base import Dataset
from picie.data.images import centre_frame
from picie.inference.enlarging import enlarged_argmax
from picie.models.backbones import build_backbone
from picie.runtime.progress import Progress
from picie.runtime.run_record import read_metrics
from picie.scoring.counting import Pairs, score_split
from picie.training.api import train
from picie.training.checks import labelled_split
from picie.training.optimization import Optimizer
from picie.training.setup import Setup, set_up
from picie.views.two_views import BatchViews

Fit = Callable[[np.ndarray, int, int], np.ndarray]
_RESTARTS = 8  # as `cluster.refit`


def minibatch_kmeans(points: np.ndarray, k: int, seed: int) -> np.ndarray:
    """(K, D) centroids by scikit-learn's MiniBatchKMeans, the best of 8 starts."""
    from sklearn.cluster import MiniBatchKMeans

    centroids: np.ndarray = MiniBatchKMeans(k, n_init=_RESTARTS, random_state=seed).fit(points).cluster_centers_
    return centroids


def faiss_kmeans(points: np.ndarray, k: int, seed: int) -> np.ndarray:
    """(K, D) centroids by faiss's spherical k-means, the best of 8 starts."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    everything = -(-len(points) // k)  # otherwise faiss takes 256 points per cluster
    kmeans = faiss.Kmeans(
        points.shape[1], k, niter=20, nredo=_RESTARTS, spherical=True, seed=seed + 1, max_points_per_centroid=everything
    )
    kmeans.train(points)
    centroids: np.ndarray = kmeans.centroids
    return centroids


FITS: dict[str, Fit] = {"scikit-learn MiniBatchKMeans": minibatch_kmeans, "faiss spherical k-means": faiss_kmeans}


def cluster_timm_features(config: Config, name: str) -> dict[str, Any]:
    """Cluster features of the untrained network with the k-means `name`, and score the clusters.

    A feature is the concatenation of the backbone's levels at stride 4, each of norm 1, in float32.
    K-means gets as many points as picie's start does, the same number from each image.

    Returns:
        The scores, and seconds of "features", "k-means" and "scoring"; "cpu_seconds" is the
        processor time of this process from its beginning.
    """
    watch = _Watch()
    network = _TimmFeatures(config)
    dataset = open_dataset(config.data, config.data.train_split, "train")
    share = -(-config.cluster.init_points // len(dataset))
    rng = np.random.default_rng(config.seed)
    points = np.concatenate(
        [rng.permutation(cells)[:share] for z in network.of(dataset) for cells in z.permute(0, 2, 3, 1).flatten(1, 2).numpy()]
    )
    watch.lap("features")
    centroids = FITS[name](points, config.cluster.k, config.seed)
    watch.lap("k-means")
    weight = torch.from_numpy(centroids).float()
    offset = -0.5 * weight.square().sum(1)[:, None, None]  # the largest logit is the nearest centroid's

    def predict(pixels: Tensor, size: tuple[int, int]) -> np.ndarray:
        logits = torch.einsum("bdhw,kd->bkhw", network(pixels), weight) + offset
        return enlarged_argmax(logits, size).numpy()

    result = watch.result(points=len(points), channels=points.shape[1])
    scored = labelled_split(config)
    if scored is not None:
        pairs = Pairs(scored, config)
        result |= _scores(score_split(predict, config.cluster.k, pairs, config.evaluate.split, Progress(False)).to_dict())
    watch.lap("scoring")
    return result | watch.result()


class _TimmFeatures:
    """The levels of a timm network, each of norm 1, at the finest level's size."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.backbone = build_backbone(config.model, config.model.pretrained).eval()
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (self.backbone.mean, self.backbone.std))

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, D, h, w) of `pixels` (B, 3, H, W) uint8."""
        levels = [F.normalize(level, dim=1) for level in self.backbone((pixels.float() / 255 - self.mean) / self.std)]
        size = levels[0].shape[2:]
        return torch.cat([F.interpolate(level, size, mode="bilinear", align_corners=False) for level in levels], dim=1)

    def of(self, dataset: Dataset) -> Iterator[Tensor]:
        """Features of the centre squares of a dataset, in batches."""
        size, n = (self.config.evaluate_size,) * 2, self.config.cluster.batch_size
        for first in range(0, len(dataset), n):
            frames = [centre_frame(dataset.image(i), size) for i in range(first, min(first + n, len(dataset)))]
            yield self(torch.from_numpy(np.stack(frames)))


class _Watch:
    """Seconds of consecutive parts, and the processor time of this process from its beginning."""

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._parts: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._parts[name], self._since = now - self._since, now

    def result(self, **more: Any) -> dict[str, Any]:
        return {"parts": self._parts, "cpu_seconds": time.process_time(), **more}


def _scores(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: summary[key] for key in ("accuracy", "miou", "protocol")}


def picie_untrained(config: Config, out: Path) -> dict[str, Any]:
    """Run `picie train --epochs 0`; returns its scores and `cpu_seconds`."""
    train(config, out)
    line = read_metrics(out)[-1]
    scores = _scores(line) if "miou" in line else {}
    return {**scores, "parts": line["seconds"], "cpu_seconds": time.process_time()}


def training_steps(config: Config, rounds: int) -> dict[str, Any]:
    """Milliseconds per image of a training step of picie and of a supervised FPN, in turn.

    Both take `train.batch_size` images of the views' size that are in memory. picie's step makes
    two views and trains both; the supervised step trains on the images as they are, by the
    cross-entropy with their labels at full size, in float32 ("fp32") and, with PyTorch's autocast
    and channels_last, in bfloat16 ("bf16").

    Returns:
        {"milliseconds": {step: fastest}, "ratios": {step: median of picie's step / it}}; without
        segmentation_models_pytorch only picie's.
    """
    setup = set_up(config, Progress(False))
    n = config.train.batch_size
    pixels = torch.from_numpy(
        np.stack([centre_frame(setup.dataset.image(i % len(setup.dataset)), config.views.frame_size) for i in range(n)])
    )
    steps = {"picie": _picie_step(setup, pixels)}
    if importlib.util.find_spec("segmentation_models_pytorch") is not None:
        steps |= {name: _supervised_step(setup, pixels, name == "bf16") for name in ("fp32", "bf16")}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():  # warm up
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.process_time()
            step()
            seconds[name].append(time.process_time() - began)
    ratios = {name: [a / b for a, b in zip(seconds["picie"], seconds[name], strict=True)] for name in steps if name != "picie"}
    return {
        "milliseconds": {name: 1000 * min(values) / n for name, values in seconds.items()},
        "ratios": {name: statistics.median(values) for name, values in ratios.items()},
    }


def _picie_step(setup: Setup, pixels: Tensor) -> Callable[[], None]:
    method, config, n = setup.method, setup.config, len(pixels)
    optimizer = Optimizer(config.train, method)
    generator = torch.Generator().manual_seed(config.seed)
    centroids = F.normalize(torch.randn(method.views, config.cluster.k, method.dim, generator=generator), dim=2)
    labels = torch.randint(config.cluster.k, (method.views, n, *setup.cells), generator=generator)
    method.start_epoch(centroids.to(setup.engine.device), None, 0)
    method.train()

    def step() -> None:
        draws = setup.views.draw(0, range(n), method.views)
        frames = setup.engine.to_images(pixels, setup.engine.picture_dtype)
        optimizer.step(BatchViews(draws, config.views.view_size, frames), labels)

    return step


def _supervised_step(setup: Setup, pixels: Tensor, bf16: bool) -> Callable[[], None]:
    import segmentation_models_pytorch as smp

    config = setup.config
    network = smp.FPN(f"tu-{config.model.backbone}", encoder_weights=None, classes=config.cluster.k)
    images = F.interpolate(pixels.float() / 255, config.views.view_size, mode="area")
    if bf16:
        network, images = network.to(memory_format=torch.channels_last), images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(config.cluster.k, (len(pixels), *config.views.view_size))
    optimizer = torch.optim.Adam(network.parameters(), lr=config.train.lr)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(network(images).float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step
