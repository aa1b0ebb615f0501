"""Where a run stands: what its checkpoint says beside weights and optimisers."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from picie.runtime import checkpoint
from picie.training.pseudo_labels import Clustering


@dataclass
class TrainState:
    """Where a run stands: `epoch` epochs are done, and `step` steps of the next."""

    epoch: int = 0
    step: int = 0
    finished: bool = False
    clusterings: dict[str, Clustering] = field(default_factory=dict)  # of the epoch at hand, by the head's prefix
    totals: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))  # loss parts, summed over images
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))  # by stage of the epoch
    matching: dict[str, Any] | None = None  # of the latest evaluation, while the clusters are those that it matched

    def state(self) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint."""
        begun = {f"{prefix}clustering": vars(clustering) for prefix, clustering in self.clusterings.items()}
        plain = {"totals": dict(self.totals), "seconds": dict(self.seconds), **(begun if self.step else {"clustering": None})}
        return {"epoch": self.epoch, "step": self.step, "finished": self.finished, "matching": self.matching, **plain}

    @staticmethod
    def of(state: dict[str, Any]) -> TrainState:
        """What `state` gave."""
        begun = {prefix: state.get(f"{prefix}clustering") for prefix in ("", "over_")}
        clusterings = {prefix: Clustering(**values) for prefix, values in begun.items() if values is not None}
        totals, seconds = defaultdict(float, state["totals"]), defaultdict(float, state["seconds"])
        matching = checkpoint.without_naming(state)["matching"]
        return TrainState(state["epoch"], state["step"], state["finished"], clusterings, totals, seconds, matching)
