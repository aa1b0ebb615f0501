"""Creates timm models as feature extractors: pyramids, and the patch tokens of ViTs."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import timm
import torch
from huggingface_hub import constants, get_session
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from picie.errors import InputError, nearest
from picie.models.catalogue import KNOWN, SHIPPED

log = logging.getLogger(__name__)

_PYRAMID_LEVELS = 4
_HUB_TIMEOUT = 10.0  # seconds
# What timm's models raise on arguments, sizes or layouts that they do not support.
UNSUPPORTED = (RuntimeError, AttributeError, TypeError, ValueError, LookupError, AssertionError)
# Arguments of timm.create_model that read weights.
_READING = {"cache_dir", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"}
_patch_sizes: dict[str, int | None] = {}  # results of `patch_size`


def timm_name(name: str) -> str:
    """Return timm's name of a backbone: a short name of the catalogue, or a name of timm.

    Raises `InputError`, with the nearest name, if it is neither.
    """
    if name in KNOWN:
        return KNOWN[name].timm
    bare = name.split(".")[0]
    if not timm.is_model(bare):
        raise InputError(f"model.backbone: unknown name {name!r}; {nearest(bare, [*KNOWN, *timm.list_models()])}")
    return name


def create(name: str, pretrained: bool, levels: int | None, given: Mapping[str, Any]) -> nn.Module:
    """Create a timm model that returns a list of feature maps, and has their `feature_info`.

    Args:
        name: a timm model name, with or without a tag of its weights.
        pretrained: load the weights of timm's hub.
        levels: number of feature maps; None gives the last block of a ViT and the last four of a
            pyramid.
        given: further arguments of `timm.create_model`.

    Raises:
        InputError: the model gives no feature maps, or its weights cannot be fetched.
    """
    return _extractor(name, levels, given, _fetch if pretrained else timm.create_model)


def _extractor(name: str, levels: int | None, given: Mapping[str, Any], make: Callable[..., Any]) -> nn.Module:
    """Return `create`'s model; `make` creates the timm model that it uses."""
    options = _options(name, given)
    with _as_input_error(name):
        if patch_size(name, given) is not None:
            # The features that timm makes by itself lack the final norm, with which their authors
            # use these models.
            model = make(name, **{"num_classes": 0, **options})
            extractor: nn.Module = FeatureGetterNet(model, out_indices=levels or 1, norm=True)
            extractor.pretrained_cfg = model.pretrained_cfg
            return extractor
        plain = timm.create_model(name, features_only=True, **options)
        indices = _pyramid(plain, levels or _PYRAMID_LEVELS)
        pyramid: nn.Module = make(name, **{"features_only": True, **options, "out_indices": indices})
        return pyramid


