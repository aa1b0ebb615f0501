"""What is measured: one configuration a backbone, or one a step of what is to grow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from picie import registry
from picie.config import Config, load, with_overrides

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
        InputError: an option that cannot be used.
    """
    given = {option.partition("=")[0].strip() for option in options}
    random = backbone != registry.SHIPPED_BACKBONE and not given & {"model.weights", "model.pretrained"}
    ours = [
        f"model.backbone={backbone}",
        f"train.epochs={epochs}",
        "data.on_bad_image=error",  # so that all contestants have the same images
        "run.report=false",
        *(["model.pretrained=false"] if random else []),
    ]
    defaults = [f"{key}={value}" for key, value in _DEFAULTS.items() if key not in given]
    return load(None, None, [*defaults, *options, *ours])


def grown(config: Config, quantity: Literal["size", "k"], value: int) -> Config:
    """`config` with that many clusters, or views of that size. Raises `InputError` where it does not fit."""
    return with_overrides(config, [f"{_KEYS[quantity]}={value}"])


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
