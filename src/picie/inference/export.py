"""`picie export`: writes the segmentation network to one file that does not need picie.

The format is that of torch.export or ONNX.

The file has one input, `images`, (B, 3, H, W) uint8 RGB, and two outputs: `labels`, (B, H, W), the
values that `picie predict` writes, and `logits`, (B, K, h, w) float32, one vector per feature
cell, for callers who enlarge them to another size themselves.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from picie.display.colors import rgb_to_hex
from picie.errors import InputError
from picie.inference.segmenter import Segmenter
from picie.methods.base import Method
from picie.runtime import checkpoint
from picie.runtime.atomic_write import write_atomically
from picie.runtime.device import Engine
from picie.runtime.output_paths import check_file
from picie.runtime.progress import log
from picie.version import __version__

METADATA = "picie.json"  # the extra file of a .pt2
_INPUTS, _OUTPUTS = ["images"], ["labels", "logits"]
# Example input, in multiples of the coarsest stride; tracing treats a size of 1 as a constant.
_EXAMPLE = (2, 3)
_TOLERANCE = 1e-3  # of logits; the traced program differs by rounding only, about 1e-6


def export(run: str | Path, file: str | Path, size: tuple[int, int] | None = None) -> Path:
    """Write a run's segmentation network to `file`, in fp32.

    Args:
        run: a run's folder or checkpoint file.
        file: the file to write: .pt2 (torch.export) or .onnx (needs the extra `export`); must not
            exist.
        size: fixed height and width of the input. None allows all multiples of the coarsest stride,
            from two on; if the network cannot be traced that way, a warning says which size was
            fixed instead. The batch size is always free.

    Returns:
        The file.

    Raises:
        InputError: there is no such run, the suffix is not valid, the file exists, the size does
            not fit, packages are missing, or the network cannot be exported.
    """
    file = Path(file)
    _check_file(file)
    state = checkpoint.load(run)
    precision = state["config"]["train"]["precision"]
    # The precision of autocast depends on the machine.
    state["config"]["train"]["precision"] = "fp32"
    segmenter = Segmenter.from_state(state, "cpu")
    method = segmenter.method
    assert isinstance(method, Method)
    method.to(memory_format=torch.contiguous_format)
    coarsest = max(method.network.backbone.strides)
    if size is not None and any(side < coarsest or side % coarsest for side in size):
        raise InputError(f"--size {size[0]} {size[1]}: give multiples of {coarsest}, this network's coarsest stride")
    _pad_statically(method)
    program, size = _trace_any(segmenter, coarsest, size)
    metadata = _metadata(segmenter, coarsest, size)
    if file.suffix == ".pt2":
        log.info("writing %s", file)
        extra = {METADATA: json.dumps(metadata)}
        write_atomically(file, lambda opened: torch.export.save(program, opened, extra_files=extra))
    else:
        log.info("converting to ONNX (20 to 60 s)")
        content = _to_onnx(segmenter, program, metadata)
        log.info("writing %s", file)
        write_atomically(file, lambda opened: opened.write(content))
    if Engine(segmenter.engine.device, precision).bf16:
        log.info(
            "the file computes in fp32, picie predict on this machine in bf16: labels can differ "
            "where two clusters are almost equally near (1.5 % of pixels where measured)"
        )
    return file


def _check_file(file: Path) -> None:
    if file.suffix not in {".pt2", ".onnx"}:
        raise InputError(f"{file}: unknown format {file.suffix!r}; give a file that ends in .pt2 or .onnx")
    if file.exists():
        raise InputError(f"{file}: exists already; give another name")
    check_file("export to", file)
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if file.suffix == ".onnx" and missing:
        raise InputError(f"{file}: .onnx needs {' and '.join(missing)}; pip install 'picie[export]', or give a .pt2 file")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress torch's logs, warnings and output about its own internals.

    The caller turns errors into one line.
    """
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _pad_statically(network: nn.Module) -> None:
    """Make the padding of TensorFlow's "same" convolutions independent of the input's size.

    The exported input is a multiple of the coarsest stride, so each layer's input is a multiple of
    its own stride, and then the padding is constant. With the size-dependent formula, tracing
    EfficientNet-Lite0 took four minutes and its `ceil` could not be saved.
    """
    for module in network.modules():
        if isinstance(module, Conv2dSame):
            module.forward = functools.partial(_same_convolution, module)


