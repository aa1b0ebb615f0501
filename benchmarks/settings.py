"""What is measured: one configuration a backbone, or one a step of what is to grow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from picie import registry
from picie.config import Config, load, with_overrides
from picie.errors import InputError

Grow = Literal["images", "size", "k"]

STEPS: dict[Grow, tuple[int, ...]] = {"images": (1, 4, 16), "size": (96, 160, 224, 320), "k": (8, 32, 128, 512)}
"""What is tried of each quantity: times the images, the views' short side in pixels, clusters."""

EXTRA_EPOCHS = 3
"""Epochs that `train.epochs` has beyond those counted: warm-up, stages, and a last one, never come to, which would differ."""

_DEFAULTS = {"cluster.k": 11, "views.size": 160, "train.batch_size": 16, "cluster.batch_size": 16}  # METHOD 8's CamVid runs
_KEYS = {"size": "views.size", "k": "cluster.k"}


def setting(backbone: str, options: Sequence[str], epochs: int) -> Config:
    """The configuration that is measured for a backbone.

    Weights are loaded where they come with picie or are given; elsewhere the network starts at random, which is as fast.

    Args:
        backbone: its name.
        options: "section.key=value" strings, laid over the default preset.
        epochs: `train.epochs`.

    Raises:
        InputError: an option that cannot be used, or that the benchmark sets itself.
    """
    given = {option.partition("=")[0].strip() for option in options}
    own = {
        "model.backbone": (backbone, "say --backbone"),
        "train.epochs": (epochs, "say --rounds"),
        "data.on_bad_image": ("error", "all contestants must have the same images, so a bad one is an error"),
        "run.report": ("false", "none is written"),
    }
    for key, (_, instead) in own.items():
        if key in given:
            raise InputError(f"bench: {key} is not to be set; {instead}")
    random = backbone != registry.SHIPPED_BACKBONE and not given & {"model.weights", "model.pretrained"}
    ours = [f"{key}={value}" for key, (value, _) in own.items()] + ["model.pretrained=false"] * random
    defaults = [f"{key}={value}" for key, value in _DEFAULTS.items() if key not in given]
    config = load(None, None, [*defaults, *options, *ours])
    if config.evaluate.every > 1:
        raise InputError("bench: evaluate.every must be 1 or 0, so that all epochs are alike")
    return config


def grown(config: Config, quantity: Literal["size", "k"], value: int) -> Config:
    """`config` with that many clusters, or views of that size. Raises `InputError` where it does not fit."""
    return with_overrides(config, [f"{_KEYS[quantity]}={value}"])


def check_grown(grow: Grow, options: Sequence[str]) -> None:
    """Raise `InputError` if one of the `options`, "section.key=value", sets what is to grow."""
    key = _KEYS.get(grow, "")
    if any(option.partition("=")[0].strip() == key for option in options):
        raise InputError(f"--grow {grow} sets {key} itself ({', '.join(map(str, STEPS[grow]))}); leave that option out")


def described(config: Config) -> dict[str, object]:
    """The sizes of a configuration, for a benchmark's record; no path is in it."""
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
