"""Baselines: a constant, and k-means on colours and on raw backbone features, under the same
protocol as a run.
"""

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
from picie.inference.cells import CellClassifier
from picie.inference.sampling import SampleSpec, centre_square, sample_cells, training_images
from picie.models.raw_levels import RawFeatures
from picie.runtime import checkpoint
from picie.runtime.device import Engine, pick_device
from picie.runtime.progress import Progress, log
from picie.runtime.rng import derived_seed
from picie.scoring.counting import Pairs, Predict, score_split
from picie.scoring.evaluation import DEFAULTS, Evaluation, ScoreOptions, open_labelled, scored_config

_POSITION = 0.5  # weight of the standardised position relative to the standardised colour
# starts of k-means on features, as in a run by default; with one start the score varies too much
_RESTARTS = 8


def evaluate_baselines(
    run: str | Path,
    data: str | Path | None = None,
    *,
    split: str | None = None,
    options: ScoreOptions = DEFAULTS,
) -> dict[str, Evaluation]:
    """Score the baselines on the data that a run is scored on, with its K, seed and protocol.

    Labels are used only for scoring. A baseline that cannot be computed, e.g. because the
    backbone's weights are missing, is skipped with a warning. The baselines are fitted to the
    run's training images, or to those in `data` if it has none (an imported run).

    Args:
        run: the run's folder.
        data: as for `evaluate`.
        split: as for `evaluate`.
        options: as for `evaluate`.
    """
    state = checkpoint.load(run)
    # `picie name` may have changed the number of clusters
    k = len(checkpoint.classifier_in_use(state)[0])
    config = scored_config(from_dict({**state["config"], "cluster": {**state["config"]["cluster"], "k": k}}), options.overrides)
    scored, split = open_labelled(config, data, split, options.dataset)
    unlabelled = images_to_cluster(config, data, options.dataset)
    with Progress(options.progress) as bars:
        predictors: dict[str, tuple[Predict, int]] = {"constant prediction": (_constant, 1)}
        with skip_on_error("k-means on colour"):
            points = sample_pixels(unlabelled, config, bars)
            predictors["k-means on colour"] = (color_kmeans(points, config, 0.0), k)
            predictors["k-means on colour and position"] = (color_kmeans(points, config, _POSITION), k)
        with skip_on_error("k-means on raw backbone features"):
            predictors["k-means on raw backbone features"] = (raw_kmeans(unlabelled, config, options.device, bars), k)
        pairs = Pairs(scored, config)
        return {name: score_split(f, n, pairs, split, bars) for name, (f, n) in predictors.items()}


def images_to_cluster(config: Config, data: str | Path | None, dataset: str | None) -> Dataset:
    """The run's training images, or those in the folder `data` if the run has none (an imported
    run).
    """
    imported = config.data.root is None and takes_folder(config.data.name)
    return training_images(config.data, data if imported else None, dataset)


@contextlib.contextmanager
def skip_on_error(what: str) -> Iterator[None]:
    """Log a warning and continue without `what` if the context raises `InputError`."""
    try:
        yield
    except InputError as error:
        log.warning("skipped: %s: %s", what, error)


def _constant(pixels: Tensor, size: tuple[int, int]) -> np.ndarray:
    return np.zeros((len(pixels), *size), dtype=np.int64)


def sample_pixels(dataset: Dataset, config: Config, bars: Progress) -> np.ndarray:
    """Sample the same number of random pixels from each image.

    Returns:
        (n, 5) float64 `color_and_position` of the pixels.

    Raises:
        InputError: no image can be read.
    """

    def maps(pixels: Tensor) -> Tensor:
        values = torch.from_numpy(color_and_position(pixels.numpy()))
        return values.view(len(pixels), *pixels.shape[2:], -1).permute(0, 3, 1, 2)

    spec = SampleSpec(centre_square(config.evaluate_size), config.seed)
    points: np.ndarray = sample_cells(maps, dataset, spec, bars).points.numpy()
    return points


def color_kmeans(points: np.ndarray, config: Config, position_weight: float) -> Predict:
    """Fit k-means to standardised CIELAB colour and weighted position.

    Args:
        points: (n, 5), as returned by `sample_pixels`.
        config: gives K and the seed.
        position_weight: weight of the position relative to the colour.
    """
    weights = np.array([1, 1, 1, position_weight, position_weight])
    mean, scale = points.mean(0), weights / points.std(0).clip(1e-6)
    seed = derived_seed(config.seed, "color k-means")
    kmeans = KMeans(config.cluster.k, "euclidean", steps=100, seed=seed, restarts=_RESTARTS)
    kmeans.start(torch.from_numpy((points - mean) * scale).float())

    def predict(pixels: Tensor, out: tuple[int, int]) -> np.ndarray:
        if out != tuple(pixels.shape[2:]):  # with `evaluate.scale`
            pixels = F.interpolate(pixels, out, mode="bilinear", antialias=True)
        values = torch.from_numpy((color_and_position(pixels.numpy()) - mean) * scale).float()
        return assign(values, kmeans.centroids)[0].view(len(pixels), *out).numpy()

    return predict


def color_and_position(pixels: np.ndarray) -> np.ndarray:
    """Convert `pixels` (B, 3, H, W) uint8 sRGB to (B * H * W, 5) float64: CIELAB L, a, b, and row
    and column in [-1, 1].
    """
    batch, _, height, width = pixels.shape
    rows = np.broadcast_to(np.linspace(-1, 1, height)[:, None], (batch, height, width))
    columns = np.broadcast_to(np.linspace(-1, 1, width), (batch, height, width))
    lab = srgb_to_lab(pixels.transpose(0, 2, 3, 1).reshape(-1, 3) / 255)
    return np.concatenate([lab, rows.reshape(-1, 1), columns.reshape(-1, 1)], axis=1)


def raw_kmeans(dataset: Dataset, config: Config, device: str, bars: Progress) -> Predict:
    """Fit k-means to the `RawFeatures` of a dataset.

    Raises `InputError` if the backbone's weights are not available.
    """
    network = RawFeatures(config.model)
    engine = Engine(pick_device(device), config.train.precision)
    network.prepare(engine.device, engine.bf16)
    network.eval()
    spec = SampleSpec(centre_square(config.predict_size), config.seed)
    sample = sample_cells(lambda pixels: network.predict_features(engine.to_images(pixels)), dataset, spec, bars)
    points = F.normalize(network.fit(sample.points), dim=1)
    return CellClassifier(network, feature_kmeans(points, config.cluster.k, config), config, engine).clusters


def feature_kmeans(points: Tensor, k: int, config: Config) -> tuple[Tensor, Tensor]:
    """Fit spherical k-means to unit-norm `points` (n, D), the best of 8 starts.

    Returns:
        The classifier of a `CellClassifier`: weight (k, D) and bias (k,).

    Raises:
        InputError: there are fewer points than clusters.
    """
    if len(points) < k:
        raise InputError(f"cannot make {k} clusters from {len(points)} feature cells")
    kmeans = KMeans(k, steps=100, seed=derived_seed(config.seed, "feature k-means"), restarts=_RESTARTS)
    kmeans.start(points)
    return kmeans.centroids, bias(kmeans.centroids)
