"""`picie export`: the segmentation network as one file that is used without picie, by torch.export or ONNX.

The file's one input is `images`, (B, 3, H, W) uint8 RGB; its outputs are `labels`, (B, H, W), the values that `picie predict`
writes, and `logits`, (B, K, h, w) float32, a vector for each feature cell, for those who enlarge them to another size.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from picie.display.colors import rgb_to_hex
from picie.errors import InputError
from picie.inference.segmenter import Segmenter
from picie.methods.base import Method
from picie.runtime import checkpoint
from picie.runtime.output_paths import check_file
from picie.runtime.progress import log
from picie.version import __version__

METADATA = "picie.json"  # the extra file of a .pt2
_INPUTS, _OUTPUTS = ["images"], ["labels", "logits"]
_EXAMPLE = (2, 3)  # coarsest cells of the traced image; one would be taken for a constant


def export(run: str | Path, file: str | Path, size: tuple[int, int] | None = None) -> Path:
    """Write a run's segmentation network to `file`, in fp32.

    Args:
        run: a run's folder or checkpoint file.
        file: what to write: .pt2 (torch.export) or .onnx (needs the extra `export`); must not exist.
        size: fixed height and width of the input; none: any multiples, from two on, of the coarsest stride. The number of
            images is free in both.

    Returns:
        The file.

    Raises:
        InputError: no such run, another suffix, a file that exists, a size that does not fit, packages that are missing, or a
            network that cannot be exported.
    """
    file = Path(file)
    _check_file(file)
    state = checkpoint.load(run)
    state["config"]["train"]["precision"] = "fp32"  # autocast is a matter of this machine
    segmenter = Segmenter.from_state(state, "cpu")
    method = segmenter.method
    assert isinstance(method, Method)
    method.to(memory_format=torch.contiguous_format)
    coarsest = max(method.network.backbone.strides)
    if size is not None and any(side < coarsest or side % coarsest for side in size):
        raise InputError(f"--size {size[0]} {size[1]}: give multiples of {coarsest}, this network's coarsest stride")
    with _quietly():
        checkpoint.write_atomically(file, _content(segmenter, coarsest, size, file.suffix))
    return file


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """No remarks of torch on its own insides, which it logs, warns of and prints; what goes wrong is one line of ours."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _check_file(file: Path) -> None:
    if file.suffix not in {".pt2", ".onnx"}:
        raise InputError(f"{file}: unknown format {file.suffix!r}; give a file that ends in .pt2 or .onnx")
    if file.exists():
        raise InputError(f"{file}: exists already; give another name")
    check_file("export to", file)
    lacking = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if file.suffix == ".onnx" and lacking:
        raise InputError(f"{file}: .onnx needs {' and '.join(lacking)}; pip install 'picie[export]', or give a .pt2 file")


class _Labeller(nn.Module):
    """What is exported: a segmenter's logits, enlarged to the image, and the values of their arg max."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter, self.method = segmenter, segmenter.method  # the method as a module, for its weights
        small = len(segmenter.names) <= 256
        values = torch.from_numpy(segmenter.value_of_cluster).to(torch.uint8 if small else torch.int32)
        self.register_buffer("values", values)
        self.values: Tensor

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.segmenter.logits(images.float() / 255)
        enlarged = F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)
        return self.values[enlarged.argmax(1)], logits


def _content(segmenter: Segmenter, coarsest: int, size: tuple[int, int] | None, suffix: str) -> Callable[[Any], Any]:
    """The function that writes the program to an open file. Raises `InputError` if the network cannot be exported."""
    metadata = _metadata(segmenter, coarsest, size)
    log.info("tracing %s; this takes up to a minute", segmenter.config.model.backbone)
    try:
        program = _trace(segmenter, coarsest, size)
        if suffix == ".pt2":
            return lambda file: torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata)})
        converted: Any = torch.onnx.export(program, input_names=_INPUTS, output_names=_OUTPUTS, dynamo=True, verbose=False)
        converted.model.metadata_props.update({name: json.dumps(value) for name, value in metadata.items()})
        content = converted.model_proto.SerializeToString()
        return lambda file: file.write(content)
    except Exception as error:  # anybody's network may fail in tracing with any error at all
        advice = "; try --size HEIGHT WIDTH" if size is None else ""
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{segmenter.config.model.backbone} cannot be exported ({reason}){advice}") from error


@torch.no_grad()
def _trace(segmenter: Segmenter, coarsest: int, size: tuple[int, int] | None) -> torch.export.ExportedProgram:
    height, width = size or (coarsest * cells for cells in _EXAMPLE)
    free: dict[int, Any] = {0: torch.export.Dim("batch")}
    if size is None:
        free |= {2: coarsest * torch.export.Dim("rows", min=2), 3: coarsest * torch.export.Dim("columns", min=2)}
    images = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    return torch.export.export(_Labeller(segmenter).eval(), (images,), dynamic_shapes=(free,))


def _metadata(segmenter: Segmenter, coarsest: int, size: tuple[int, int] | None) -> dict[str, Any]:
    """What a user of the file must know."""
    return {
        "picie": __version__,
        "names": segmenter.names,
        "colors": [rgb_to_hex(color) for color in segmenter.colors],
        "short_side": segmenter.config.evaluate_size,
        "multiple_of": coarsest,
        "size": size,
    }
