"""Scores of a run that is taught by clicks, over random draws of the clicks from labels.

A draw takes the same number of clicks of every class from the training split: random pictures that
show the class, and a random pixel of it in each. The scored split is not looked at. The run itself
is not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from picie.data.base import Dataset
from picie.data.loading import read_ahead
from picie.errors import InputError, UnreadableImageError
from picie.inference.enlarging import enlarged_argmax
from picie.inference.few_labels import CELLS, IMAGES, FewLabels
from picie.inference.neighbors import feature_of
from picie.inference.sampling import sample_predicted, training_images
from picie.inference.segmenter import Segmenter
from picie.methods.losses import prototype_logits
from picie.runtime import checkpoint
from picie.runtime.progress import Progress
from picie.runtime.rng import derived_seed, permutation
from picie.scoring.by_name import ByName, taught_by
from picie.scoring.counting import Pairs, score_several
from picie.scoring.evaluation import DEFAULTS, ScoreOptions, open_labelled, scored_config
from picie.scoring.results import Evaluation, percent

MAX_DRAWS, MAX_CLICKS = 100, 1000  # limits of the memory: a classifier a draw, and clicks that are kept
_PICTURES = 512  # labelled pictures that clicks are drawn from
_KEPT = 64  # pixels of a class that are kept of each of them
_BATCH = 16  # clicked pictures that are computed together


@dataclass(frozen=True)
class ClickScores:
    """Scores at one number of clicks.

    Attributes:
        clicks: the number of clicks a class.
        results: the evaluation of each draw.
    """

    clicks: int
    results: list[Evaluation]

    @property
    def accuracy(self) -> tuple[float, float]:
        """Mean and sample standard deviation over the draws, in [0, 1]; NaN for one draw."""
        return _mean_and_spread([result.scores.accuracy for result in self.results])

    @property
    def miou(self) -> tuple[float, float]:
        """As `accuracy`, of the mIoU."""
        return _mean_and_spread([result.scores.miou for result in self.results])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: scores in percent, each with its spread or None."""
        draws = [result.to_dict() for result in self.results]
        return {
            "clicks": self.clicks,
            "accuracy": [percent(value) for value in self.accuracy],
            "miou": [percent(value) for value in self.miou],
            "draws": [{key: draw[key] for key in ("accuracy", "miou", "protocol")} for draw in draws],
        }


def evaluate_clicks(
    run: str | Path,
    data: str | Path | None = None,
    *,
    clicks: Sequence[int] = (10,),
    draws: int = 8,
    options: ScoreOptions = DEFAULTS,
) -> list[ClickScores]:
    """Score what a run would predict if it were taught by clicks, for several draws.

    Args:
        run: the run's folder or its checkpoint file.
        data: as for `evaluate`.
        clicks: numbers of clicks a class.
        draws: the number of draws for each of them.
        options: as for `evaluate`.

    Returns:
        The scores at each number of clicks.

    Raises:
        InputError: as `evaluate` does, the training split has no labels, or a number is out of
            range.
    """
    for option, numbers, last in (("--clicks", clicks, MAX_CLICKS), ("--draws", [draws], MAX_DRAWS)):
        if not all(1 <= number <= last for number in numbers):
            raise InputError(f"{option} {max(numbers)}: give a number from 1 to {last}")
    state = checkpoint.load(run)
    segmenter = Segmenter.from_state(state, options.device)
    config = scored_config(segmenter.config, options.overrides)
    segmenter.config = config
    scored, split = open_labelled(config, data, None, options.dataset)
    train, train_split = open_labelled(config, data, config.data.train_split, options.dataset, "train")
    trained = checkpoint.classifier_in_use(checkpoint.without_naming(state))
    with Progress(options.progress) as bars:
        unlabelled = sample_predicted(segmenter, training_images(config.data, data, options.dataset), bars, IMAGES, CELLS)
        fitter = FewLabels(unlabelled.points, trained)
        labelled = _Labelled(train, bars)
        chosen = {(n, draw): labelled.draw(n, draw) for n in clicks for draw in range(draws)}
        points = _features(segmenter, train, {pixel for pixels in chosen.values() for pixel in pixels}, bars)
        classifiers = []
        for pixels in chosen.values():
            labels = torch.tensor([labelled.classes.index(pixel.value) for pixel in pixels])
            classifiers.append(fitter.fit(torch.stack([points[pixel] for pixel in pixels]), labels, len(labelled.classes)))
        matchings = [ByName(np.array(labelled.classes), f"{taught_by([n])} of {train_split}, draw {d}") for n, d in chosen]

        @torch.inference_mode()
        def predict(pixels: Tensor, size: tuple[int, int]) -> list[np.ndarray]:
            z = segmenter.encode(pixels)
            return [enlarged_argmax(prototype_logits(z, w.to(z), b.to(z)), size).cpu().numpy() for w, b in classifiers]

        results = score_several(predict, len(labelled.classes), Pairs(scored, config), split, bars, matchings)
    by_key = dict(zip(chosen, results, strict=True))
    return [ClickScores(n, [by_key[n, draw] for draw in range(draws)]) for n in clicks]


