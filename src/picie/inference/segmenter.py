"""Label maps of pictures, from one checkpoint file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from picie.config import Config
from picie.data.base import ClassMap
from picie.data.scaling import Reading
from picie.display.colors import hex_to_rgb
from picie.display.overlays import overlay
from picie.errors import InputError
from picie.inference import outputs
from picie.inference.cells import CellClassifier, Features
from picie.inference.enlarging import enlarged_argmax
from picie.inference.hub import OnHub
from picie.inference.model_state import restore, without_training, write
from picie.inference.picture_inputs import Picture, as_given, for_each, open_picture
from picie.inference.segments import Segments
from picie.methods.base import Method
from picie.methods.losses import prototype_logits
from picie.runtime import checkpoint
from picie.runtime.device import Engine, pick_device
from picie.runtime.run_record import summary


class Segmenter(CellClassifier, OnHub):
    """A trained network and its clusters: segments pictures.

    `load` opens a run, `from_pretrained` a model of the Hugging Face Hub. Methods that take a
    picture accept

    - a file, as text or path, or a Pillow image of any mode;
    - an array (H, W), (H, W, 3) or (H, W, 4), as scikit-image and Pillow make them: uint8, uint16,
      or floats in [0, 1];
    - a tensor (3, H, W), (1, H, W) or (H, W) of these types, or a `tv_tensors.Image`;
    - a list or tuple of these, or an array (B, H, W, C) or tensor (B, C, H, W) of pictures of one
      size. These are computed in batches, and the result is a list, an array or a tensor.

    They return arrays, and tensors for tensors, of the upright picture's size. uint16 is scaled as
    the run's training images were if these were uint16, otherwise by its own range.

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
        super().__init__(method, classifier, config, engine)
        # Pictures are read as the training images were.
        self.reading = Reading(config.data.scale, config.data.max_pixels, config.data.bands)
        self.kept: dict[str, Any] = {}
        self.name_clusters(classes, assignment)

    def name_clusters(self, classes: ClassMap | None, assignment: np.ndarray | None) -> None:
        """Set the meaning of predicted values.

        The values are `classes`, by `assignment` (K,), or clusters if either argument is None.
        """
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
    def load(cls, run: str | os.PathLike[str], device: str = "auto") -> Segmenter:
        """Load the segmenter of a run's folder or checkpoint file.

        Code that the checkpoint names is imported only if `picie.trust` allows it.

        Args:
            run: a folder that `picie train` or `save` made, or its checkpoint file.
            device: "auto", "cpu", "cuda", "cuda:N" or "mps".

        Raises:
            InputError: there is no checkpoint of picie, or the device does not exist.
        """
        state = checkpoint.load(run)
        return cls.from_state({"summary": summary(checkpoint.find_checkpoint(run).parent), **state}, device)

    @classmethod
    def from_state(cls, state: dict[str, Any], device: str = "auto") -> Segmenter:
        """Make the segmenter of a loaded checkpoint.

        Raises `InputError` if its run has no clusters yet.
        """
        method, config, engine = restore(state, device)
        segmenter = cls(method, checkpoint.classifier_in_use(state), config, engine)
        segmenter.follow(state)
        return segmenter

    def follow(self, state: dict[str, Any]) -> None:
        """Take the clusters and segments of a checkpoint of the same network."""
        weight, bias = checkpoint.classifier_in_use(state)
        self.classifier, self.k = (weight.to(self.engine.device), bias.to(self.engine.device)), len(weight)
        self.take_segments(Segments.in_use(state, self.k))
        self.kept = without_training(state)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Save the segmenter without the state of its training, which is most of a checkpoint.

        `load`, and every command that takes a run, open the result. It cannot be trained further.

        Args:
            path: a new folder, or a new file that ends in .pt.

        Returns:
            `path`.

        Raises:
            InputError: `path` exists already, or this segmenter is not of a run.
        """
        if not (self.kept and isinstance(self.method, Method)):
            raise InputError("this segmenter is not of a run; only what `Segmenter.load` opened can be saved")
        return write(path, self.kept, self.config, self.method, self.segments)

    def to(self, device: str | torch.device) -> Segmenter:
        """Move the segmenter to a device: "auto", "cpu", "cuda", "cuda:N" or "mps". Returns itself.

        Raises `InputError` if the device is not on this machine.
        """
        self.engine = Engine(pick_device(str(device)), self.config.train.precision)
        self.classifier = (self.classifier[0].to(self.engine.device), self.classifier[1].to(self.engine.device))
        if isinstance(self.method, Method):
            self.method.prepare(self.engine.device, self.engine.bf16)
        return self

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        return self.engine.device

    def __repr__(self) -> str:
        names = ", ".join(self.names[:12]) + (", ..." if len(self.names) > 12 else "")
        network = f"{self.config.method}, {self.config.model.backbone}, {self.config.predict_size} px"
        return f"Segmenter({len(self.names)} segments of {self.k} clusters: {names}; {network}; {self.device})"

    def _repr_html_(self) -> str:
        """The names of the segments on their colours, for notebooks."""
        return outputs.swatches(self.names, self.segments.colors)

    @overload
    def predict(self, images: Tensor, batch_size: int = 8) -> Tensor: ...
    @overload
    def predict(self, images: str | os.PathLike[str] | Image.Image | np.ndarray, batch_size: int = 8) -> np.ndarray: ...
    @overload
    def predict(self, images: list[Any] | tuple[Any, ...], batch_size: int = 8) -> list[Any]: ...
    def predict(self, images: Any, batch_size: int = 8) -> Any:
        """Return the label map of a picture, or of each of several.

        Args:
            images: a picture or several; see `Segmenter`.
            batch_size: the number of pictures that are computed together.

        Returns:
            (H, W) uint8; for more than 256 segments uint16, or int32 in a tensor. `names` and
            `colors` describe the values. The map of a `tv_tensors.Image` is a `tv_tensors.Mask`.

        Raises:
            UnreadableImageError: a file cannot be read as an image.
            InputError: an array or tensor has another shape, type or range.
        """
        return for_each(images, batch_size, self._label_maps)

    def _label_maps(self, images: Sequence[Picture]) -> list[Any]:
        computed = zip(self._logits_of(images), images, strict=True)
        return [as_given(self._labels_of(*logits), image, mask=True) for logits, image in computed]

    @torch.inference_mode()
    def _labels_of(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        dtype = torch.uint8 if len(self.names) <= 256 else torch.int32
        return enlarged_argmax(logits, size, torch.from_numpy(self.value_of_cluster).to(self.device, dtype))[0]

    def predict_with_margin(self, image: Picture) -> outputs.Maps:
        """Return the label map of one picture, and the margin at each pixel.

        The margin is the largest probability of a segment minus the second largest. Both maps are
        arrays (H, W); the margin is uint8, 255 for 1.
        """
        ((logits, size),) = self._logits_of([image])
        return self.maps_of(logits, size, margin=True)

    def maps_of(self, logits: Tensor, size: tuple[int, int], margin: bool = False) -> outputs.Maps:
        """Return the maps (H, W) of the logits (1, K, h, w) of a picture's cells."""
        margins = outputs.margin_map(logits, size, self.mixture) if margin else None
        return outputs.Maps(as_given(self._labels_of(logits, size), "file"), margins)

    def probabilities(self, images: Any, batch_size: int = 8) -> Any:
        """Return the probability of each segment at each pixel.

        It is the softmax of the clusters' logits, at the temperature of the training, enlarged to
        the picture's size. The probability of a segment is the sum of its clusters'. For a merged
        segment, the largest probability can therefore differ from `predict`, which returns the
        segment of the largest cluster.

        Args:
            images: a picture or several; see `Segmenter`.
            batch_size: the number of pictures that are computed together.

        Returns:
            (V, H, W) float32 for V segments, which sum to 1 over V. It takes 4 V bytes a pixel.

        Raises:
            InputError: as `predict` does.
        """

        def results(images: Sequence[Picture]) -> list[Any]:
            maps = (outputs.probability_map(logits, size, self.mixture) for logits, size in self._logits_of(images))
            return [as_given(probabilities, image) for probabilities, image in zip(maps, images, strict=True)]

        return for_each(images, batch_size, results)

    def features(self, images: Any, batch_size: int = 8) -> Any:
        """Return the features of a picture's cells, from which its segments are computed.

        The larger the dot product of two cells' features, the more similar they are to the network.

        Args:
            images: a picture or several; see `Segmenter`.
            batch_size: the number of pictures that are computed together.

        Returns:
            (D, h, w) float32 of unit norm over D. h and w depend on the run's `Config.predict_size` and
            its network, by default a quarter of the size that pictures are computed at.

        Raises:
            InputError: as `predict` does.
        """

        def results(images: Sequence[Picture]) -> list[Any]:
            return [as_given(z[0], image) for image, (_, z) in zip(images, self._encoded(images), strict=True)]

        return for_each(images, batch_size, results)

    def __call__(self, images: Any, batch_size: int = 8) -> Any:
        """Return the segments of a picture, as an image-segmentation pipeline of transformers does.

        Args:
            images: a picture or several; see `Segmenter`.
            batch_size: the number of pictures that are computed together.

        Returns:
            A dictionary for each segment that occurs in the picture, by ascending value: "label",
            its name; "mask", a Pillow image of mode L and of the picture's size, 255 inside; and
            "score", the mean probability of the segment inside. A list of these lists for several
            pictures.

        Raises:
            InputError: as `predict` does.
        """

        def results(images: Sequence[Picture]) -> list[Any]:
            return [outputs.masks(logits, size, self.mixture, self.names) for logits, size in self._logits_of(images)]

        return for_each(images, batch_size, results)

    def overlay(self, image: Picture, labels: np.ndarray | None = None) -> Image.Image:
        """Draw a picture's segments over it, in their colours.

        Args:
            image: a picture; see `Segmenter`.
            labels: (H, W) its label map, if it is known already; None predicts it.

        Returns:
            An RGB image of the upright picture's size.

        Raises:
            InputError: as `predict` does, or `labels` has another size than the picture.
        """
        picture = open_picture(image, self.reading)
        labels = self.predict(picture) if labels is None else np.asarray(labels)
        if labels.shape != (picture.height, picture.width):
            raise InputError(f"labels: are {labels.shape}, and the picture is {(picture.height, picture.width)}")
        return overlay(picture, labels, self.colors)

    @property
    def mixture(self) -> outputs.Mixture:
        """How the logits of clusters become probabilities of segments."""
        # A classifier that was trained was trained at temperature 1.
        by_prototypes = not isinstance(self.method, Method) or self.method.predicts_by_prototypes
        temperature = self.config.loss.temperature if by_prototypes else 1.0
        return outputs.Mixture(self.segments.assignment, len(self.names), temperature)

    @torch.inference_mode()
    def _logits_of(self, images: Sequence[Picture]) -> list[tuple[Tensor, tuple[int, int]]]:
        """Return the logits (1, K, h, w) of each picture, and its size (H, W)."""
        return [(prototype_logits(z, *self.classifier), size) for size, z in self._encoded(images)]

    def _encoded(self, images: Sequence[Picture]) -> list[tuple[tuple[int, int], Tensor]]:
        """Return the size (H, W) and the features (1, D, h, w) of each picture.

        Pictures that are computed at the same size form a batch.
        """
        pictures = [open_picture(image, self.reading) for image in images]
        features = self.encode_each([self.to_pixels(picture) for picture in pictures])
        return [((picture.height, picture.width), z) for picture, z in zip(pictures, features, strict=True)]

    def values(self, clusters: np.ndarray) -> np.ndarray:
        """Return the values of `clusters`, integers of any shape, in a label map.

        They are uint8, or uint16 if there are more than 256 values.
        """
        values: np.ndarray = self.value_of_cluster.astype(np.uint8 if len(self.names) <= 256 else np.uint16)[clusters]
        return values
