"""The progress of a run, stored in its checkpoint with the weights and optimisers."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from picie.runtime import checkpoint
from picie.training.pseudo_labels import Clustering


@dataclass
class TrainState:
    """The progress of a run.

    Attributes:
        epoch: number of finished epochs.
        step: number of finished steps of the next epoch.
        finished: whether the last epoch is finished.
        clusterings: results of the current epoch's clustering, by prefix of the head; empty before
            it.
        totals: parts of the loss, summed over the epoch's images.
        seconds: time by stage of the epoch.
        matching: matching of the latest scores; None if the clusters have changed since.
    """

    epoch: int = 0
    step: int = 0
    finished: bool = False
    clusterings: dict[str, Clustering] = field(default_factory=dict)
    totals: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    matching: dict[str, Any] | None = None

    def end_epoch(self, finished: bool) -> None:
        """Clear the values of the epoch that has ended."""
        self.finished = finished
        self.clusterings.clear()
        self.totals.clear()
        self.seconds.clear()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values and tensors for a checkpoint."""
        clusterings = {f"{prefix}clustering": vars(clustering) for prefix, clustering in self.clusterings.items()}
        return {
            "epoch": self.epoch,
            "step": self.step,
            "finished": self.finished,
            "matching": self.matching,
            "totals": dict(self.totals),
            "seconds": dict(self.seconds),
            **(clusterings if self.step else {"clustering": None}),
        }

    @staticmethod
    def from_dict(saved: dict[str, Any]) -> TrainState:
        """Return the state in a checkpoint, `saved`."""
        values = {prefix: saved.get(f"{prefix}clustering") for prefix in ("", "over_")}
        clusterings = {prefix: Clustering(**value) for prefix, value in values.items() if value is not None}
        totals, seconds = defaultdict(float, saved["totals"]), defaultdict(float, saved["seconds"])
        matching = checkpoint.without_naming(saved)["matching"]
        return TrainState(saved["epoch"], saved["step"], saved["finished"], clusterings, totals, seconds, matching)
