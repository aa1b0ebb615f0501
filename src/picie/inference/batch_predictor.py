"""Label maps of batches of pictures, for frameworks that map a class over a dataset."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from PIL import Image

from picie.data.images import decode_image
from picie.data.loading import default_workers
from picie.display.overlays import encoded, index_image
from picie.errors import InputError, PicieError
from picie.inference.picture_inputs import open_picture
from picie.inference.segmenter import Segmenter

_COLUMNS = ("image", "bytes", "path")


class BatchPredictor:
    """Segments batches of pictures; a callable class that `map_batches` of Ray Data takes.

    A batch is a dictionary of columns, as Ray Data passes it. The pictures are in the column

    - "image": arrays (H, W, 3), (H, W, 4) or (H, W), of one size or of several;
    - "bytes": the content of image files, as `ray.data.read_binary_files` returns it;
    - "path": paths of image files.

    The result has all other columns, and two new ones: "labels", the label maps, and "error", the
    reason why a picture has none, or "". No picture of a batch stops the others.

    It needs neither Ray nor a GPU: each actor loads the run once, and computes on the device that
    Ray assigns to it.

    Args:
        run: a run's folder, reachable from every machine.
        column: the column with the pictures; None takes the first of "image", "bytes" and "path"
            that the batch has.
        encoding: "png" returns label maps as the content of indexed PNG files, which fit into
            Parquet and WebDataset; "array" as arrays (H, W) uint8, or uint16 for more than 256
            segments, and an array (0, 0) for a picture without one.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        batch_size: the number of pictures that are computed together; only those that are computed
            at the same size are.

    Attributes:
        segmenter: names and colours describe the values.

    Raises:
        InputError: there is no run, or the device does not exist.

    Example:
        >>> dataset.map_batches(  # doctest: +SKIP
        ...     BatchPredictor, fn_constructor_args=("run",), batch_size=32, compute=ray.data.ActorPoolStrategy(size=2)
        ... )
    """

    def __init__(
        self,
        run: str | os.PathLike[str],
        column: str | None = None,
        encoding: Literal["png", "array"] = "png",
        device: str = "auto",
        batch_size: int = 8,
    ) -> None:
        if encoding not in {"png", "array"}:
            raise InputError(f"encoding = {encoding!r}: give png or array")
        self.segmenter = Segmenter.load(run, device)
        self.column, self.encoding, self.batch_size = column, encoding, batch_size
        self._workers = default_workers()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Segment a batch.

        Args:
            batch: columns of the same length.

        Returns:
            The columns without the pictures, and "labels" and "error".

        Raises:
            InputError: there is no column of pictures.
        """
        column = self._column_of(batch)
        with ThreadPoolExecutor(self._workers) as pool:
            opened = list(pool.map(self._open, batch[column]))
            readable = [picture for picture in opened if isinstance(picture, Image.Image)]
            maps = iter(pool.map(self._encoded, self.segmenter.predict(readable, self.batch_size)))
        labels = [next(maps) if isinstance(picture, Image.Image) else self._nothing() for picture in opened]
        errors = ["" if isinstance(picture, Image.Image) else str(picture) for picture in opened]
        kept = {name: values for name, values in batch.items() if name != column}
        return {**kept, "labels": _as_objects(labels), "error": np.array(errors, dtype=object)}

    def _column_of(self, batch: Mapping[str, Any]) -> str:
        names = _COLUMNS if self.column is None else (self.column,)
        found = next((name for name in names if name in batch), None)
        if found is None:
            raise InputError(f"batch: has the columns {', '.join(batch)}, and none is {' or '.join(names)}; give column")
        return found

    def _open(self, value: Any) -> Image.Image | PicieError:
        try:
            if isinstance(value, bytes):
                return decode_image(value, self.segmenter.reading)
            return open_picture(str(value) if isinstance(value, str) else value, self.segmenter.reading)
        except PicieError as error:
            return error

    def _encoded(self, labels: np.ndarray) -> Any:
        return encoded(index_image(labels, self.segmenter.colors), "PNG") if self.encoding == "png" else labels

    def _nothing(self) -> Any:
        return b"" if self.encoding == "png" else np.zeros((0, 0), np.uint8)


def _as_objects(values: Sequence[Any]) -> np.ndarray:
    """(n,) an array of objects, also if all are arrays of one size."""
    result = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        result[index] = value
    return result
