"""Makes the parts of a run before any image is read, and rejects runs that cannot work."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from picie.config import Config
from picie.data import open_dataset, with_scale
from picie.data.base import Dataset
from picie.data.search import report
from picie.methods.base import Method, build_method
from picie.models.synced_batchnorm import synchronise
from picie.runtime import distributed, loggers
from picie.runtime.device import Engine, keep_freed_memory, pick_device
from picie.runtime.progress import Progress
from picie.runtime.rng import derived_seed
from picie.scoring.counting import Pairs, check_labels
from picie.training.backbone_defaults import remark_on_backbone, with_backbone_defaults
from picie.training.checks import check_points, check_sizes, check_turns, feature_size, labelled_split, with_absolute_root
from picie.views.two_views import TwoViews


@dataclass(frozen=True)
class Setup:
    """The parts of a run.

    Attributes:
        config: the configuration, with an absolute `data.root` and the backbone's defaults.
        engine: device and precision.
        method: the method and its network, on the device.
        views: draws views.
        dataset: the training images.
        scored: the labelled split that is scored while training, or None.
        cells: (h, w) of a view's feature map.
    """

    config: Config
    engine: Engine
    method: Method
    views: TwoViews
    dataset: Dataset
    scored: Pairs | None
    cells: tuple[int, int]


def set_up(config: Config, bars: Progress, pretrained: bool | None = None) -> Setup:
    """Make the parts of a run.

    Nothing is written, and images are read only to measure their scale.

    Args:
        config: the run's configuration.
        bars: progress bars for the check of the labels.
        pretrained: as for `build_method`; False if a checkpoint is loaded next.

    Raises:
        InputError: the run cannot work as configured.
    """
    config = with_backbone_defaults(with_absolute_root(config))
    loggers.check(config.run.loggers)
    device = pick_device(config.run.device)
    if device.type == "cpu":
        keep_freed_memory()
    views = TwoViews(config.views.invariance, config.views.equivariance, config.seed)
    check_turns(views, config)
    dataset = open_dataset(config.data, config.data.train_split, "train")
    config = config.model_copy(update={"data": with_scale(config.data, dataset)})
    labelled = labelled_split(config)
    for part in (dataset, labelled):
        if (search := getattr(part, "search", None)) is not None:
            report(search)
    if pretrained is not False:
        check_sizes(config)
    seed = derived_seed(config.seed, "weights")
    # A run on the CPU leaves the generators of GPUs alone.
    torch.default_generator.manual_seed(seed) if device.type == "cpu" else torch.manual_seed(seed)
    method = build_method(config, pretrained)
    engine = Engine(device, config.train.precision)
    method.prepare(device, engine.bf16)
    if distributed.world_size() > 1:
        synchronise(method)
    cells = feature_size(method, engine, config)
    remark_on_backbone(config, method, cells)
    check_points(config, len(dataset), cells)
    if labelled is not None:
        check_labels(labelled, bars)
    scored = None if labelled is None else Pairs(labelled, config)
    return Setup(config, engine, method, views, dataset, scored, cells)
