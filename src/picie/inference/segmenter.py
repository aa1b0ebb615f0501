"""Label maps of pictures, from one checkpoint file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from picie.config import Config, from_dict
from picie.data.base import ClassMap
from picie.data.images import open_image, to_rgb, upright, whole_size
from picie.data.scaling import Reading
from picie.display.colors import hex_to_rgb
from picie.errors import InputError
from picie.inference.segments import Segments
from picie.methods.base import Method, build_method
from picie.methods.losses import prototype_logits
from picie.runtime import checkpoint
from picie.runtime.device import Engine, pick_device
from picie.views.resampling import resampling_matrix

_CHUNK = 2**24  # logits enlarged at a time (64 MB), for pictures of any size
_TILE = 2**15  # rows of a resampling matrix: with 1024 cells it takes 128 MB


class Features(Protocol):
    """The part of a method that a segmenter uses: features of pictures, and the mode."""

    training: bool

    def predict_features(self, images: Tensor) -> Tensor:
        """Return features (B, D, h, w), of any norm, of `images` (B, 3, H, W) in [0, 1]."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Set the mode."""
        ...

    def eval(self) -> Any:
        """Set evaluation mode."""
        ...


class Segmenter:
    """A trained network and its clusters.

    Args:
        method: the method, or another module with `predict_features`.
        classifier: (K, D) weights and (K,) offsets; a cell's cluster is the arg max of its logits.
        config: the run's configuration.
        engine: device and precision.
        classes: the classes of the run's evaluation, or None.
        assignment: (K,) each cluster's class in that evaluation, or UNMATCHED.

    Attributes:
        segments: the meaning of each value of a predicted map: the segments that a user named;
            otherwise the classes and unmatched clusters if the run was evaluated; otherwise the
            clusters.
        names: names of the segments.
        colors: colours (R, G, B) in 0..255 of the segments.
        value_of_cluster: (K,) value of each cluster in a predicted map.
    """

    def __init__(
        self,
        method: Features,
        classifier: tuple[Tensor, Tensor],
        config: Config,
        engine: Engine,
        classes: ClassMap | None = None,
        assignment: np.ndarray | None = None,
    ) -> None:
        self.method, self.config, self.engine = method, config, engine
        # Pictures are read as the training images were.
        self.reading = Reading(config.data.scale, config.data.max_pixels)
        self.classifier = (classifier[0].to(engine.device), classifier[1].to(engine.device))
        self.classes = classes
        self.k = len(classifier[0])
        self.name_clusters(classes, assignment)

    def name_clusters(self, classes: ClassMap | None, assignment: np.ndarray | None) -> None:
        """Set the meaning of predicted values.

        The values are `classes`, by `assignment` (K,), or clusters if either argument is None.
        """
        self.classes = classes
        if classes is None or assignment is None:
            self.take_segments(Segments.plain(self.k))
        else:
            self.take_segments(Segments.matched(classes, assignment))

    def take_segments(self, segments: Segments) -> None:
        """Set the meaning of predicted values to `segments` of the K clusters."""
        self.segments = segments
        self.names = segments.names
        self.colors = tuple(hex_to_rgb(color) for color in segments.colors)
        self.value_of_cluster = np.array(segments.assignment, dtype=np.int64)

    @classmethod
    def load(cls, run: str | Path, device: str = "auto") -> Segmenter:
        """Load the segmenter of a run's folder or checkpoint file.

        Raises:
            InputError: there is no checkpoint of picie, or the device does not exist.
        """
        return cls.from_state(checkpoint.load(run), device)

    @classmethod
    def from_state(cls, state: dict[str, Any], device: str = "auto") -> Segmenter:
        """Make the segmenter of a loaded checkpoint.

        Raises `InputError` if its run has no clusters yet.
        """
        if not (state["epoch"] or state["step"] or state["finished"]):
            raise InputError("the run was stopped before its first clusters; go on with picie train --resume RUN")
        config = from_dict(state["config"])
        method = build_method(config, pretrained=False)
        _load_weights(method, state)
        engine = Engine(pick_device(device), config.train.precision)
        method.prepare(engine.device, engine.bf16)
        method.eval()
        matching = state.get("matching")
        classes, assignment = None, None
        if matching is not None:
            classes = ClassMap(tuple(matching["names"]), tuple(matching["colors"]), matching["ignore"])
            assignment = np.array(matching["assignment"], dtype=np.int64)
        segmenter = cls(method, checkpoint.classifier_in_use(state), config, engine, classes, assignment)
        naming = state.get("naming")
        if naming is not None and (naming["segments"]["user_defined"] or matching is None):
            segmenter.take_segments(Segments.of(naming["segments"]))
        return segmenter

    def predict(self, image: str | Path | Image.Image | np.ndarray) -> np.ndarray:
        """Return the label map of one picture.

        Args:
            image: a file, a Pillow image of any mode, or an array (H, W, 3) or (H, W) of uint8.

        Returns:
            (H, W) uint8, or uint16 for more than 256 values, of the upright picture's size;
            `names` and `colors` describe the values.

        Raises:
            UnreadableImageError: the file cannot be read as an image.
            InputError: the array has another shape or dtype.
        """
        picture = open_image(Path(image), self.reading) if isinstance(image, str | Path) else _as_image(image)
        features = self.features(self.to_pixels(picture))
        small = len(self.names) <= 256
        values = torch.from_numpy(self.value_of_cluster).to(features.device, torch.uint8 if small else torch.int32)
        with torch.inference_mode():
            logits = prototype_logits(features, *self.classifier)
            labels: np.ndarray = enlarged_argmax(logits, (picture.height, picture.width), values)[0].cpu().numpy()
        return labels if small else labels.astype(np.uint16)

    def values(self, clusters: np.ndarray) -> np.ndarray:
        """Return the values of `clusters`, integers of any shape, in a label map.

        They are uint8, or uint16 if there are more than 256 values.
        """
        values: np.ndarray = self.value_of_cluster.astype(np.uint8 if len(self.names) <= 256 else np.uint16)[clusters]
        return values

    def predict_clusters(self, image: Image.Image) -> np.ndarray:
        """Return (H, W) int64 clusters of an RGB picture.

        The features are computed with its short side at `evaluate.size`.
        """
        clusters: np.ndarray = self.clusters(self.to_pixels(image), (image.height, image.width))[0]
        return clusters

    def logits(self, images: Tensor) -> Tensor:
        """Return (B, K, h, w) float32 logits of each feature cell.

        `images` are (B, 3, H, W) float32 in [0, 1].
        """
        return prototype_logits(F.normalize(self.method.predict_features(images).float(), dim=1), *self.classifier)

    @torch.inference_mode()
    def clusters(self, pixels: Tensor, size: tuple[int, int]) -> np.ndarray:
        """Return (B, *size) int64 clusters of `pixels` (B, 3, H, W) uint8.

        The logits are enlarged bilinearly to `size` before the arg max.
        """
        return self.clusters_of(self.features(pixels), size)

    @torch.inference_mode()
    def clusters_of(self, features: Tensor, size: tuple[int, int]) -> np.ndarray:
        """Return (B, *size) int64 clusters of unit-norm `features` (B, D, h, w).

        This is the second half of `clusters`.
        """
        return enlarged_argmax(prototype_logits(features, *self.classifier), size).cpu().numpy()

    @torch.inference_mode()
    def features(self, pixels: Tensor) -> Tensor:
        """Return unit-norm features (B, D, h, w) float32 of `pixels` (B, 3, H, W) uint8.

        They are on the engine's device.
        """
        training = self.method.training
        self.method.eval()
        z = self.method.predict_features(self.engine.to_images(pixels))
        self.method.train(training)
        return F.normalize(z.float(), dim=1)

    def to_pixels(self, image: Image.Image) -> Tensor:
        """Return (1, 3, H, W) uint8 of an RGB picture, with the short side `evaluate.size`."""
        height, width = whole_size(image.height, image.width, self.config.evaluate_size)
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.asarray(resized).transpose(2, 0, 1)[None].copy())


