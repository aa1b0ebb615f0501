"""The run's pictures on the page; a background thread computes their features."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from picie.data.base import Dataset
from picie.data.folder import Folder
from picie.errors import InputError, UnreadableImageError
from picie.inference.neighbors import Features, surroundings
from picie.inference.sampling import training_images
from picie.inference.segmenter import Segmenter
from picie.inference.typical import reduced
from picie.runtime.progress import log
from picie.runtime.rng import permutation

_MEMORY = 2**30  # bytes of 16-bit features: about 500 photos of 4:3 at 320 px
_THUMBNAIL = (192, 128)  # maximum width and height
_CACHED_THUMBNAILS = 512


@dataclass(frozen=True)
class Computed:
    """A picture whose features are in memory.

    Attributes:
        index: its number.
        size: its (H, W) in pixels.
        features: (D, h, w) float16 of unit norm, on the CPU.
        reduced: a small JPEG of it, from which crops are cut.
    """

    index: int
    size: tuple[int, int]
    features: Tensor
    reduced: bytes


class Gallery:
    """Numbered pictures and their features.

    Features are computed in random order, so that the first ones show all kinds of pictures.

    Args:
        images: the pictures.
        source: tells the user where the pictures come from.
        features: computes unit-norm features (D, h, w) of an RGB picture.
        memory: budget for the features, in bytes. The first picture that does not fit is left
            out, and so are all after it.

    Attributes:
        computed: the pictures with features, in the order of computing. It only grows.
        unreadable: the reason for each picture that cannot be read, by its number, so far.
    """

    def __init__(self, images: Dataset, source: str, features: Callable[[Image.Image], Tensor], memory: int = _MEMORY) -> None:
        self.images, self.source, self.memory = images, source, memory
        self._features = features
        self.computed: list[Computed] = []
        self.unreadable: dict[int, str] = {}
        self._seen, self._bytes, self._finished = 0, 0, False
        self._failed = False
        self._thread = threading.Thread(target=self._compute, name="picie features", daemon=True)
        self._stop = threading.Event()
        self._starting = threading.Lock()
        self.thumbnail = lru_cache(_CACHED_THUMBNAILS)(self._thumbnail)

    def __len__(self) -> int:
        return len(self.images)

    def check(self, index: int) -> int:
        """Return `index`. Raises `InputError` if there is no such picture."""
        if not 0 <= index < len(self):
            raise InputError(f"{index}: no such picture; they are 0..{len(self) - 1}")
        return index

    def image(self, index: int) -> Image.Image:
        """A picture, RGB. Raises `InputError` if it cannot be read, and remembers that."""
        try:
            return self.images.image(self.check(index))
        except UnreadableImageError as error:
            self.unreadable[index] = str(error)
            raise

    def start(self) -> None:
        """Start computing features, unless that has started already."""
        with self._starting:
            if self._thread.ident is None:
                self._thread.start()

    def stop(self) -> None:
        """Stop computing after the current picture."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def progress(self) -> dict[str, int | bool]:
        """The number of pictures seen, whether that is final, and the reason if it ended early."""
        left_out = self._finished and self._seen < len(self)
        return {
            "seen": self._seen,
            "finished": self._finished,
            "full": left_out and not self._failed,
            "failed": self._failed,
            "unreadable": len(self.unreadable),
        }

    def features(self, device: torch.device, without: int | None = None) -> Iterator[Features]:
        """Yield the features computed so far, float32 on `device`, named by number.

        Leave out picture `without`.
        """
        for one in self.computed[:]:
            if one.index != without:
                yield str(one.index), one.size, one.features.to(device, torch.float32)

    def spot(self, index: int, x: int, y: int) -> bytes:
        """A JPEG of the surroundings of a pixel, marked by a ring.

        Raises `InputError` if there is no such pixel.
        """
        picture = self.image(index)
        if not (0 <= x < picture.width and 0 <= y < picture.height):
            raise InputError(f"pixel ({x}, {y}) lies outside the picture")
        return to_jpeg(surroundings(picture, x, y))

    def _thumbnail(self, index: int) -> bytes:
        """A small JPEG of a picture. Raises `InputError` if it cannot be read."""
        picture = self.image(index)
        picture.thumbnail(_THUMBNAIL)
        return to_jpeg(picture)

    def _compute(self) -> None:
        try:
            self._compute_all()
        except Exception as error:
            # any error, e.g. no GPU memory; if it were not caught, the page would wait forever
            text = "features of %d pictures only, the next one fails: %s (%s)"
            log.warning(text, self._seen, type(error).__name__, _one_line(error))
            self._failed = True
        self._finished = not self._stop.is_set()

    def _compute_all(self) -> None:
        for index in permutation(len(self), 0, "gallery").tolist():
            if self._stop.is_set():
                return
            try:
                picture = self.image(index)
            except UnreadableImageError as error:
                log.warning("skipped: %s", error)
            else:
                z = self._features(picture).half().cpu()
                self._bytes += z.numel() * 2
                if self._bytes > self.memory:
                    break
                self.computed.append(Computed(index, (picture.height, picture.width), z, to_jpeg(reduced(picture))))
            self._seen += 1


def open_gallery(segmenter: Segmenter, features: Callable[[Image.Image], Tensor], folder: Path | None) -> Gallery | None:
    """Open the pictures in `folder`, or those that the run was trained on.

    Returns None, with a warning, if the training pictures no longer exist.

    Raises:
        InputError: `folder` does not exist or has no picture.
    """
    if folder is not None:
        images = Folder(folder)
        images.reading = segmenter.reading
        return Gallery(images, str(folder), features)
    try:
        return Gallery(training_images(segmenter.config.data), "the run's own data", features)
    except InputError as error:
        log.warning("no neighbours: %s", str(error).replace("--data", "--images"))
        return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def to_jpeg(picture: Image.Image) -> bytes:
    """Encode an RGB picture as a JPEG file."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88)
    return file.getvalue()