def _same_convolution(module: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve `x` (B, C, H, W); H and W must be multiples of the stride."""
    rows, columns = (
        max(0, dilation * (kernel - 1) + 1 - stride)
        for kernel, stride, dilation in zip(module.kernel_size, module.stride, module.dilation, strict=True)
    )
    padded = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    return F.conv2d(padded, module.weight, module.bias, module.stride, 0, module.dilation, module.groups)


class _Labeller(nn.Module):
    """The exported module: labels at the size of the images, and the segmenter's logits."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        # The method is an attribute, so that its weights are registered.
        self.segmenter, self.method = segmenter, segmenter.method
        small = len(segmenter.names) <= 256
        values = torch.from_numpy(segmenter.value_of_cluster).to(torch.uint8 if small else torch.int32)
        self.register_buffer("values", values)
        self.values: Tensor

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.segmenter.logits(images.float() / 255)
        enlarged = F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)
        return self.values[enlarged.argmax(1)], logits


def _trace_any(
    segmenter: Segmenter, coarsest: int, size: tuple[int, int] | None
) -> tuple[torch.export.ExportedProgram, tuple[int, int] | None]:
    """Trace with the given size, or with free sizes.

    If free sizes fail, the size of scoring is fixed.

    Returns:
        The program, and its fixed input size or None.

    Raises:
        InputError: the network cannot be traced at all.
    """
    backbone = segmenter.config.model.backbone
    log.info("tracing %s (10 to 60 s)", backbone)
    try:
        return _trace(segmenter, coarsest, size), size
    except Exception as error:  # a user's network may fail with any error
        if size is not None:
            raise InputError(f"{backbone} cannot be exported ({_one_line(error)})") from error
        side = max(1, round(segmenter.config.predict_size / coarsest)) * coarsest
        log.warning("%s cannot be exported with a free size; trying %d x %d", backbone, side, side)
        program, fixed = _trace_any(segmenter, coarsest, (side, side))
        log.warning("the input size is fixed: %d x %d; choose another by --size HEIGHT WIDTH", side, side)
        return program, fixed


@torch.no_grad()
def _trace(segmenter: Segmenter, coarsest: int, size: tuple[int, int] | None) -> torch.export.ExportedProgram:
    """Trace the network, and check the program against the segmenter on random images."""
    height, width = size or (coarsest * cells for cells in _EXAMPLE)
    free: dict[int, Any] = {0: torch.export.Dim("batch")}
    if size is None:
        free |= {2: coarsest * torch.export.Dim("rows", min=2), 3: coarsest * torch.export.Dim("columns", min=2)}
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 3, height, width), dtype=torch.uint8, generator=generator)
    tried = [images]
    if size is None:
        # Some networks are traced for one size without an error: DINOv3 computes its position
        # embeddings from the numbers of cells.
        larger = (2, 3, height + coarsest, width + 2 * coarsest)
        tried.append(torch.randint(256, larger, dtype=torch.uint8, generator=generator))
    with _quiet():
        program = torch.export.export(_Labeller(segmenter).eval(), (images,), dynamic_shapes=(free,))
        logits = [program.module()(pictures)[1] for pictures in tried]
    for pictures, traced in zip(tried, logits, strict=True):
        difference = float((traced - segmenter.logits(pictures.float() / 255)).abs().max())
        if not difference < _TOLERANCE:
            raise RuntimeError(f"the traced program's logits differ from the network's by {difference:.2g}")
    return program


def _to_onnx(segmenter: Segmenter, program: torch.export.ExportedProgram, metadata: dict[str, Any]) -> bytes:
    """Return `program` as a serialised ONNX model. Raises `InputError` if that is impossible."""
    try:
        with _quiet():
            model: Any = torch.onnx.export(program, input_names=_INPUTS, output_names=_OUTPUTS, dynamo=True, verbose=False)
            model.model.metadata_props.update({name: json.dumps(value) for name, value in metadata.items()})
            content: bytes = model.model_proto.SerializeToString()
    except Exception as error:  # any operation may lack a conversion
        backbone = segmenter.config.model.backbone
        raise InputError(f"{backbone} cannot be converted to ONNX ({_one_line(error)}); export it to a .pt2 file") from error
    return content


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _metadata(segmenter: Segmenter, coarsest: int, size: tuple[int, int] | None) -> dict[str, Any]:
    """Return the metadata that a user of the file needs."""
    return {
        "picie": __version__,
        "names": segmenter.names,
        "colors": [rgb_to_hex(color) for color in segmenter.colors],
        "short_side": segmenter.config.predict_size,
        "multiple_of": coarsest,
        "size": size,
        "precision": "fp32",
    }
