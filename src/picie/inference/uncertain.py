"""`picie uncertain`: the pictures to look at first, where the segmenter is least sure.

The margin of a feature cell is the probability of its best segment minus that of the second best.
A picture's uncertainty is the mean of 1 - margin over its cells. Pictures that are uncertain in
the same way teach the same, so the choice is greedy: each next picture has the largest product of
its uncertainty and its distance to the nearest one chosen before. The distance is the cosine
distance between means of the pictures' features, weighted by 1 - margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from picie.data.images import decoding_bytes, open_or_error
from picie.data.loading import read_ahead
from picie.errors import InputError, UnreadableImageError, none_can
from picie.inference.confidence import margin
from picie.inference.input_files import find_inputs
from picie.inference.segmenter import Segmenter
from picie.methods.losses import prototype_logits
from picie.runtime.progress import Progress, log

_CANDIDATES = 5  # the choice is among this many times as many pictures, the most uncertain ones
_AROUND = 5  # cells a side of the square whose mean uncertainty finds the place to look at


@dataclass(frozen=True)
class UncertainPicture:
    """A picture to look at.

    Attributes:
        path: the file.
        uncertainty: mean of 1 - margin over the picture, in [0, 1].
        between: the two segments that it is most often undecided between; one name if the run has
            a single segment.
        x: column, in pixels of the upright picture, of the place that is least sure.
        y: row of that place.
    """

    path: Path
    uncertainty: float
    between: tuple[str, ...]
    x: int
    y: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**vars(self), "path": str(self.path), "uncertainty": round(self.uncertainty, 4), "between": list(self.between)}


def uncertain(
    run: str | Path, data: str | Path | Sequence[str | Path], n: int = 20, device: str = "auto"
) -> list[UncertainPicture]:
    """Choose the pictures to look at first.

    Args:
        run: a run's folder or checkpoint file.
        data: a folder of pictures, searched recursively, or files.
        n: the number of pictures.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Returns:
        At most `n` pictures, in the order of the choice; the first is the most uncertain one.

    Raises:
        InputError: the run or the folder does not exist, or no picture can be read.
    """
    if n < 1:
        raise InputError(f"-n {n}: give at least 1")
    paths = [data] if isinstance(data, str | Path) else data
    files = [file for file in find_inputs([Path(path) for path in paths], None) if isinstance(file, Path)]
    segmenter = Segmenter.load(run, device)
    found, directions, skipped = [], [], []
    read = partial(_open, segmenter=segmenter)
    with Progress() as bars, bars.bar("pictures", len(files)) as advance:
        for path, picture in read_ahead(read, files, ahead=4, cost=decoding_bytes):
            advance(1)
            if isinstance(picture, UnreadableImageError):
                skipped.append(picture)
                continue
            one, direction = _look(segmenter, path, picture.size, segmenter.encode(segmenter.to_pixels(picture)))
            found.append(one)
            directions.append(direction)
            del picture  # before the next one is read
    if not found:
        raise InputError(none_can(len(files), "image", "be read", skipped[0]))
    for error in skipped:
        log.warning("skipped: %s", error)
    if len(found) < n:
        log.warning("there are %d pictures, not %d", len(found), n)
    chosen = choose(torch.tensor([one.uncertainty for one in found]), torch.stack(directions), n)
    return [found[index] for index in chosen]


def choose(uncertainty: Tensor, directions: Tensor, n: int) -> list[int]:
    """Choose at most `n` uncertain and different items.

    Args:
        uncertainty: (N,) in [0, 1].
        directions: (N, D) of unit norm; what is uncertain in each item.
        n: the number of items.

    Returns:
        Their indices, in the order of the choice.

    >>> same, other = [1.0, 0.0], [0.0, 1.0]
    >>> choose(torch.tensor([0.9, 0.8, 0.5]), torch.tensor([same, same, other]), 2)
    [0, 2]
    """
    order = uncertainty.argsort(descending=True, stable=True)[: _CANDIDATES * n]
    value, place = uncertainty[order], directions[order]
    nearest = torch.full_like(value, 2.0)  # the largest cosine distance
    chosen: list[int] = []
    for _ in range(min(n, len(order))):
        gain = value * nearest.clamp(min=1e-6)
        gain[chosen] = -1
        best = int(gain.argmax())
        chosen.append(best)
        nearest = torch.minimum(nearest, 1 - place @ place[best])
    return order[chosen].tolist()


def _unsure(segmenter: Segmenter, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return (h, w) 1 - margin of the cells of features (1, D, h, w), and (V, h, w) probabilities."""
    probabilities = segmenter.mixture.probabilities(prototype_logits(z, *segmenter.classifier))
    return 1 - margin(probabilities)[0], probabilities[0]


@torch.inference_mode()
def _look(segmenter: Segmenter, path: Path, size: tuple[int, int], z: Tensor) -> tuple[UncertainPicture, Tensor]:
    """The result of a picture of `size` (W, H) with features `z` (1, D, h, w), and its direction."""
    doubt, probabilities = _unsure(segmenter, z)
    direction = F.normalize((z[0] * doubt).sum((1, 2)), dim=0).cpu()
    held = sorted(set(segmenter.segments.assignment))  # a segment without clusters is never predicted
    best = probabilities[held].topk(min(2, len(held)), dim=0).indices.sort(0).values.flatten(1)
    pairs, of_cell = best.unique(dim=1, return_inverse=True)
    weight = torch.zeros(pairs.shape[1], device=doubt.device).index_add_(0, of_cell, doubt.flatten())
    names = tuple(segmenter.names[held[index]] for index in pairs[:, int(weight.argmax())].tolist())
    around = F.avg_pool2d(doubt[None], _AROUND, 1, _AROUND // 2, count_include_pad=False)[0]
    row, column = divmod(int(around.argmax()), doubt.shape[1])
    x, y = int((column + 0.5) * size[0] / doubt.shape[1]), int((row + 0.5) * size[1] / doubt.shape[0])
    return UncertainPicture(path, float(doubt.mean()), names, x, y), direction


def _open(path: Path, segmenter: Segmenter) -> tuple[Path, Any]:
    return path, open_or_error(path, segmenter.reading)
