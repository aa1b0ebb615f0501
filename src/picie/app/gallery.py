"""The pictures that are searched for neighbours; a background thread computes their features."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
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
from picie.runtime.progress import log

_MEMORY = 2**30  # bytes of 16-bit features: about 2000 photos at 160 px
_THUMBNAIL = (192, 128)  # maximum width and height
_CACHED_THUMBNAILS = 512


class Gallery:
    """Numbered pictures and their features.

    Args:
        images: the pictures.
        source: tells the user where the pictures come from.
        features: computes unit-norm features (D, h, w) of an RGB picture.
        memory: budget for the features, in bytes. The first picture that does not fit is left
            out, and so are all after it.
    """

    def __init__(self, images: Dataset, source: str, features: Callable[[Image.Image], Tensor], memory: int = _MEMORY) -> None:
        self.images, self.source, self.memory = images, source, memory
        self._features = features
        self._computed: list[tuple[int, tuple[int, int], Tensor]] = []
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
        }

    def features(self, device: torch.device, without: int | None = None) -> Iterator[Features]:
        """Yield the features computed so far, float32 on `device`, named by number.

        Leave out picture `without`.
        """
        for index, size, z in self._computed[:]:
            if index != without:
                yield str(index), size, z.to(device, torch.float32)

    def spot(self, index: int, x: int, y: int) -> bytes:
        """A JPEG of the surroundings of a pixel, marked by a ring.

        Raises `InputError` if there is no such pixel.
        """
        picture = self.images.image(self.check(index))
        if not (0 <= x < picture.width and 0 <= y < picture.height):
            raise InputError(f"pixel ({x}, {y}) lies outside the picture")
        return _jpeg(surroundings(picture, x, y))

    def _thumbnail(self, index: int) -> bytes:
        """A small JPEG of a picture. Raises `InputError` if it cannot be read."""
        picture = self.images.image(self.check(index))
        picture.thumbnail(_THUMBNAIL)
        return _jpeg(picture)

    def _compute(self) -> None:
        try:
            self._compute_all()
        except Exception as error:
            # any error, e.g. no GPU memory; if it were not caught, the page would wait forever
            text = "no neighbours in the pictures from number %d on: %s (%s)"
            log.warning(text, self._seen, type(error).__name__, _one_line(error))
            self._failed = True
        self._finished = not self._stop.is_set()

    def _compute_all(self) -> None:
        for index in range(len(self)):
            if self._stop.is_set():
                return
            try:
                picture = self.images.image(index)
            except UnreadableImageError as error:
                log.warning("skipped: %s", error)
            else:
                z = self._features(picture).half().cpu()
                self._bytes += z.numel() * 2
                if self._bytes > self.memory:
                    break
                self._computed.append((index, (picture.height, picture.width), z))
            self._seen = index + 1


def open_gallery(segmenter: Segmenter, features: Callable[[Image.Image], Tensor], folder: Path | None) -> Gallery | None:
    """Open the pictures in `folder`, or those that the run was trained on.

    Returns None, with a warning, if the training pictures no longer exist.

    Raises:
        InputError: `folder` does not exist or has no picture.
    """
    if folder is not None:
        return Gallery(Folder(folder), str(folder), features)
    try:
        return Gallery(training_images(segmenter.config.data), "the run's own data", features)
    except InputError as error:
        log.warning("no neighbours: %s", str(error).replace("--data", "--images"))
        return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88)
    return file.getvalue()
