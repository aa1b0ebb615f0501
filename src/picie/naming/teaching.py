"""`picie teach`: names from clicks. A few named pixels become a classifier of the run's features.

The classifier takes the place of the clusters, as new clusters of `picie name --k` do: the
checkpoint's entry `naming` holds it as `clusters`, its classes as `segments`, and the number of
clicks of each class as `taught`. Everything that uses a run then uses the classes. The trained
clusters are not changed, and `picie.naming.history` undoes the change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from picie.data.images import open_image
from picie.display.colors import palette, rgb_to_hex
from picie.errors import InputError
from picie.inference.clicks import Click, check_clicks, check_names
from picie.inference.few_labels import CELLS, IMAGES, FewLabels, random_cells
from picie.inference.neighbors import feature_of
from picie.inference.sampling import sample_predicted, training_images
from picie.inference.segmenter import Segmenter
from picie.inference.segments import Segments
from picie.naming import history
from picie.runtime import checkpoint
from picie.runtime.progress import Progress, log
from picie.scoring.evaluation import open_labelled

_CELLS_PER_CLASS = 256  # of label maps; more change little, and clicks should still count


@dataclass(frozen=True)
class TeachOptions:
    """Options of `teach`.

    Attributes:
        data: folder of the pictures that are used without labels; None uses the training images.
        labels: labelled folder (images/, labels/, classes.toml) whose label maps are used besides
            the clicks; None uses clicks alone.
        split: the split of `labels`.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        progress: whether to show progress bars on a terminal.
    """

    data: str | Path | None = None
    labels: str | Path | None = None
    split: str = "train"
    device: str = "auto"
    progress: bool = True


DEFAULTS = TeachOptions()


@dataclass(frozen=True)
class Taught:
    """What a run was taught.

    Attributes:
        clicks: the number of labelled cells of each class; the order is that of label values.
        predicted: the class that the run now predicts for each of them, in their order.
    """

    clicks: dict[str, int]
    predicted: list[str]

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return tuple(self.clicks)


@dataclass(frozen=True)
class _Labelled:
    """Labelled cells: (n, D) features, and the n names."""

    points: Tensor
    names: list[str]


def teach(run: str | Path, clicks: Sequence[Click], options: TeachOptions = DEFAULTS) -> Taught:
    """Teach a run classes by clicks; they replace what it was taught before.

    Args:
        run: the run's folder or its checkpoint file.
        clicks: the clicks; may be empty if there are `options.labels`.
        options: how.

    Raises:
        InputError: the run, a picture or a folder does not exist, a click lies outside its picture,
            fewer than two classes are named, or another process is using the run. The run is not
            modified.
        UnreadableImageError: a picture cannot be read.
    """
    if clicks and options.labels is None:
        check_clicks(clicks)
    with checkpoint.changing(run) as (path, state):
        segmenter = Segmenter.from_state(state, options.device)
        with Progress(options.progress) as bars:
            clicked, cells = _of_clicks(segmenter, clicks, bars)
            mapped = _of_label_maps(segmenter, options, bars)
            points, names = torch.cat([clicked.points, mapped.points]), clicked.names + mapped.names
            check_names(names)
            unlabelled = _unlabelled(segmenter, options.data, bars, torch.cat([cells, mapped.points]))
        after, result = _taught_state(state, segmenter, _Labelled(points, names), unlabelled)
        checkpoint.save(path, after)
    return result


def teach_features(run: str | Path, points: Tensor, names: Sequence[str], unlabelled: Tensor) -> Taught:
    """Teach a run classes by features of clicked pixels, which takes milliseconds.

    Args:
        run: the run's folder or its checkpoint file.
        points: (n, D) unit-norm features of the clicked pixels.
        names: the n names.
        unlabelled: (m, D) unit-norm features of cells of many pictures.

    Raises:
        InputError: as `teach` does.
    """
    check_names(names)
    with checkpoint.changing(run) as (path, state):
        segmenter = Segmenter.from_state(state, "cpu")
        after, result = _taught_state(state, segmenter, _Labelled(points, list(names)), unlabelled)
        checkpoint.save(path, after)
    return result


def undo(run: str | Path) -> None:
    """Return to the clusters and names before the run was taught.

    `picie.naming.history.undo` takes a single step back.

    Raises:
        InputError: the run was not taught, or another process is using it.
    """
    with checkpoint.changing(run) as (path, state):
        if checkpoint.taught_clicks(state) is None:
            raise InputError(f"{run}: was not taught by clicks, so there is nothing to undo")
        while checkpoint.taught_clicks(state) is not None:
            # a copy of a run may have no history
            state = history.undone(state)[0] if state.get("undo") else checkpoint.without_naming(state)
        checkpoint.save(path, state)


def taught(run: str | Path) -> dict[str, int] | None:
    """The number of clicks of each class that a run was taught, or None.

    Raises `InputError` if there is no such run.
    """
    return checkpoint.taught_clicks(checkpoint.load(run))


def _taught_state(
    state: dict[str, Any], segmenter: Segmenter, labelled: _Labelled, unlabelled: Tensor
) -> tuple[dict[str, Any], Taught]:
    """The checkpoint with the classifier of the labelled cells, and what it was taught."""
    clicks = dict(check_names(labelled.names))
    classes = list(clicks)
    labels = torch.tensor([classes.index(name.strip()) for name in labelled.names])
    trained = checkpoint.without_naming(state)
    points = labelled.points.float().cpu()
    weight, offset = FewLabels(unlabelled, checkpoint.classifier_in_use(trained)).fit(points, labels, len(classes))
    # Probabilities divide logits by this temperature, and those of the fit have none.
    scale = segmenter.mixture.temperature
    clusters = {"weight": weight * scale, "bias": offset * scale, "centroids": _class_means(points, labels, len(classes))}
    naming = {
        "clusters": clusters,
        "segments": _segments(classes, segmenter.segments).state(),
        "matching": trained.get("matching"),
        "taught": clicks,
    }
    what = f"{len(classes)} classes from {sum(clicks.values())} clicks"
    after = history.remember(state, {**state, "matching": None, "naming": naming}, what)
    predicted = (points @ weight.T + offset).argmax(1).tolist()
    return after, Taught(clicks, [classes[value] for value in predicted])


def _class_means(points: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """(C, D) means of the labelled cells, of unit norm as the centroids of clusters."""
    sums = torch.zeros(n_classes, points.shape[1]).index_add_(0, labels, points)
    return F.normalize(sums, dim=1)


def _segments(classes: Sequence[str], earlier: Segments) -> Segments:
    """A segment for each class; the colours of earlier segments of these names are kept."""
    known = dict(zip(earlier.names, earlier.colors, strict=True))
    unused = [color for color in map(rgb_to_hex, palette(len(classes) + len(known))) if color not in known.values()]
    colors = [known.get(name) or unused[index] for index, name in enumerate(classes)]
    return Segments(tuple(classes), tuple(colors), tuple(range(len(classes))), user_defined=True)


def _of_clicks(segmenter: Segmenter, clicks: Sequence[Click], bars: Progress) -> tuple[_Labelled, Tensor]:
    """The cells of the clicks, in their order, and (m, D) random cells of the clicked pictures."""
    pictures: dict[Path, list[int]] = {}
    for index, click in enumerate(clicks):
        pictures.setdefault(click.image, []).append(index)
    found: dict[int, Tensor] = {}
    cells = [torch.zeros(0, segmenter.classifier[0].shape[1])]
    with bars.bar("clicked pictures", len(pictures)) as advance:
        for number, (image, indices) in enumerate(pictures.items()):
            picture = open_image(image, segmenter.reading)
            z = segmenter.encode(segmenter.to_pixels(picture))[0].cpu()
            for index in indices:
                click = clicks[index]
                found[index] = feature_of(z, picture.size, click.x, click.y, f"{image}: {click.name!r}: ")
            cells.append(random_cells(z, len(pictures), number))
            advance(1)
    points = torch.stack([found[index] for index in range(len(clicks))]) if clicks else cells[0]
    return _Labelled(points, [click.name for click in clicks]), torch.cat(cells)


def _of_label_maps(segmenter: Segmenter, options: TeachOptions, bars: Progress) -> _Labelled:
    """Labelled cells of label maps, the same number of each class where there are enough."""
    if options.labels is None:
        return _Labelled(torch.zeros(0, segmenter.classifier[0].shape[1]), [])
    dataset, _ = open_labelled(segmenter.config, options.labels, options.split)
    assert dataset.classes is not None
    sample = sample_predicted(segmenter, dataset, bars, IMAGES, CELLS, labelled=True)
    classes = sample.classes.cpu()
    chosen = torch.cat([_spread(torch.nonzero(classes == value)[:, 0]) for value in range(len(dataset.classes))])
    return _Labelled(sample.points.cpu()[chosen], [dataset.classes.names[value] for value in classes[chosen].tolist()])


def _spread(indices: Tensor) -> Tensor:
    """At most `_CELLS_PER_CLASS` of `indices`, evenly spaced."""
    n = min(len(indices), _CELLS_PER_CLASS)
    return indices[torch.arange(n) * len(indices) // max(n, 1)]


def _unlabelled(segmenter: Segmenter, data: str | Path | None, bars: Progress, otherwise: Tensor) -> Tensor:
    """(m, D) cells of the training images; `otherwise` if they are no longer there."""
    try:
        images = training_images(segmenter.config.data, data)
    except InputError as error:
        if data is not None or not len(otherwise):
            raise
        log.warning("only the pictures with clicks are used: %s", error)
        return otherwise
    return sample_predicted(segmenter, images, bars, IMAGES, CELLS).points
