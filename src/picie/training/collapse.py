"""Detects features that have collapsed, which makes the segments meaningless."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from picie.config import Config

_MIN_INERTIA = 1e-3  # squared distances of unit-norm features to their centroids
_MAX_IMBALANCE = 0.8  # share of K, the imbalance if one cluster holds all cells
_MAX_LOSS = 0.99  # share of ln K, the loss of features that do not distinguish clusters


def collapse_signs(line: Mapping[str, Any], config: Config) -> Iterator[str]:
    """Describe each sign of a collapse in the metrics of an epoch.

    Args:
        line: the epoch's line of metrics.jsonl.
        config: the run's configuration.

    Yields:
        A phrase such as "3 of 4 clusters are empty".
    """
    k, loss = config.cluster.k, line.get("within")
    # A temperature above 1 bounds the logits, and brings the loss of good features closer to ln K.
    limit = 1 - (1 - _MAX_LOSS) / max(1.0, config.loss.temperature)
    if loss is not None and config.loss.name == "cross_entropy" and loss >= limit * math.log(k):
        yield f"the within-view loss is {loss:.3f}, that of guessing is ln K = {math.log(k):.3f}"
    inertia = min(line["inertia"])
    if inertia < _MIN_INERTIA:
        yield f"the inertia is {inertia:.1e}"
    empty = max(line["empty"])
    if empty >= k - 1:
        yield f"{empty} of {k} clusters are empty"
    imbalance = max(line["imbalance"])
    if imbalance > _MAX_IMBALANCE * k:
        yield f"one cluster holds nearly all cells (imbalance {imbalance:.2f}, at most K = {k})"


def collapse_warning(line: Mapping[str, Any], config: Config, reported: bool) -> str | None:
    """The warning after an epoch whose features show a sign of a collapse; None without one.

    Args:
        line: as for `collapse_signs`.
        config: the run's configuration.
        reported: whether an earlier epoch was warned of; then only the last epoch is.
    """
    last = line["epoch"] == config.train.epochs
    signs = "; ".join(collapse_signs(line, config)) if last or not reported else ""
    if not signs:
        return None
    if not last:
        return f"the features show signs of a collapse ({signs}); if they stay, lower train.lr, and check the images"
    advice = "lower train.lr, and check the images" if line["epoch"] else "check the images and the weights"
    return f"the features have collapsed ({signs}), so the segments are meaningless; {advice}"
