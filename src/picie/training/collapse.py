"""Detects features that have collapsed, which makes the segments meaningless."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from picie.config import Config

_MIN_INERTIA = 1e-3  # squared distances of unit-norm features to their centroids
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
