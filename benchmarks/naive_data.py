"""Images of the naive recipe: each is opened and transformed with Pillow in every pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import functional as TF

from picie.data.base import Dataset as Labelled
from picie.data.images import centre_label

_GEOMETRY = 2  # number of the random stream; 0 and 1 are those of the two views


def recolour(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Apply the published photometric transforms."""
    for adjust in (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation):
        if rng.random() < 0.8:
            image = adjust(image, rng.uniform(0.7, 1.3))
    if rng.random() < 0.8:
        image = TF.adjust_hue(image, rng.uniform(-0.1, 0.1))
    if rng.random() < 0.2:
        image = TF.to_grayscale(image, 3)
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0)))
    return image


def centre(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize a picture to just cover `size` (H, W), then crop its centre."""
    scale = max(size[0] / image.height, size[1] / image.width)
    covering = [max(size[0], round(image.height * scale)), max(size[1], round(image.width * scale))]
    middle: Image.Image = TF.center_crop(TF.resize(image, covering), list(size))
    return middle


def box_of(epoch: int, index: int) -> np.ndarray:
    """Geometric transform of an image: (4,) float32 top, left and side of the crop as fractions,
    and 1 if flipped.
    """
    rng = np.random.default_rng((epoch, index, _GEOMETRY))
    side = rng.uniform(0.5, 1.0)
    return np.array([*rng.uniform(0, 1 - side, 2), side, rng.random() < 0.5], dtype=np.float32)


def label_file(folder: Path, view: int, index: int) -> Path:
    """File for the pseudo-labels of one view of an image."""
    return folder / f"view{view}-{index:06d}.npy"


class Pictures(Dataset[Any]):
    """Views of the images, as input of the network.

    Args:
        paths: image files.
        frame: (H, W) in pixels of the frame that views are cut from.
        size: (H, W) of a view in pixels.
        epoch: seeds the random draws, which are the same in all passes of an epoch.
        views: (0,), (1,) or both. View 0 is G(P1 x); view 1 is P2 x, whose features are cropped
            later.
        labels: folder with pseudo-labels of these views, which are then returned too.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        frame: tuple[int, int],
        size: tuple[int, int],
        epoch: int,
        views: Sequence[int],
        labels: Path | None = None,
    ) -> None:
        self.paths, self.frame, self.size, self.epoch, self.views, self.labels = paths, frame, size, epoch, views, labels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, np.ndarray, list[Tensor], list[np.ndarray]]:
        """(index, geometric transform, image (3, H, W) per view, pseudo-labels (h, w) per view or
        none).
        """
        frame = centre(Image.open(self.paths[index]).convert("RGB"), self.frame)
        box = box_of(self.epoch, index)
        images = [TF.to_tensor(self._view(frame, box, index, view)) for view in self.views]
        read = self.views if self.labels is not None else ()
        labels = [np.load(label_file(self.labels or Path(), view, index)).astype(np.int64) for view in read]
        return index, box, images, labels

    def _view(self, frame: Image.Image, box: np.ndarray, index: int, view: int) -> Image.Image:
        picture: Image.Image = recolour(frame, np.random.default_rng((self.epoch, index, view)))
        if view == 1:
            return picture.resize(self.size[::-1], Image.Resampling.BILINEAR)
        (height, width), (top, left, side, flip) = self.frame, box
        crop = [round(float(x)) for x in (top * height, left * width, side * height, side * width)]
        picture = TF.resized_crop(picture, *crop, list(self.size))
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else picture


class LabelledPictures(Dataset[Any]):
    """Centre squares of labelled images and their labels.

    Args:
        split: labelled images.
        paths: files of the images.
        size: side of the square in pixels.
    """

    def __init__(self, split: Labelled, paths: Sequence[Path], size: int) -> None:
        self.split, self.paths, self.size = split, paths, (size, size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """An image (3, size, size) and its label (size, size)."""
        image = TF.to_tensor(centre(Image.open(self.paths[index]).convert("RGB"), self.size))
        label = centre_label(self.split.label(index), self.size)
        return image, torch.from_numpy(label.astype(np.int64))
