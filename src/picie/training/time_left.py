"""Estimates the remaining time of a run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

_MIN_FRACTION = 0.02  # of a training pass; the first steps are slower than the others


class TimeLeft:
    """Estimates the remaining time of a run.

    It uses the epochs so far or, in the first epoch, the training steps.

    Args:
        epochs: `train.epochs`.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self._finished: list[float] = []  # seconds of each epoch that this process trained
        self._began: float | None = None  # when the current pass began

    def begin_pass(self) -> None:
        """Record the start of a pass."""
        self._began = time.perf_counter()

    def end_pass(self) -> float:
        """Record the end of the pass and return its duration in seconds."""
        assert self._began is not None
        seconds, self._began = time.perf_counter() - self._began, None
        return seconds

    def end_epoch(self, passes: Mapping[str, float]) -> None:
        """Record the end of an epoch, with the seconds of each of its passes.

        The remainder of a resumed epoch is not counted.
        """
        if "label" in passes:
            self._finished.append(sum(passes.values()))

    def estimate(self, epoch: int, passes: Mapping[str, float], trained: float) -> float | None:
        """Return the remaining seconds of the run, or None if there is no estimate yet.

        Args:
            epoch: number of epochs whose training pass is finished.
            passes: seconds of the finished passes of the current epoch.
            trained: fraction of the current training pass that is done; 0 outside a training pass.
        """
        current = 0.0 if self._began is None else time.perf_counter() - self._began
        so_far = sum(passes.values()) + current
        scoring = "train" in passes  # the epoch's training is finished, and `epoch` includes it
        if self._finished:
            whole = statistics.fmean(self._finished)
        elif "label" not in passes:
            return None
        elif scoring:
            whole = so_far
        elif trained >= _MIN_FRACTION:
            whole = so_far - current + current / trained
        else:
            return None
        return max(0.0, (self.epochs - epoch) * whole - (0 if scoring else so_far))
