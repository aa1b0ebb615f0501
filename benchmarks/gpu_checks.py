"""Compare a device with the CPU, a resumed run with an uninterrupted one, and two processes with
one.

Each check returns figures and the largest values that are accepted, `TOLERANCES`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from picie.clustering.kmeans import KMeans, assign
from picie.clustering.point_sample import points_of
from picie.config import Config, with_overrides
from picie.data.images import centre_frame
from picie.errors import TrainingError
from picie.runtime import checkpoint
from picie.runtime.interrupts import StopRequest
from picie.runtime.progress import Progress
from picie.runtime.run_record import RunRecord, read_metrics
from picie.training import api
from picie.training.run_folder import RunFolder
from picie.training.setup import Setup, set_up
from picie.views.two_views import BatchViews

ROOT = Path(__file__).parents[1]

TOLERANCES = {
    "views": 1e-4,  # largest difference of a pixel, in [0, 1]
    "features": 1e-3,  # largest difference of a value of a unit-norm feature
    "k-means": 1e-3,  # largest difference of a coordinate of a centroid, from the same start
    "k-means inertia": 1e-2,  # relative difference, each from the start of its own device
    "labels": 1e-3,  # share of cells with another label, same features and centroids
    "loss": 1e-3,  # relative difference
    "gradient": 1e-2,  # norm of the difference, relative to the norm
    "bf16 features": 2e-2,  # one minus the mean cosine
    "bf16 loss": 3e-2,  # relative difference
    "epoch loss": 2e-2,  # relative difference of the mean loss of an epoch
    "resume weights": 1e-2,  # norm of the difference, relative to the norm; 0 is bit-equal
    "resume loss": 1e-2,  # relative difference of the last epoch's loss
    "processes loss": 1e-2,  # relative difference, 2 processes and 1
    "processes inertia": 1e-2,
}
"""Largest accepted value of each figure."""

Figures = dict[str, float]


def judged(figures: Figures) -> dict[str, dict[str, Any]]:
    """{"value", "tolerance", "passed"} of each figure."""
    return {
        name: {"value": value, "tolerance": TOLERANCES[name], "passed": bool(value <= TOLERANCES[name])}
        for name, value in figures.items()
    }


@dataclass(frozen=True)
class _Computed:
    """What one device computes from a batch; everything is on the CPU, in float32."""

    views: list[Tensor]
    features: list[Tensor]
    loss: float
    gradient: Tensor


def compare_with_cpu(config: Config, images: int) -> Figures:
    """Compute a batch's views, features, clusters, labels, loss and gradients on the CPU and on
    the device of `config`.

    Args:
        config: sizes and the network; float32 is used but for the figures named "bf16".
        images: number of images of the batch.
    """
    cpu, device, half = (
        set_up(with_overrides(config, options), Progress(False))
        for options in (
            ["run.device=cpu", "train.precision=fp32"],
            ["train.precision=fp32"],
            ["train.precision=bf16"],
        )
    )
    pixels = torch.from_numpy(np.stack([centre_frame(cpu.dataset.image(i), config.views.frame_size) for i in range(images)]))
    cpu.method.eval()
    with torch.no_grad():
        cpu.method.initialize([F.interpolate(cpu.engine.to_images(pixels), config.views.view_size, mode="area")])
    for other in (device, half):
        other.method.load_state_dict(cpu.method.state_dict())
    with torch.no_grad():
        z = [_features(cpu, _batch(cpu, pixels), view) for view in range(cpu.method.views)]
    figures, centroids, labels = _compare_clusters(config, [points_of(maps) for maps in z], device)
    labels = labels.view(len(z), images, *z[0].shape[2:])
    reference, ours, rough = (_compute(setup, pixels, centroids, labels) for setup in (cpu, device, half))
    cosines = [F.cosine_similarity(a, b, dim=1).mean() for a, b in zip(reference.features, rough.features, strict=True)]
    return {
        "views": _largest(reference.views, ours.views),
        "features": _largest(reference.features, ours.features),
        **figures,
        "loss": _relative(ours.loss, reference.loss),
        "gradient": float((ours.gradient - reference.gradient).norm() / reference.gradient.norm()),
        "bf16 features": float(1 - torch.stack(cosines).mean()),
        "bf16 loss": _relative(rough.loss, reference.loss),
    }


def _batch(setup: Setup, pixels: Tensor) -> BatchViews:
    draws = setup.views.draw(0, range(len(pixels)), setup.method.views)
    return BatchViews(draws, setup.config.views.view_size, setup.engine.to_images(pixels, setup.engine.picture_dtype))


def _features(setup: Setup, batch: BatchViews, view: int) -> Tensor:
    return setup.method.features(batch, view).float().cpu()


def _compare_clusters(config: Config, points: Sequence[Tensor], device: Setup) -> tuple[Figures, Tensor, Tensor]:
    """Cluster the `points` of each view on the CPU and on the device.

    Returns the figures, the CPU's centroids (V, K, D) and labels (V, n).
    """
    k, metric, to = config.cluster.k, config.cluster.kmeans_metric, device.engine.device
    centroids, labels = [], []
    figures = dict.fromkeys(("k-means", "k-means inertia", "labels"), 0.0)
    for each in points:
        first, rest = each[::2].contiguous(), each[1::2].contiguous()
        start = KMeans(k, metric).best_start(first)
        ours, theirs, own = (KMeans(k, metric) for _ in range(3))
        ours.start(first, start)
        theirs.start(first.to(to), start.to(to))
        own.start(first.to(to))
        ours.update(rest)
        theirs.update(rest.to(to))
        own.update(rest.to(to))
        assigned, distances = assign(each, ours.centroids)
        inertia = float(assign(each.to(to), own.centroids)[1].mean())
        other = assign(each.to(to), ours.centroids.to(to))[0].cpu()
        found = {
            "k-means": float((theirs.centroids.cpu() - ours.centroids).abs().max()),
            "k-means inertia": _relative(inertia, float(distances.mean())),
            "labels": float((other != assigned).float().mean()),
        }
        figures = {name: max(value, found[name]) for name, value in figures.items()}
        centroids.append(ours.centroids)
        labels.append(assigned)
    return figures, torch.stack(centroids), torch.stack(labels)


def _compute(setup: Setup, pixels: Tensor, centroids: Tensor, labels: Tensor) -> _Computed:
    method, batch = setup.method, _batch(setup, pixels)
    method.eval()
    with torch.no_grad():
        views = [batch.pictures(view).float().cpu() for view in range(method.views)]
        features = [_features(setup, batch, view) for view in range(method.views)]
    method.train()
    method.start_epoch(centroids.to(setup.engine.device), None, 0)
    total = 0.0
    for term in method.losses(_batch(setup, pixels), labels.to(setup.engine.device)):
        term["loss"].backward()  # type: ignore[no-untyped-call]
        total += float(term["loss"].detach())
    gradients = [p.grad.float().cpu().flatten() for p in method.parameters() if p.grad is not None]
    return _Computed(views, features, total, torch.cat(gradients))


def _largest(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def _relative(value: float, reference: float) -> float:
    return abs(value - reference) / max(abs(reference), 1e-12)


def compare_runs(config: Config, folder: Path) -> Figures:
    """Train two epochs on the CPU, on the device, and on the device with a stop between the
    epochs; in float32.

    Args:
        config: a small run.
        folder: an existing folder for the runs.
    """
    config = with_overrides(config, ["train.epochs=2", "train.precision=fp32"])
    api.train(with_overrides(config, ["run.device=cpu"]), folder / "cpu")
    api.train(config, folder / "whole")
    stopped = folder / "stopped"
    stopped.mkdir()
    run_folder = RunFolder(stopped, RunRecord(stopped), Progress(False), StopRequest())
    with api.open_trainer(set_up(config, Progress(False)), run_folder) as trainer:
        trainer.epoch()
    api.resume(stopped)
    cpu, whole, resumed = (read_metrics(folder / name) for name in ("cpu", "whole", "stopped"))
    return {
        "epoch loss": _relative(whole[0]["loss"], cpu[0]["loss"]),
        "resume weights": _weights_apart(folder / "whole", stopped),
        "resume loss": _relative(resumed[-1]["loss"], whole[-1]["loss"]),
    }


def _weights_apart(one: Path, other: Path) -> float:
    a, b = (
        torch.cat([v.double().flatten() for v in checkpoint.load(run)["method"].values() if v.is_floating_point()])
        for run in (one, other)
    )
    return float((a - b).norm() / a.norm())


def compare_processes(config: Config, folder: Path, processes: int) -> Figures:
    """Train one epoch in one process and in several, each with its own GPU; in float32.

    Args:
        config: a small run.
        folder: an existing folder for the runs.
        processes: number of processes, at least 2.

    Raises:
        TrainingError: the processes failed.
    """
    config = with_overrides(config, ["train.epochs=1", "train.precision=fp32"])
    api.train(config, folder / "one")
    device = torch.device(config.run.device).type
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = ["-m", "picie", "train", "--config", folder / "one" / "config.toml", "--trust", "--out", folder / "several"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [*launcher, *map(str, command), f"run.device={device}"],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if line.strip()]
        raise TrainingError(f"{processes} processes: {(lines or ['no message'])[0]}")
    one, several = (read_metrics(folder / name)[-1] for name in ("one", "several"))
    inertia = max(_relative(a, b) for a, b in zip(several["inertia"], one["inertia"], strict=True))
    return {"processes loss": _relative(several["loss"], one["loss"]), "processes inertia": inertia}
