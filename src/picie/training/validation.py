"""Scores a method on a labelled split while it trains."""

from __future__ import annotations

from picie.config import Config
from picie.data import split_title
from picie.inference.cells import CellClassifier
from picie.methods.base import Method
from picie.runtime.device import Engine
from picie.runtime.progress import Progress
from picie.scoring.counting import Pairs, score_split
from picie.scoring.results import Evaluation


def validate(method: Method, scored: Pairs, config: Config, engine: Engine, bars: Progress) -> Evaluation:
    """Score the current `method` on the images and labels `scored`.

    The protocol is that of `config.evaluate`.
    """
    classifier = CellClassifier(method, method.classifier(), config, engine)
    return score_split(classifier.clusters, classifier.k, scored, split_title(config.evaluate.split, config.data), bars)
