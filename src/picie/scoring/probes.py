"""Probes of a run's frozen features: classifiers trained on labels, and a finer clustering.

They show what a better classifier or more clusters could achieve with the same features. They are
not unsupervised results.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from picie.config import Config
from picie.data.base import Dataset
from picie.errors import InputError
from picie.inference.cells import CellClassifier
from picie.inference.enlarging import enlarged_argmax
from picie.inference.few_labels import softmax_regression
from picie.inference.sampling import SampleSpec, centre_square, sample_cells
from picie.inference.segmenter import Segmenter
from picie.runtime.progress import Progress, log
from picie.scoring.baselines import feature_kmeans, images_to_cluster, skip_on_error
from picie.scoring.counting import Pairs, Predict, score_split
from picie.scoring.evaluation import DEFAULTS, Evaluation, ScoreOptions, open_labelled, scored_config

MORE_CLUSTERS, LINEAR = "clustered again", "linear probe"  # starts of the rows' names
_CLUSTERS_PER_CLASS = 3  # of the finer clustering
_TRAIN = "train"  # split whose labels the probes use, if the training split has none
# linear probe: weight of |W|^2 / 2 in the loss, and maximum number of L-BFGS steps
_PENALTY, _STEPS = 1e-4, 500
# k-NN probe: neighbours, temperature (0.07 is usual in the literature), labelled cells searched
_NEIGHBOURS, _TEMPERATURE, _BANK = 20, 0.07, 2**14
_SIMILARITIES = 2**24  # number computed at a time (64 MB)


def evaluate_probes(
    run: str | Path,
    data: str | Path | None = None,
    *,
    split: str | None = None,
    probe_split: str | None = None,
    options: ScoreOptions = DEFAULTS,
) -> dict[str, Evaluation]:
    """Score probes of a run's frozen features, on the data that the run is scored on.

    The labels of the training split are read only here. A probe that cannot be computed, e.g.
    because there are no such labels, is skipped with a warning.

    Args:
        run: the run's folder.
        data: as for `evaluate`.
        split: as for `evaluate`.
        probe_split: split whose labels the probes are trained on; None uses the run's
            `data.train_split`, or "train" if that has no labels.
        options: as for `evaluate`.
    """
    segmenter = Segmenter.load(run, options.device)
    config = scored_config(segmenter.config, options.overrides)
    scored, split = open_labelled(config, data, split, options.dataset)
    assert scored.classes is not None
    load, seed, finer = centre_square(config.predict_size), config.seed, _CLUSTERS_PER_CLASS * len(scored.classes)
    rows: dict[str, tuple[Predict, int, str]] = {}
    with Progress(options.progress) as bars:
        with skip_on_error(f"clustering again at K = {finer}"):
            images = images_to_cluster(config, data, options.dataset)
            points = sample_cells(segmenter.encode, images, SampleSpec(load, seed), bars).points
            classifier = feature_kmeans(points, finer, config)
            rows[f"{MORE_CLUSTERS} at K = {finer}"] = (_with(segmenter, classifier).clusters, finer, "many-to-one")
        with skip_on_error("linear and k-NN probe"):
            train, name = _labelled_train(config, data, options.dataset, probe_split)
            assert train.classes is not None
            common = len(scored) if name == split else len(_files(train) & _files(scored))
            if common:
                log.warning("the probes are trained on %d of the %d images that they are scored on", common, len(scored))
            sample = sample_cells(segmenter.encode, train, SampleSpec(load, seed, labelled=True), bars)
            points, labels, n = sample.points, sample.classes, len(train.classes)
            linear = _with(segmenter, logistic_regression(points, labels, n))
            rows[f"{LINEAR} (labels of {name})"] = (linear.clusters, n, "identity")
            rows[f"{_NEIGHBOURS}-NN probe (labels of {name})"] = (neighbour_probe(segmenter, points, labels, n), n, "identity")
        pairs = Pairs(scored, config)
        return {name: score_split(predict, k, pairs, split, bars, matching) for name, (predict, k, matching) in rows.items()}


def _labelled_train(config: Config, data: str | Path | None, dataset: str | None, split: str | None) -> tuple[Dataset, str]:
    """The split that the probes are trained on, and its name.

    Raises `InputError` if no split has labels.
    """
    trained = config.data.train_split
    if split is None and trained != _TRAIN:
        # e.g. Cityscapes' test+train_extra, which has no labels
        with contextlib.suppress(InputError):
            return open_labelled(config, data, trained, dataset, "train")
    return open_labelled(config, data, split or _TRAIN, dataset, "train")


def _files(dataset: Dataset) -> set[Path]:
    """The image files of a dataset; empty if it is not made of files."""
    return set(getattr(dataset, "paths", ()))


def _with(segmenter: Segmenter, classifier: tuple[Tensor, Tensor]) -> CellClassifier:
    """The network of `segmenter` with another classifier."""
    return CellClassifier(segmenter.method, classifier, segmenter.config, segmenter.engine)


def logistic_regression(points: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Fit a multinomial logistic regression to standardised features by full-batch L-BFGS on the
    CPU.

    The standardisation is folded into the result.

    Args:
        points: (n, D) features.
        labels: (n,) int64 classes.
        n_classes: C.

    Returns:
        (C, D) weights and (C,) offsets for features that are not standardised: the classifier of a
        `Segmenter`.
    """
    points, labels = points.cpu(), labels.cpu()
    # smaller deviations of unit-norm features are noise
    mean, std = points.mean(0), points.std(0, correction=0).clamp(min=1e-4)
    standardised = (points - mean) / std
    weight, offset = softmax_regression(standardised, F.one_hot(labels, n_classes).float(), _PENALTY, steps=_STEPS)
    plain = weight / std
    return plain, offset - plain @ mean


