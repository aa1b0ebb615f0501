"""What a score must beat: a constant, and k-means on colours and on what the backbone knew, under the same protocol."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from picie.clustering.kmeans import KMeans, assign, bias
from picie.config import Config, from_dict
from picie.data import takes_folder
from picie.data.base import Dataset
from picie.display.colors import srgb_to_lab
from picie.errors import InputError
from picie.inference.sampling import centre_square, sample_cells, training_images
from picie.inference.segmenter import Segmenter
from picie.models.raw_levels import RawFeatures
from picie.runtime import checkpoint
from picie.runtime.device import Engine, pick_device
from picie.runtime.progress import Progress, log
from picie.runtime.rng import derived_seed
from picie.scoring.evaluation import (
    DEFAULTS,
    Evaluation,
    Pairs,
    Predict,
    ScoreOptions,
    open_labelled,
    score_split,
    scored_config,
)

_POSITION = 0.5  # weight of the standardised position beside standardised colour (METHOD 8)
_RESTARTS = 8  # of k-means on features, as many as a run's own by default: one start alone leaves the score to chance


def evaluate_baselines(
    run: str | Path,
    data: str | Path | None = None,
    *,
    split: str | None = None,
    options: ScoreOptions = DEFAULTS,
) -> dict[str, Evaluation]:
    """Score the baselines on what a run is scored on, with its K, seed and protocol; no label is used but to score.

    A baseline that cannot be had, e.g. for want of the backbone's weights, is left out with a warning.

    They are made of the run's own training images, or of those in `data` where it has none (an imported run).

    Args:
        run: a run's folder.
        data: as for `evaluate`.
        split: as for `evaluate`.
        options: as for `evaluate`.
    """
    state = checkpoint.load(run)
    k = len(checkpoint.classifier_in_use(state)[0])  # `picie name` may have made other clusters than those of the training
    config = scored_config(from_dict({**state["config"], "cluster": {**state["config"]["cluster"], "k": k}}), options.overrides)
    scored, split = open_labelled(config, data, split, options.dataset)
    unlabelled = images_to_cluster(config, data, options.dataset)
    with Progress(options.progress) as bars:
        predictors: dict[str, tuple[Predict, int]] = {"constant prediction": (_constant, 1)}
        with left_out("k-means on colour"):
            points = sample_pixels(unlabelled, config, bars)
            predictors["k-means on colour"] = (color_kmeans(points, config, 0.0), k)
            predictors["k-means on colour and position"] = (color_kmeans(points, config, _POSITION), k)
        with left_out("k-means on raw backbone features"):
            predictors["k-means on raw backbone features"] = (raw_kmeans(unlabelled, config, options.device, bars), k)
        pairs = Pairs(scored, config)
        return {name: score_split(f, n, pairs, split, bars) for name, (f, n) in predictors.items()}


def images_to_cluster(config: Config, data: str | Path | None, dataset: str | None) -> Dataset:
    """The run's own training images; of a run without any, as an imported one, those in the folder `data`."""
    imported = config.data.root is None and takes_folder(config.data.name)
    return training_images(config.data, data if imported else None, dataset)


@contextlib.contextmanager
def left_out(what: str) -> Iterator[None]:
    """Do without `what`, and say why, where the context raises `InputError`."""
    try:
        yield
    except InputError as error:
        log.warning("left out: %s: %s", what, error)


def _constant(pixels: Tensor, size: tuple[int, int]) -> np.ndarray:
    return np.zeros((len(pixels), *size), dtype=np.int64)


def sample_pixels(dataset: Dataset, config: Config, bars: Progress) -> np.ndarray:
    """(n, 5) `color_and_position` of an equal number of random pixels of each image. Raises `InputError` if there is none."""

    def maps(pixels: Tensor) -> Tensor:
        values = torch.from_numpy(color_and_position(pixels.numpy()))
        return values.view(len(pixels), *pixels.shape[2:], -1).permute(0, 3, 1, 2)

    found: np.ndarray = sample_cells(maps, dataset, centre_square(config.evaluate_size), config.seed, bars).points.numpy()
    return found


def color_kmeans(points: np.ndarray, config: Config, position_weight: float) -> Predict:
    """K-means on standardised CIELAB colour and weighted position, made of `points` (n, 5) as `sample_pixels` gives them."""
    weights = np.array([1, 1, 1, position_weight, position_weight])
    mean, scale = points.mean(0), weights / points.std(0).clip(1e-6)
    seed = derived_seed(config.seed, "color k-means")
    kmeans = KMeans(config.cluster.k, "euclidean", steps=100, seed=seed, restarts=_RESTARTS)
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


def raw_kmeans(dataset: Dataset, config: Config, device: str, bars: Progress) -> Predict:
    """K-means on `RawFeatures` of the images of `dataset`. Raises `InputError` where the backbone's weights cannot be had."""
    network = RawFeatures(config.model)
    engine = Engine(pick_device(device), config.train.precision)
    network.prepare(engine.device, engine.bf16)
    network.eval()
    load = centre_square(config.evaluate_size)
    sample = sample_cells(lambda pixels: network.predict_features(engine.to_images(pixels)), dataset, load, config.seed, bars)
    points = F.normalize(network.fit(sample.points), dim=1)
    return Segmenter(network, feature_kmeans(points, config.cluster.k, config), config, engine).clusters


def feature_kmeans(points: Tensor, k: int, config: Config) -> tuple[Tensor, Tensor]:
    """Spherical k-means on unit-norm `points` (n, D), the best of 8 starts, as a `Segmenter`'s classifier of `k` clusters."""
    if len(points) < k:
        raise InputError(f"{k} clusters cannot be made of {len(points)} cells")
    kmeans = KMeans(k, steps=100, seed=derived_seed(config.seed, "feature k-means"), restarts=_RESTARTS)
    kmeans.start(points)
    return kmeans.centroids, bias(kmeans.centroids)
