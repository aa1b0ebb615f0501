"""picie: unsupervised semantic segmentation by invariance and equivariance in clustering.

The names in `__all__` are the public interface. They are imported on first use, so that `picie --help`
does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from picie.version import __version__

if TYPE_CHECKING:
    from picie.config import Config
    from picie.conversion.base import ConvertOptions
    from picie.conversion.convert import convert
    from picie.inference.batch_predictor import BatchPredictor
    from picie.inference.segmenter import Segmenter
    from picie.registry import trust
    from picie.scoring.evaluation import ScoreOptions, evaluate
    from picie.scoring.folders import FolderOptions, score_folders
    from picie.training.runs import Run, resume, train

__all__ = [
    "BatchPredictor", "Config", "ConvertOptions", "FolderOptions", "Run", "ScoreOptions", "Segmenter", "__version__",
    "convert", "evaluate", "resume", "score_folders", "train", "trust",
]  # fmt: skip

_HOMES = {
    "BatchPredictor": "inference.batch_predictor",
    "Config": "config",
    "ConvertOptions": "conversion.base",
    "FolderOptions": "scoring.folders",
    "Run": "training.runs",
    "ScoreOptions": "scoring.evaluation",
    "Segmenter": "inference.segmenter",
    "convert": "conversion.convert",
    "evaluate": "scoring.evaluation",
    "resume": "training.runs",
    "score_folders": "scoring.folders",
    "train": "training.runs",
    "trust": "registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'picie' has no attribute {name!r}")
    return getattr(importlib.import_module(f"picie.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
