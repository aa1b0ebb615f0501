"""What a score must beat: a constant, and k-means on colour and position, under the same protocol."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from picie import checkpoint
from picie.clustering.kmeans import KMeans, assign
from picie.colors import srgb_to_lab
from picie.config import Config, from_dict
from picie.data import open_dataset, takes_folder
from picie.data.base import Dataset
from picie.data.images import square_frame
from picie.data.loading import read_ahead
from picie.errors import InputError, UnreadableImageError
from picie.evaluation import Evaluation, Predict, open_labelled, score_split
from picie.runlog import Progress
from picie.views.draws import derived_seed

_SAMPLE = 2**17  # pixels that the clustering is made of
_POSITION = 0.5  # weight of the standardised position beside standardised colour (METHOD 8)


def evaluate_baselines(
    run: str | Path,
    data: str | Path | None = None,
    split: str | None = None,
    progress: bool = True,
    dataset: str | None = None,
) -> dict[str, Evaluation]:
    """Score the baselines on what a run is scored on, with its K, seed and protocol.

    They are made of the run's own training images, or of those in `data` where it has none (an imported run).

    Args:
        run: a run's folder.
        data: as for `evaluate`.
        split: as for `evaluate`.
        progress: show bars, on a terminal.
        dataset: as for `evaluate`.
    """
    config = from_dict(checkpoint.load(run)["config"])
    scored, split = open_labelled(config, data, split, dataset)
    own = config.data
    if data is not None and own.root is None and takes_folder(own.name):  # an imported run has no images of its own
        own = own.model_copy(update={"name": dataset or own.name, "root": str(data)})
    unlabelled = open_dataset(own, own.train_split)
    with Progress(progress) as bars:
        points = sample_pixels(unlabelled, config, bars)
        predictors: dict[str, tuple[Predict, int]] = {
            "constant prediction": (_constant, 1),
            "k-means on colour": (color_kmeans(points, config, 0.0), config.cluster.k),
            "k-means on colour and position": (color_kmeans(points, config, _POSITION), config.cluster.k),
        }
        return {name: score_split(f, k, scored, config, split, bars) for name, (f, k) in predictors.items()}


def _constant(pixels: Tensor, size: tuple[int, int]) -> np.ndarray:
    return np.zeros((len(pixels), *size), dtype=np.int64)


def sample_pixels(dataset: Dataset, config: Config, bars: Progress) -> np.ndarray:
    """(n, 5) `color_and_position` of an equal number of random pixels of each image that can be read."""
    size, seed = config.evaluate_size, derived_seed(config.seed, "color k-means")
    share = max(1, _SAMPLE // len(dataset))

    def sample(index: int) -> np.ndarray | None:
        try:
            frame = square_frame(dataset.image(index), size)
        except UnreadableImageError:
            return None
        points = color_and_position(frame[None])
        picked = np.random.default_rng([seed, index]).choice(len(points), min(share, len(points)), replace=False)
        chosen: np.ndarray = points[picked]
        return chosen

    found = []
    with bars.bar("sample colours", len(dataset)) as advance:
        for points in read_ahead(sample, range(len(dataset))):
            advance(1)
            if points is not None:
                found.append(points)
    return np.concatenate(found)


def color_kmeans(points: np.ndarray, config: Config, position_weight: float) -> Predict:
    """K-means on standardised CIELAB colour and weighted position, made of `points` (n, 5) as `sample_pixels` gives them."""
    weights = np.array([1, 1, 1, position_weight, position_weight])
    mean, scale = points.mean(0), weights / points.std(0).clip(1e-6)
    seed = derived_seed(config.seed, "color k-means")
    kmeans = KMeans(config.cluster.k, "euclidean", steps=100, seed=seed)
    kmeans.start(torch.from_numpy((points - mean) * scale).float())

    def predict(pixels: Tensor, out: tuple[int, int]) -> np.ndarray:
        if out != tuple(pixels.shape[2:]):
            raise InputError("colour baselines are scored at the size of their pixels")
        values = torch.from_numpy((color_and_position(pixels.numpy()) - mean) * scale).float()
        return assign(values, kmeans.centroids)[0].view(len(pixels), *out).numpy()

    return predict


def color_and_position(pixels: np.ndarray) -> np.ndarray:
    """(B * H * W, 5) float64: CIELAB L, a, b, and row and column in [-1, 1], of `pixels` (B, 3, H, W) uint8 sRGB."""
    batch, _, height, width = pixels.shape
    rows = np.broadcast_to(np.linspace(-1, 1, height)[:, None], (batch, height, width))
    columns = np.broadcast_to(np.linspace(-1, 1, width), (batch, height, width))
    lab = srgb_to_lab(pixels.transpose(0, 2, 3, 1).reshape(-1, 3) / 255)
    return np.concatenate([lab, rows.reshape(-1, 1), columns.reshape(-1, 1)], axis=1)
