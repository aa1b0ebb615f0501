"""Later passes use what clustering has cached."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from picie.config import Config
from picie.models.extractor import Extractor
from picie.training import api, pseudo_labels
from picie.training.trainer import Trainer


@pytest.mark.parametrize(
    ("options", "label", "train"),
    [
        ((), 0, 6),
        (("cluster.smooth=0.2",), 0, 6),
        (("cluster.smooth=0.2", "model.freeze=true"), 0, 0),
        (("cluster.smooth=0.2", "cluster.batchnorm=train"), 4, 6),
        (("model.freeze=true",), 0, 0),
        (("cluster.batchnorm=train",), 4, 6),  # labels are made in evaluation mode
        (("cluster.batchnorm=train", "model.freeze=true"), 0, 0),  # where a frozen backbone always is
        (("run.keep_gb=0",), 4, 6),
        (("run.keep_gb=0", "model.freeze=true"), 4, 6),
    ],
)
def test_later_passes_ask_the_backbone_for_nothing_that_clustering_left(
    tiny: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    label: int,
    train: int,
) -> None:
    """Two views of 6 images, in batches of 4 and in steps of 2."""
    asked: Counter[str] = Counter()
    at = ["elsewhere"]

    def spy(owner: Any, attribute: str, name: str) -> None:
        plain = getattr(owner, attribute)

        def marked(*arguments: Any, **named: Any) -> Any:
            at.append(name)
            try:
                return plain(*arguments, **named)
            finally:
                at.pop()

        monkeypatch.setattr(owner, attribute, marked)

    plain_levels = Extractor.levels

    def counted(network: Extractor, images: Tensor) -> Any:
        asked[at[-1]] += 1
        return plain_levels(network, images)

    monkeypatch.setattr(Extractor, "levels", counted)
    spy(pseudo_labels, "_cluster", "cluster")
    spy(pseudo_labels, "_cluster_smoothed", "cluster")
    spy(pseudo_labels, "_label", "label")
    spy(Trainer, "_train", "train")
    api.train(
        tiny("train.epochs=1", "cluster.refit=0", *(["cluster.smooth=0"] if "smooth" not in str(options) else []), *options),
        tmp_path / "run",
    )
    assert (asked["cluster"], asked["label"], asked["train"]) == (4, label, train)
