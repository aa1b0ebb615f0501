"""Checks before training: paths, splits, sizes, and the number of points to cluster."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from picie.clustering.point_sample import points_per_batch
from picie.config import Config, EvaluateConfig
from picie.data import open_dataset
from picie.data.base import Dataset, MissingSplitError
from picie.data.loading import split_batches
from picie.errors import InputError
from picie.methods.base import Method
from picie.models.backbones import build_backbone
from picie.models.catalogue import SHIPPED
from picie.models.timm_models import UNSUPPORTED, one_line
from picie.runtime.device import Engine
from picie.runtime.progress import log
from picie.views.two_views import TwoViews


def with_absolute_root(config: Config) -> Config:
    """Return `config` with an absolute `data.root`.

    The run can then be scored and resumed from any folder.
    """
    if config.data.root is None:
        return config
    root = str(Path(config.data.root).absolute())
    return config.model_copy(update={"data": config.data.model_copy(update={"root": root})})


def labelled_split(config: Config) -> Dataset | None:
    """Return the split to score while training.

    It is None if the data has no labels, or lacks the default split.
    """
    try:
        dataset = open_dataset(config.data, config.evaluate.split, "scored")
    except MissingSplitError as error:
        if config.evaluate.split != EvaluateConfig.model_fields["split"].default:
            raise
        # A named dataset has labels.
        level = logging.INFO if config.data.name == "folder" else logging.WARNING
        log.log(level, "no scores while training: %s", error)
        return None
    if dataset.classes is not None:
        return dataset
    if (reason := getattr(dataset, "why_unlabelled", None)) is not None:
        log.warning("the labels are not used, so there are no scores while training: %s", reason)
    return None


def check_turns(views: TwoViews, config: Config) -> None:
    """Raise `InputError` if frames are not square but a transform exchanges rows and columns."""
    turning = next((spec for g, spec in zip(views.geometric, config.views.equivariance, strict=True) if g.needs_square), None)
    if turning is not None and config.views.aspect != 1:
        raise InputError(
            f"views.equivariance: {turning['name']!r} exchanges rows and columns, so frames must be square; leave it out, "
            f"or views.aspect={config.views.aspect:g}"
        )


@torch.no_grad()
def check_sizes(config: Config) -> None:
    """Raise `InputError` if a backbone whose weights are on a hub fails on the views' size.

    This is known before the weights are fetched: the network is made without memory, and only if
    it fails there, which not all networks support, with random weights. It takes about 0.5 s.
    """
    model = config.model
    if not model.pretrained or model.weights is not None or model.backbone == SHIPPED or ":" in model.backbone:
        return
    for device in ("meta", "cpu"):
        with torch.device(device):
            backbone = build_backbone(model, pretrained=False).eval()
            refusal: InputError | None = None
            for size in _tried_sizes(config):
                try:
                    backbone(torch.zeros(1, 3, *size))
                except UNSUPPORTED as error:
                    refusal = _refusal(config, size, error)
                    break
        if refusal is None:
            return
    assert refusal is not None
    raise refusal


def _tried_sizes(config: Config) -> list[tuple[int, int]]:
    """The sizes of a view and of a prediction, and a wider one: pictures to predict have any shape."""
    (height, width), side = config.views.view_size, config.predict_size
    return list(dict.fromkeys([(height, width), (height, width + width // 2), (side, side + side // 2)]))


def _refusal(config: Config, size: tuple[int, int], error: Exception) -> InputError:
    return InputError(
        f"model.backbone: {config.model.backbone!r} cannot take images of {size[0]}x{size[1]} pixels ({one_line(error)}); "
        "choose another backbone, or a views.size that it takes"
    )


@torch.no_grad()
def feature_size(method: Method, engine: Engine, config: Config) -> tuple[int, int]:
    """(h, w) of a view's features, found by computing the features of two black images.

    Raises:
        InputError: the network fails on images of the views' size or on wider ones, its features
            are not finite, or their number of channels is not the method's `dim`.
    """
    method.eval()
    shapes = []
    for size in _tried_sizes(config):
        try:
            features = method.predict_features(torch.zeros(1, 3, *size, device=engine.device))
            shapes.append(features.shape[1:])
        except UNSUPPORTED as error:
            raise _refusal(config, size, error) from error
    if not features.isfinite().all():
        raise InputError(
            f"model.backbone: the features of {config.model.backbone!r} are not finite (NaN or infinity), already for a "
            "black image; use other weights"
        )
    dim, *cells = shapes[0]
    if dim != method.dim:
        raise InputError(
            f"method={config.method}: its features have {dim} channels and its dim is {method.dim}; "
            f"call super().__init__(config, network, dim={dim})"
        )
    return cells[0], cells[1]


def start_points(config: Config, images: int, cells: int) -> int:
    """Return how many points k-means starts from; K must not be larger.

    There are `images` images with `cells` cells each.
    """
    options = config.cluster
    batches = split_batches(np.arange(images), options.batch_size)[: options.init_batches]
    share = points_per_batch(options.init_points, len(batches)) if batches else 0
    return sum(min(share, len(batch) * cells) for batch in batches)


def check_points(config: Config, images: int, cells: tuple[int, int]) -> None:
    """Raise `InputError` if a head has more clusters than k-means has points to start from."""
    points = start_points(config, images, cells[0] * cells[1])
    for prefix, k in config.cluster.heads.items():
        if k > points:
            raise InputError(
                f"cluster.{prefix}k = {k} clusters cannot be made of {points} points (from at most "
                f"cluster.init_batches x cluster.batch_size of {images} images, {cells[0]}x{cells[1]} cells each, and at "
                "most cluster.init_points); ask for fewer clusters or give more images"
            )


def check_normalisable(config: Config, method: Method, images: int) -> None:
    """Raise `InputError` if BatchNorm would see a single value per channel.

    That is the case for a batch of one image with one coarse cell.
    """
    sizes = [images] + [config.train.batch_size] * (config.train.epochs > 0)
    sizes += [config.cluster.batch_size] * (config.cluster.batchnorm == "train")
    if len(sizes) == 1 or config.model.freeze or min(sizes) > 1:
        return
    coarsest = max(method.network.backbone.strides)
    cells = math.prod(max(1, round(side / coarsest)) for side in config.views.view_size)
    if cells == 1 and any(isinstance(module, _BatchNorm) for module in method.network.backbone.modules()):
        raise InputError(
            f"views.size = {config.views.size}: a step on one image has a single cell at the backbone's stride of {coarsest}, "
            "and BatchNorm needs two; give a larger views.size, or batches of more images"
        )