def convert(name: str, levels: int | None, given: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Bring weights in the layout of their authors to the names and shapes of `create`'s model.

    This is timm's own conversion: names, merged biases, position embeddings of another size.

    Args:
        name: a timm model name.
        levels: as for `create`.
        given: as for `create`.
        state: the authors' state_dict.

    Returns:
        The state_dict, or None if `state` does not give every weight of the model.
    """

    def loaded(tensors: dict[str, Tensor]) -> nn.Module:
        overlay = {"state_dict": tensors, "custom_load": False}
        return _extractor(name, levels, given, partial(timm.create_model, pretrained=True, pretrained_cfg_overlay=overlay))

    # timm loads some models without asking whether a name is missing. What comes from the file is
    # found by loading NaN first.
    with _quiet(), contextlib.redirect_stdout(io.StringIO()):  # a conversion prints names
        try:
            # A damaged file may hold tensors that cannot be filled, e.g. sparse ones.
            blank = {k: torch.full_like(v, torch.nan) if v.is_floating_point() else v for k, v in state.items()}
            filled = loaded(blank).state_dict().values()
            complete = all(tensor.isnan().any() for tensor in filled if tensor.is_floating_point())
            return dict(loaded(dict(state)).state_dict()) if complete else None
        except (*UNSUPPORTED, InputError):
            return None


def patch_size(name: str, given: Mapping[str, Any]) -> int | None:
    """Return the patch size of a ViT of timm in pixels, and None for a pyramid.

    The model is made without memory, which takes about 0.2 s, once for each name and arguments.

    Args:
        name: a timm model name.
        given: further arguments of `timm.create_model`.

    Raises:
        InputError: the model gives no feature maps.
    """
    options = _options(name, given)
    key = f"{name} {sorted(options.items())}"
    if key not in _patch_sizes:
        with _as_input_error(name), torch.device("meta"):
            plain = timm.create_model(name, features_only=True, **options)
        _patch_sizes[key] = _strides(plain)[-1] if is_vit(plain) else None
    return _patch_sizes[key]


def is_vit(net: Any) -> bool:
    """Whether all blocks of a timm feature extractor give patch tokens at one stride."""
    strides = _strides(net)
    return isinstance(net, FeatureGetterNet) and len(strides) > 1 and len(set(strides)) == 1


def _options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `timm.create_model`.

    Raises `InputError` for those that read weights from elsewhere: a configuration may come from
    other people, and must not make picie open files or addresses.
    """
    refused = sorted(_READING & given.keys())
    if refused:
        raise InputError(f"model.backbone_options: {refused[0]!r} is not possible; give weights by model.weights=FILE")
    return {**_any_size(name), **given}


@contextlib.contextmanager
def _as_input_error(name: str) -> Iterator[None]:
    try:
        yield
    except UNSUPPORTED as error:
        raise InputError(f"model.backbone: timm's {name!r} gives no feature maps ({one_line(error)})") from error


def _fetch(name: str, **options: Any) -> Any:
    """Create a timm model with the weights of its hub."""
    log.info("fetching the weights of %s from the hub", name)
    try:
        with _quiet(), _without_retries():
            return timm.create_model(name, pretrained=True, **options)
    except (OSError, RuntimeError, ValueError) as error:  # no network, no such file, a timeout, no weights
        raise InputError(
            f"model.pretrained: the weights of {name!r} cannot be fetched from the hub ({one_line(error)}); "
            "use model.weights=FILE (.pth or .safetensors), "
            f"or --backbone {SHIPPED}, whose ImageNet weights are installed"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Log only errors of the hub, which logs each retry, and of timm, which logs names."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "timm")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


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
        except (OSError, RuntimeError, ValueError):
            raise OSError(f"{constants.ENDPOINT} cannot be reached: {one_line(error)}") from error
        finally:
            constants.HF_HUB_OFFLINE = False
    else:
        yield


def _any_size(name: str) -> dict[str, bool]:
    """Return the option that makes a timm model accept images of any size, if it has one."""
    module = inspect.getmodule(timm.model_entrypoint(name.split(".")[0]))
    signatures = [
        inspect.signature(c).parameters for _, c in inspect.getmembers(module, inspect.isclass) if issubclass(c, nn.Module)
    ]
    options = {option for parameters in signatures if "num_classes" in parameters for option in parameters}
    if "dynamic_img_size" in options:  # ViTs: position embeddings are interpolated
        return {"dynamic_img_size": True}
    return {"strict_img_size": False} if "strict_img_size" in options else {}  # Swin


def _strides(net: Any) -> list[int]:
    """Return the strides of all outputs of a timm feature extractor."""
    inner = getattr(net, "model", None)
    entries = inner.feature_info if inner is not None and isinstance(inner.feature_info, list) else None
    return [entry["reduction"] for entry in entries] if entries else list(net.feature_info.reduction())


def _pyramid(net: Any, levels: int) -> tuple[int, ...]:
    """Return the outputs of a timm feature extractor to use: the last ones of stride 4 or more.

    Finer outputs (EfficientNet's first, ResNet's stem) are not part of the paper's pyramid.
    """
    return tuple(i for i, stride in enumerate(_strides(net)) if stride >= 4)[-levels:]


def one_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its class."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(" and we cannot")[0][:200]
