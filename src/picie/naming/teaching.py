"""`picie teach`: names from clicks. A few named pixels become a classifier of the run's features.

The classifier takes the place of the clusters, as new clusters of `picie name --k` do: the
checkpoint's entry `naming` holds it as `clusters`, its classes as `segments`, and the number of
clicks of each class as `taught`. Everything that uses a run then uses the classes. The trained
clusters are not changed, and `picie.naming.history` undoes the change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from picie.data.images import open_image
from picie.display.colors import palette, rgb_to_hex
from picie.errors import InputError
from picie.inference.clicks import Click, check_clicks, check_names
from picie.inference.few_labels import FewLabels
from picie.inference.neighbors import feature_of
from picie.inference.sampling import sample_labelled, sample_predicted, training_images
from picie.inference.segmenter import Segmenter
from picie.inference.segments import Segments
from picie.naming import history
from picie.runtime import checkpoint
from picie.runtime.progress import Progress, log
from picie.scoring.evaluation import open_labelled

IMAGES, CELLS = 256, 2**15  # pictures, and cells of them, that the fit uses without labels
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
        after, taught = _taught_state(state, segmenter, _Labelled(points, names), unlabelled)
        checkpoint.save(path, after)
    return taught


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
        after, taught = _taught_state(state, segmenter, _Labelled(points, list(names)), unlabelled)
        checkpoint.save(path, after)
    return taught


def undo(run: str | Path) -> None:
    """Return to the clusters and names before the run was taught.

    `picie.naming.history.undo` takes a single step back.

    Raises:
        InputError: the run was not taught, or another process is using it.
    """
    with checkpoint.changing(run) as (path, state):
        if clicks_of(state) is None:
            raise InputError(f"{run}: was not taught by clicks, so there is nothing to undo")
        while clicks_of(state) is not None:
            # the history is limited, and a copy of a run may have none
            state = history.undone(state)[0] if state.get("undo") else checkpoint.without_naming(state)
        checkpoint.save(path, state)


def taught_clicks(run: str | Path) -> dict[str, int] | None:
    """The number of clicks of each class that a run was taught, or None.

    Raises `InputError` if there is no such run.
    """
    return clicks_of(checkpoint.load(run))


def clicks_of(state: Mapping[str, Any]) -> dict[str, int] | None:
    """The number of clicks of each class that a checkpoint was taught, or None."""
    naming = state.get("naming")
    clicks: dict[str, int] | None = None if naming is None else naming.get("taught")
    return clicks
