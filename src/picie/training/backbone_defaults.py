"""Options whose default depends on the backbone: those of a ViT differ from those of a pyramid."""

from __future__ import annotations

from typing import Any

from picie.config import Config
from picie.methods.base import Method
from picie.models.backbones import patch_size
from picie.models.catalogue import VIEW_CELLS
from picie.runtime.progress import log

_FEWEST_CELLS = 20
_LR = 1e-5  # of the last block, if a ViT is trained
_LAYER_DECAY = 0.75


def with_backbone_defaults(config: Config) -> Config:
    """Return `config` with every option set whose default depends on the backbone.

    A pretrained backbone is frozen; a class of your own counts as pretrained if it has
    `model.weights` or gives patch tokens. Views of a ViT have 28 x 28 cells, and images are
    predicted at that size. If a pretrained ViT is not frozen, its last block is trained at a rate
    of 1e-5 and each block below at 0.75 times the rate of the next. Options that are set stay as
    they are.

    Raises:
        InputError: the backbone is unknown, or gives no feature maps.
    """
    model, views, train, score = config.model, config.views, config.train, config.evaluate
    options: list[tuple[Any, str]] = [(views, "size"), (train, "backbone_lr"), (train, "layer_decay"), (score, "scale")]
    if model.freeze is not None and all(name in section.model_fields_set for section, name in options):
        return config
    patch = patch_size(model)
    pretrained = model.pretrained and (":" not in model.backbone or model.weights is not None or patch is not None)
    frozen = pretrained if model.freeze is None else model.freeze
    rates, size, scale = {}, {}, {}
    if patch is not None and pretrained and not frozen:
        rates = {"backbone_lr": _LR / train.lr, "layer_decay": _LAYER_DECAY}
    if patch is not None:
        largest = views.crop or patch * VIEW_CELLS
        size, scale = {"size": max(1, min(VIEW_CELLS, largest // patch)) * patch}, {"scale": 1.0}
    sections = {
        "model": model.model_copy(update={"freeze": frozen}),
        "views": views.model_copy(update=_unset(views, size)),
        "train": train.model_copy(update=_unset(train, rates)),
        "evaluate": score.model_copy(update=_unset(score, scale)),
    }
    return config.model_copy(update=sections)


def _unset(section: Any, values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in section.model_fields_set}


def remark_on_backbone(config: Config, method: Method, cells: tuple[int, int]) -> None:
    """Log what the backbone changes: few cells of a ViT, a frozen backbone, a smaller D.

    `cells` are the rows and columns of a view's features.
    """
    network, (rows, columns) = method.network, cells
    if network.patch_tokens:
        name, patch = config.model.backbone, network.stride
        state = "frozen" if network.frozen else "trained"
        log.info("%s: %d x %d cells of %d px for a view of %d px; %s", name, rows, columns, patch, config.views.size, state)
        if min(cells) < _FEWEST_CELLS:
            log.warning(
                "views.size = %d gives %s only %d x %d cells; small objects are lost: give --size %d or more",
                *(config.views.size, name, rows, columns, patch * VIEW_CELLS),
            )
    if network.dim < config.model.dim:
        log.info(
            "model.dim = %d: the backbone's levels have fewer principal components, so D = %d",
            *(config.model.dim, network.dim),
        )
