"""picie: unsupervised semantic segmentation by invariance and equivariance in clustering.

The public interface: `Config`, `train`, `evaluate`, `Segmenter`.
"""

from picie.config import Config
from picie.evaluation import evaluate
from picie.inference import Segmenter
from picie.training import train
from picie.version import __version__

__all__ = ["Config", "Segmenter", "__version__", "evaluate", "train"]
