"""Configurations to measure: one per backbone, or one per step of `--grow`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from picie.config import Config, load, with_overrides
from picie.errors import InputError
from picie.models.catalogue import SHIPPED
from picie.training.backbone_defaults import with_backbone_defaults

Grow = Literal["images", "size", "k"]

STEPS: dict[Grow, tuple[int, ...]] = {"images": (1, 4, 16), "size": (96, 160, 224, 320), "k": (8, 32, 128, 512)}
"""Steps of each quantity: multiples of the images, short side of the views in pixels, number of
clusters.
"""

EXTRA_EPOCHS = 3
"""Epochs of `train.epochs` that are not timed: warm-up, stages, and the last, which is never run
because it would differ.
"""

# the settings of the CamVid runs in docs/research/reproduction.md
_DEFAULTS = {"cluster.k": 11, "views.size": 160, "train.batch_size": 16, "cluster.batch_size": 16}
_KEYS = {"size": "views.size", "k": "cluster.k"}


def setting(backbone: str, options: Sequence[str], epochs: int) -> Config:
    """The configuration to measure for a backbone.

    Pretrained weights are used if they are installed with picie or given. Otherwise the network
    starts from random weights, which does not change its speed.

    Args:
        backbone: name of the backbone.
        options: "section.key=value" strings, applied over the preset per-cell, whose every pass
            has a counterpart in the naive recipe.
        epochs: `train.epochs`.

    Raises:
        InputError: an invalid option, or one that the benchmark sets itself.
    """
    given = {option.partition("=")[0].strip() for option in options}
    fixed = {
        "model.backbone": (backbone, "use --backbone"),
        "train.epochs": (epochs, "use --rounds"),
        "data.on_bad_image": ("error", "all contestants must process the same images, so an unreadable one is an error"),
        "run.report": ("false", "no report is written"),
        "evaluate.scale": (1, "all contestants predict at the size of a view"),
    }
    for key, (_, instead) in fixed.items():
        if key in given:
            raise InputError(f"bench: {key} cannot be set; {instead}")
    random = backbone != SHIPPED and not given & {"model.weights", "model.pretrained"}
    fixed_options = [f"{key}={value}" for key, (value, _) in fixed.items()] + ["model.pretrained=false"] * random
    defaults = [f"{key}={value}" for key, value in _DEFAULTS.items() if key not in given]
    config = with_backbone_defaults(load("per-cell", None, [*defaults, *options, *fixed_options]))
    if config.evaluate.every > 1:
        raise InputError("bench: evaluate.every must be 1 or 0, so that all epochs do the same work")
    return config


def grown(config: Config, quantity: Literal["size", "k"], value: int) -> Config:
    """`config` with `value` clusters or views of `value` pixels. Raises `InputError` if it is
    invalid.
    """
    return with_overrides(config, [f"{_KEYS[quantity]}={value}"])


def check_grown(grow: Grow, options: Sequence[str]) -> None:
    """Raise `InputError` if one of the "section.key=value" `options` sets the quantity that `grow`
    varies.
    """
    key = _KEYS.get(grow, "")
    if any(option.partition("=")[0].strip() == key for option in options):
        raise InputError(f"--grow {grow} sets {key} itself ({', '.join(map(str, STEPS[grow]))}); leave that option out")


def described(config: Config) -> dict[str, object]:
    """The sizes of a configuration, for a record; contains no path."""
    options = config.model_dump(mode="json")
    options["data"].pop("root")
    return {
        "method": config.method,
        "backbone": config.model.backbone,
        "freeze": config.model.freeze,
        "k": config.cluster.k,
        "batch_size": config.train.batch_size,
        "view": list(config.views.view_size),
        "frame": list(config.views.frame_size),
        "config": {key: value for key, value in options.items() if key != "run"},
    }
