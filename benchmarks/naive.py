"""The naive recipe: a straightforward implementation of an epoch of the published method.

Five passes over the images: cluster view 1, cluster view 2, label view 1, label view 2 (writes one
file per image and view), train. Each pass opens, resizes and recolours every image again, in
worker processes. That is six forward and two backward passes per image, in fp32 and the default
memory layout. It uses only PyTorch and torchvision, with vectorised arithmetic. The transforms are
the published ones, whatever `views.invariance` and `views.equivariance` are.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks.meters import cores, peaks, timed
from benchmarks.naive_data import LabelledPictures, Pictures, label_file
from benchmarks.naive_kmeans import lloyd, means, nearest, points
from benchmarks.pictures import image_paths
from picie.config import Config
from picie.data import open_dataset
from picie.data.loading import split_batches
from picie.models.extractor import Extractor
from picie.runtime.device import pick_device
from picie.training.checks import labelled_split


def measure_naive(config: Config, folder: Path, epoch: int = 0) -> dict[str, Any]:
    """Time one epoch of the naive recipe, after a warm-up step on random images.

    Args:
        config: gives sizes, batches, K and the network.
        folder: for the label files.
        epoch: number of the epoch, which seeds its random draws.

    Returns:
        "seconds" of the epoch, seconds of its "passes", numbers of images passed "forwards" and
        "backwards" through the network, "threads", "workers", and peak memory of this process
        without its workers.
    """
    recipe = Naive(config, folder)
    recipe.warm_up()
    passes: dict[str, float] = {}
    seconds = timed(lambda: passes.update(recipe.epoch(epoch)), recipe.device)
    machine = {"threads": torch.get_num_threads(), "workers": recipe.workers}
    return {"seconds": seconds, "passes": passes, **recipe.calls, **machine, **peaks(recipe.device)}


class Naive:
    """The passes of the naive recipe.

    Args:
        config: as for `measure_naive`.
        folder: for the label files.
        workers: processes that load images; None: one per core.

    Attributes:
        calls: images passed "forwards" and "backwards" through the network so far.

    Raises:
        InputError: the data are not image files.
    """

    def __init__(self, config: Config, folder: Path, workers: int | None = None) -> None:
        self.config, self.folder = config, folder
        self.workers = cores() if workers is None else workers
        self.paths = image_paths(open_dataset(config.data, config.data.train_split))
        self.scored = labelled_split(config) if config.evaluate.every else None
        self.device = pick_device(config.run.device)
        self.network = Extractor(config.model).to(self.device)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=config.train.lr)
        self.calls = {"forwards": 0, "backwards": 0}

    def warm_up(self) -> None:
        """Run one forward and backward pass on random images."""
        images = torch.rand(self.config.train.batch_size, 3, *self.config.views.view_size, device=self.device)
        self.network.train()
        self._features(images).square().mean().backward()
        self.calls = {"forwards": 0, "backwards": 0}

    def epoch(self, number: int) -> dict[str, float]:
        """Run an epoch; returns seconds by pass."""
        seconds, centroids = {}, []
        for view in (0, 1):
            began = time.perf_counter()
            centroids.append(self._cluster(number, view))
            seconds[f"cluster view {view + 1}"] = time.perf_counter() - began
        for view in (0, 1):
            began = time.perf_counter()
            self._label(number, view, centroids[view])
            seconds[f"label view {view + 1}"] = time.perf_counter() - began
        began = time.perf_counter()
        self._train(number, centroids)
        seconds["train"] = time.perf_counter() - began
        if self.scored is not None:
            began = time.perf_counter()
            self._evaluate(centroids[0])
            seconds["evaluate"] = time.perf_counter() - began
        return seconds

    def _features(self, images: Tensor) -> Tensor:
        """(B, D, h, w) features of `images` (B, 3, H, W), without the extractor's choice of
        precision and layout.
        """
        self.calls["forwards"] += len(images)
        self.calls["backwards"] += len(images) * torch.is_grad_enabled()
        normalised = (images - self.network.input_mean) / self.network.input_std
        features: Tensor = self.network.fpn(self.network.backbone(normalised))
        return features

    def _view(self, images: Tensor, boxes: Tensor, view: int) -> Tensor:
        """Unit-norm features of one view, in the frame after the geometric transform."""
        z = self._features(images.to(self.device))
        return F.normalize(_crop(z, boxes.to(self.device)) if view == 1 else z, dim=1)

    def _batches(self, epoch: int, views: Sequence[int], batch_size: int, labels: Path | None = None) -> Iterator[Any]:
        options = self.config.views
        pictures = Pictures(self.paths, options.frame_size, options.view_size, epoch, views, labels)
        order = np.random.default_rng((epoch, *views)).permutation(len(pictures))
        batches = [batch.tolist() for batch in split_batches(order, batch_size)]
        yield from DataLoader(pictures, batch_sampler=batches, num_workers=self.workers, pin_memory=self.device.type == "cuda")

    @torch.no_grad()
    def _cluster(self, epoch: int, view: int) -> Tensor:
        """(K, D) centroids of a view: Lloyd iterations on the first batches, then running means."""
        options = self.config.cluster
        self.network.eval()
        gathered: list[Tensor] = []
        centroids = counts = torch.empty(0)
        for step, (_, boxes, (images,), _) in enumerate(self._batches(epoch, (view,), options.batch_size)):
            z = points(self._view(images, boxes, view))
            if step < options.init_batches:
                gathered.append(z)
                continue
            if gathered:
                centroids, counts = lloyd(torch.cat(gathered), options.k, options.lloyd_steps)
                gathered = []
            averages, n = means(z, nearest(z, centroids), centroids)
            counts += n
            centroids = centroids + (n / counts.clamp(min=1))[:, None] * (averages - centroids)
        return lloyd(torch.cat(gathered), options.k, options.lloyd_steps)[0] if gathered else centroids

    @torch.no_grad()
    def _label(self, epoch: int, view: int, centroids: Tensor) -> None:
        """Write a file of pseudo-labels for each image."""
        self.network.eval()
        for indices, boxes, (images,), _ in self._batches(epoch, (view,), self.config.cluster.batch_size):
            z = self._view(images, boxes, view)
            labels = nearest(points(z), centroids).view(len(z), *z.shape[2:]).cpu().numpy().astype(np.uint16)
            for index, label in zip(indices.tolist(), labels, strict=True):
                np.save(label_file(self.folder, view, index), label)

    def _train(self, epoch: int, centroids: Sequence[Tensor]) -> None:
        """Run the gradient steps."""
        self.network.train()
        batches = self._batches(epoch, (0, 1), self.config.train.batch_size, self.folder)
        for _, boxes, images, labels in batches:
            z = [self._view(images[view], boxes, view) for view in (0, 1)]
            y = [label.to(self.device) for label in labels]
            logits = [[torch.einsum("bdhw,kd->bkhw", z[view], c) for c in centroids] for view in (0, 1)]
            within = (F.cross_entropy(logits[0][0], y[0]) + F.cross_entropy(logits[1][1], y[1])) / 2
            cross = (F.cross_entropy(logits[0][1], y[1]) + F.cross_entropy(logits[1][0], y[0])) / 2
            self.optimizer.zero_grad()
            ((within + cross) / 2).backward()
            self.optimizer.step()

    @torch.no_grad()
    def _evaluate(self, centroids: Tensor) -> float:
        """Pixel accuracy on the labelled split after Hungarian matching."""
        assert self.scored is not None
        assert self.scored.classes is not None
        self.network.eval()
        classes, k = len(self.scored.classes), len(centroids)
        pictures = LabelledPictures(self.scored, image_paths(self.scored), self.config.evaluate_size)
        confusion = torch.zeros(classes, k, dtype=torch.long)
        for images, labels in DataLoader(
            pictures, self.config.train.batch_size, num_workers=self.workers, pin_memory=self.device.type == "cuda"
        ):
            z = F.normalize(self._features(images.to(self.device)), dim=1)
            logits = torch.einsum("bdhw,kd->bkhw", z, centroids)
            predicted = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False).argmax(1).cpu()
            known = labels != self.scored.classes.ignore
            confusion += torch.bincount(labels[known] * k + predicted[known], minlength=classes * k).view(classes, k)
        rows, columns = linear_sum_assignment(confusion.numpy(), maximize=True)
        return float(confusion[rows, columns].sum() / confusion.sum().clamp(min=1))


def _crop(z: Tensor, boxes: Tensor) -> Tensor:
    """Apply the geometric transform to features `z` (B, D, h, w): crop to `boxes` (B, 4), enlarge
    to (h, w), flip.
    """
    top, left, side, flip = boxes.unbind(1)
    theta = boxes.new_zeros(len(z), 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = side * (1 - 2 * flip), 2 * left + side - 1
    theta[:, 1, 1], theta[:, 1, 2] = side, 2 * top + side - 1
    grid = F.affine_grid(theta, list(z.shape), align_corners=False)
    return F.grid_sample(z, grid, padding_mode="border", align_corners=False)