@dataclass(frozen=True)
class _Pixel:
    """A click: pixel (`x`, `y`) of picture `image`, whose (width, height) is `size`."""

    image: int
    x: int
    y: int
    size: tuple[int, int]
    value: int


class _Labelled:
    """Pixels of the classes in labelled pictures, of which clicks are drawn.

    Attributes:
        classes: the classes that occur.
    """

    def __init__(self, dataset: Dataset, bars: Progress) -> None:
        assert dataset.classes is not None
        self._pixels: dict[int, list[list[_Pixel]]] = {}
        indices = np.sort(permutation(len(dataset), 0, "clicked pictures")[:_PICTURES]).tolist()
        with bars.bar("read labels", len(indices)) as advance:
            for index, label in zip(indices, read_ahead(lambda i: _label(dataset, i), indices), strict=True):
                advance(1)
                if label is None:
                    continue
                generator = np.random.default_rng(derived_seed(0, "clicked pixels", index))
                for value in np.unique(label[label != dataset.classes.ignore]).tolist():
                    rows, columns = np.nonzero(label == value)
                    kept = generator.permutation(len(rows))[:_KEPT]
                    size = (label.shape[1], label.shape[0])
                    pixels = [_Pixel(index, int(columns[i]), int(rows[i]), size, value) for i in kept]
                    self._pixels.setdefault(value, []).append(pixels)
        self.classes = sorted(self._pixels)
        if len(self.classes) < 2:
            raise InputError("clicks need at least two classes in the labels of the training split")

    def draw(self, n: int, draw: int) -> list[_Pixel]:
        """`n` clicks of each class, in as many pictures as show it."""
        generator = np.random.default_rng(derived_seed(0, "clicks", n, draw))
        clicks = []
        for value in self.classes:
            pictures = self._pixels[value]
            order = np.concatenate([generator.permutation(len(pictures)) for _ in range(-(-n // len(pictures)))])[:n]
            clicks += [pictures[i][generator.integers(len(pictures[i]))] for i in order.tolist()]
        return clicks


def _label(dataset: Dataset, index: int) -> np.ndarray | None:
    try:
        return dataset.label(index)
    except UnreadableImageError:
        return None


def _features(segmenter: Segmenter, dataset: Dataset, pixels: set[_Pixel], bars: Progress) -> dict[_Pixel, Tensor]:
    """The feature (D,) at each pixel."""
    of_image: dict[int, list[_Pixel]] = {}
    for pixel in pixels:
        of_image.setdefault(pixel.image, []).append(pixel)
    images = sorted(of_image)
    features = {}
    with bars.bar("clicked pictures", len(images)) as advance:
        loaded = read_ahead(lambda index: segmenter.to_pixels(dataset.image(index)), images)
        for first in range(0, len(images), _BATCH):
            batch = images[first : first + _BATCH]
            for index, z in zip(batch, segmenter.encode_each(list(islice(loaded, len(batch)))), strict=True):
                features.update({pixel: feature_of(z[0], pixel.size, pixel.x, pixel.y).cpu() for pixel in of_image[index]})
            advance(len(batch))
    return features


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return float(np.mean(values)), spread