def neighbour_probe(segmenter: Segmenter, points: Tensor, labels: Tensor, n_classes: int) -> Predict:
    """k-NN probe: the nearest neighbours of each cell vote for its class.

    The neighbours are taken from at most 2^14 random `points`. Votes are enlarged bilinearly, as
    logits are, before the arg max.

    Args:
        segmenter: computes the features.
        points: (n, D) labelled features.
        labels: (n,) int64 classes.
        n_classes: C.
    """
    generator = torch.Generator().manual_seed(segmenter.config.seed)
    chosen = torch.randperm(len(points), generator=generator)[:_BANK].to(points.device)
    bank, classes = points[chosen], labels[chosen]

    @torch.inference_mode()
    def predict(pixels: Tensor, size: tuple[int, int]) -> np.ndarray:
        z = segmenter.encode(pixels)
        votes = neighbour_votes(z.permute(0, 2, 3, 1).flatten(0, 2), bank, classes, n_classes)
        return enlarged_argmax(votes.view(len(z), *z.shape[2:], -1).permute(0, 3, 1, 2), size).cpu().numpy()

    return predict


def neighbour_votes(points: Tensor, bank: Tensor, classes: Tensor, n_classes: int) -> Tensor:
    """Weighted shares of the classes among the 20 nearest neighbours by cosine similarity.

    The weights are exp(similarity / 0.07).

    Args:
        points: (n, D), unit norm.
        bank: (m, D), unit norm; if m is below 20, all are neighbours.
        classes: (m,) int64 classes of the bank.
        n_classes: C.
    """
    votes = []
    for chunk in points.split(max(1, _SIMILARITIES // len(bank))):
        similarity, nearest = (chunk @ bank.T).topk(min(_NEIGHBOURS, len(bank)))
        weights = (similarity / _TEMPERATURE).softmax(1)
        votes.append((weights[:, None] @ F.one_hot(classes[nearest], n_classes).to(weights))[:, 0])
    return torch.cat(votes)
