"""`picie import-checkpoint`: convert a checkpoint of the authors' published code to a run.

Such a file holds `state_dict` (torchvision's ResNet and four laterals), `classifier1_state_dict`,
for PiCIE also `classifier2_state_dict`, `optimizer`, `epoch` and `args`; most names are prefixed
`module.`. The architecture is derived from the tensors; `args` are stored as data and compared
with them. The optimizer state is dropped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from picie import config, registry
from picie.config import Config
from picie.errors import InputError
from picie.models.extractor import Extractor
from picie.runtime import checkpoint, output_paths
from picie.runtime.checkpoint_schema import is_dense
from picie.runtime.progress import log
from picie.runtime.run_record import RunRecord
from picie.version import __version__

_ARCHITECTURES = {  # (blocks of res2 to res5, whether they are bottlenecks) -> name
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
}
_CLASSIFIERS = ("classifier1_state_dict", "classifier2_state_dict")


@dataclass(frozen=True)
class _Published:
    """Content of a published checkpoint. Types are checked, but not yet the architecture.

    Attributes:
        file: the file that it was read from.
        network: tensors of the network, names without `module.`.
        classifiers: (K, D) weights and (K,) biases; two for PiCIE, one for MDC.
        epoch: as stored in the file.
        args: command-line arguments of the training, as plain values.
    """

    file: Path
    network: dict[str, Tensor]
    classifiers: list[tuple[Tensor, Tensor]]
    epoch: int | None
    args: dict[str, Any]


def import_checkpoint(file: str | Path, out: str | Path, dataset: str = "cocostuff27") -> Path:
    """Convert a published checkpoint to a run, for evaluation, prediction and export.

    The run cannot be trained further.

    Args:
        file: the checkpoint. It is read as data; no code in it is run.
        out: folder of the run; created, and must be empty if it exists.
        dataset: dataset to score the run on, a name from `picie list datasets`.

    Returns:
        The run's folder.

    Raises:
        InputError: `file` is not such a checkpoint, `out` is in use, or the dataset is unknown;
            nothing is written.
    """
    file, out = Path(file), Path(out)
    output_paths.check_new(out)
    registry.trust([dataset])
    registry.find(registry.DATASETS, dataset, "--dataset")
    published = _read(file)
    settings = _settings(published, dataset)
    network = _network_state(published, settings)
    weight, bias = published.classifiers[0]
    with file.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    source = {"file": file.name, "sha256": sha256, "epoch": published.epoch}
    state = {
        "picie": __version__,
        "config": settings.model_dump(mode="json"),
        "imported": source,
        "method": {**network, "centroids": torch.stack([w for w, _ in published.classifiers]), "prototypes": weight}
        | ({"linear.weight": weight, "linear.bias": bias} if settings.method == "mdc" else {}),
        "classifier": {"weight": weight, "bias": bias},
        **{"epoch": published.epoch or 0, "step": 0, "finished": True, "matching": None},
    }
    with output_paths.new_folder(out):
        output_paths.write_text(out / "config.toml", config.to_toml(settings))
        record = RunRecord(out)
        record.start({})
        record.update(status="imported", imported={**source, "args": published.args})
        checkpoint.save(out / checkpoint.FILE_NAME, state)
    _compare(published, settings)
    log.info("imported: %s, %s, D = %d, K = %d", settings.method, settings.model.backbone, *weight.shape[::-1])
    return out


def _read(file: Path) -> _Published:
    """Read `file`. Raises `InputError` for any content that is not as expected."""
    if not file.is_file():
        raise InputError(f"{file}: no such file; give a checkpoint of the published code")
    # A Namespace is a plain container of attributes.
    content = checkpoint.read_tensors(file, also=(argparse.Namespace,))
    if not isinstance(content, Mapping) or not ("state_dict" in content or _CLASSIFIERS[0] in content):
        raise InputError(f"{file}: not a checkpoint of the published code, which holds 'state_dict' and '{_CLASSIFIERS[0]}'")
    network = _tensors(content, "state_dict", file)
    names = _CLASSIFIERS if _CLASSIFIERS[1] in content else _CLASSIFIERS[:1]
    classifiers = [_classifier(_tensors(content, name, file), name, file) for name in names]
    if classifiers[0][0].shape != classifiers[-1][0].shape:
        raise InputError(f"{file}: {_CLASSIFIERS[0]} and {_CLASSIFIERS[1]} have different shapes; the file is damaged")
    epoch = content.get("epoch")
    if epoch is not None and not (type(epoch) is int and 0 <= epoch < 2**31):
        raise InputError(f"{file}: epoch is not a number of epochs; the file is damaged")
    return _Published(file, network, classifiers, epoch, _plain_args(content.get("args"), file))


def _tensors(content: Mapping[Any, Any], section: str, file: Path) -> dict[str, Tensor]:
    """Finite tensors of one state_dict of the file, names without `module.`."""
    state = content.get(section)
    if not isinstance(state, Mapping):
        raise InputError(f"{file}: has no {section!r}; it is not a complete checkpoint of the published code")
    tensors = {}
    for name, tensor in state.items():
        if not (isinstance(name, str) and isinstance(tensor, Tensor)):
            raise InputError(f"{file}: {section}: {name!r:.80} is not a named tensor; the file is damaged")
        if not is_dense(tensor):
            raise InputError(f"{file}: {section}: {name!r:.80} is not a dense tensor of real numbers")
        if not tensor.isfinite().all():
            raise InputError(f"{file}: {section}: {name!r:.80} has values that are not finite; the training diverged")
        tensors[name.removeprefix("module.")] = tensor.detach()
    return tensors


def _classifier(state: Mapping[str, Tensor], section: str, file: Path) -> tuple[Tensor, Tensor]:
    """(K, D) weights and (K,) biases from the state of a 1x1 convolution."""
    for name in ("weight", "bias"):
        if name not in state:
            raise InputError(f"{file}: {section} has no {name!r}; the file is damaged")
    weight, bias = state["weight"], state["bias"]
    if weight.shape[2:] != (1, 1) or bias.shape != weight.shape[:1]:
        shapes = f"{tuple(weight.shape)} and {tuple(bias.shape)}"
        raise InputError(f"{file}: {section}: weight and bias have shapes {shapes}; expected (K, D, 1, 1) and (K,)")
    return weight[:, :, 0, 0].float().clone(), bias.float().clone()


def _plain_args(args: Any, file: Path) -> dict[str, Any]:
    """Return the attributes of `args`.

    Raises `InputError` unless they are numbers, strings or lists of these.
    """
    if args is None:
        return {}
    values = vars(args) if type(args) is argparse.Namespace else args
    if not isinstance(values, dict):
        raise InputError(f"{file}: args is not an argparse.Namespace; the file is damaged")
    for name, value in values.items():
        parts = value if isinstance(value, list | tuple) else (value,)
        if not (isinstance(name, str) and all(_is_plain(part) for part in parts)):
            raise InputError(
                f"{file}: args: {name!r:.80} is not a number, a string or a list of these, as in the published code"
            )
    return dict(values)


def _is_plain(value: Any) -> bool:
    return value is None or type(value) in (bool, float, str) or (type(value) is int and abs(value) < 2**63)


def _settings(published: _Published, dataset: str) -> Config:
    """Return the configuration with which picie predicts as the published code does.

    Sizes come from the tensors.
    """
    k, dim = published.classifiers[0][0].shape
    method = "picie" if len(published.classifiers) == 2 else "mdc"
    values = {
        "data.name": json.dumps(dataset),
        "model.backbone": _architecture(published),
        "model.pretrained": "false",
        "model.dim": dim,
        "cluster.k": k,
        "train.precision": "fp32",  # as for the published scores
    }
    try:
        return config.load(f"cocostuff27-{method}", None, [f"{key}={value}" for key, value in values.items()])
    except InputError as error:
        raise InputError(f"{published.file}: {error}") from error


def _architecture(published: _Published) -> str:
    """Name of the ResNet with the blocks that the tensors belong to."""
    pattern = re.compile(r"backbone\.layer([1-4])\.(\d+)\.conv([123])\.weight")
    convolutions = [match.groups() for match in map(pattern.fullmatch, published.network) if match]
    blocks = tuple(len({block for stage, block, _ in convolutions if stage == level}) for level in "1234")
    name = _ARCHITECTURES.get((blocks, any(convolution == "3" for _, _, convolution in convolutions)))  # type: ignore[arg-type]
    if name is None:
        raise InputError(
            f"{published.file}: state_dict: backbone.layer1 to layer4 have {blocks} blocks, "
            "which matches none of ResNet-18, -34, -50 and -101"
        )
    return name


def _network_state(published: _Published, settings: Config) -> dict[str, Tensor]:
    """Tensors of the network under the names of a run's checkpoint, with checked shapes."""
    file, remaining = published.file, dict(published.network)
    state = {}
    for name, expected in Extractor(settings.model, pretrained=False).state_dict().items():
        theirs = _published_name(name)
        if theirs in remaining:
            tensor = remaining.pop(theirs)
        elif name.endswith("num_batches_tracked"):  # missing from old versions of torch, and not used
            tensor = expected
        else:
            raise InputError(f"{file}: state_dict lacks {theirs!r}, which {settings.model.backbone} needs; the file is damaged")
        if tensor.shape != expected.shape:
            shapes = f"{tuple(tensor.shape)}; with {settings.model.backbone} and D = {settings.model.dim}, expected"
            raise InputError(f"{file}: state_dict: {theirs!r} has shape {shapes} {tuple(expected.shape)}")
        state[f"network.{name}"] = tensor.to(expected.dtype).clone()
    # Ignore the ImageNet classifier, which is not used.
    extra = [name for name in remaining if not name.startswith("backbone.fc.")]
    if extra:
        raise InputError(f"{file}: state_dict: {extra[0]!r:.80} is not part of the published network")
    return state


def _published_name(name: str) -> str:
    """Return the published name of a tensor of the network.

    The published decoder counts levels from coarse to fine.
    """
    if name.startswith("fpn.laterals."):
        _, _, level, part = name.split(".")
        return f"decoder.layer{4 - int(level)}.{part}"
    return name.replace("backbone.net.", "backbone.", 1)


def _compare(published: _Published, settings: Config) -> None:
    """Warn if `args` and the tensors differ; the tensors are used."""
    for key, actual in {
        "arch": settings.model.backbone,
        "in_dim": settings.model.dim,
        "K_train": settings.cluster.k,
    }.items():
        claimed = published.args.get(key, actual)
        if claimed != actual:
            log.warning("%s: args say %s = %.80r, tensors %s; the tensors are used", published.file, key, claimed, actual)