def _load_weights(method: Method, state: dict[str, Any]) -> None:
    """Load a checkpoint's weights.

    Raises `InputError` if they are not those of its configuration.
    """
    advice = "the checkpoint is damaged, restore a copy of it, or train again"
    try:
        method.load_state_dict(state["method"])
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"the weights do not fit the configuration ({reason:.200}): {advice}") from error
    dim = checkpoint.classifier_in_use(state)[0].shape[1]
    if dim != method.dim:
        raise InputError(f"the clusters have {dim} dimensions, and the features have {method.dim}: {advice}")


def enlarged_argmax(logits: Tensor, size: tuple[int, int], values: Tensor | None = None) -> Tensor:
    """Enlarge logits to `size` and take the arg max, in parts to limit the memory.

    Args:
        logits: (B, K, h, w).
        size: (H, W).
        values: (K,) integers to return for the K clusters; None returns their indices.

    Returns:
        (B, H, W) of the dtype of `values`, or int64.
    """
    (batch, k, h, w), (height, width) = logits.shape, size
    values = torch.arange(k, device=logits.device) if values is None else values
    result = torch.empty((batch, height, width), dtype=values.dtype, device=logits.device)
    for left, columns in _resampling_tiles(w, width, logits):
        at_once = max(1, _CHUNK // (batch * k * len(columns)))
        for top, rows in _resampling_tiles(h, height, logits):
            for first, part in zip(range(top, top + len(rows), at_once), rows.split(at_once), strict=True):
                # `max` takes a sixth of the time of `argmax`.
                best = (part @ logits @ columns.T).max(1).indices
                result[:, first : first + len(part), left : left + len(columns)] = values[best]
    return result


def _resampling_tiles(n_in: int, n_out: int, like: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield parts of the (n_out, n_in) resampling matrix, each with the index of its first row."""
    for first in range(0, n_out, _TILE):
        last = min(first + _TILE, n_out)
        start, stop = (torch.tensor([edge / n_out], dtype=torch.float64) for edge in (first, last))
        yield first, resampling_matrix(start, stop, n_in, last - first)[0].to(like)


def _as_image(image: Image.Image | np.ndarray) -> Image.Image:
    if isinstance(image, Image.Image):
        return to_rgb(upright(image))
    if image.dtype == np.uint8 and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in {3, 4})) and image.size:
        return to_rgb(Image.fromarray(image))
    raise InputError(f"image: an array of {image.dtype} {image.shape} is not a picture; give (H, W, 3) or (H, W) uint8")
