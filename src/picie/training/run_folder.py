"""The folder of a run while it trains: its records, its progress bars, and requests to stop."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from picie.config import to_toml
from picie.data.loading import FrameCache
from picie.errors import InputError
from picie.runtime import distributed, output_paths
from picie.runtime.interrupts import StopRequest
from picie.runtime.profiling import stage
from picie.runtime.progress import Progress
from picie.runtime.run_record import RunRecord
from picie.runtime.system_calls import peak_memory_mb
from picie.training.checks import check_normalisable, check_points
from picie.training.setup import Setup

log = logging.getLogger("picie")
_FEW_IMAGES = 20


@dataclass(frozen=True)
class RunFolder:
    """The files, progress bars and stop request of a run.

    Attributes:
        out: the folder.
        record: run.json and metrics.jsonl.
        bars: progress bars.
        stop: whether the run is asked to stop.
    """

    out: Path
    record: RunRecord
    bars: Progress
    stop: StopRequest

    @property
    def how_to_resume(self) -> str:
        """How to continue the run, for messages."""
        return f"go on with: picie train --resume {self.out}"

    def begin(self, setup: Setup, new: bool) -> None:
        """Write run.json, and the configuration of a `new` run."""
        if new and distributed.is_main():
            output_paths.write_text(self.out / "config.toml", to_toml(setup.config))
        self.record.start({"engine": setup.engine.describe()})

    @contextlib.contextmanager
    def frames(self, setup: Setup) -> Iterator[FrameCache]:
        """The cache of decoded images in this folder, for the duration of the context."""
        options, pin = setup.config.run, setup.engine.device.type == "cuda"
        size = setup.config.views.frame_size
        frames = FrameCache(setup.dataset, size, self.out, options.cache_gb, options.workers, pin=pin)
        try:
            yield frames
        finally:
            frames.close()

    def read_images(self, setup: Setup, frames: FrameCache) -> np.ndarray:
        """Decode every image into `frames`; return (N,) int64 indices of the readable ones.

        Raises `InputError`.
        """
        config, dataset = setup.config, setup.dataset
        # Each image is decoded once on each machine.
        decoded = len(dataset) * distributed.world_size() // distributed.local_world_size()
        with stage("decode"), self.bars.bar("read images", decoded) as advance:
            indices = frames.scan(config.data.on_bad_image, self._stopping(advance))
        check_points(config, len(indices), setup.cells)
        check_normalisable(config, setup.method, len(indices))
        bad = {dataset.name(i): reason for i, reason in frames.unreadable.items()}
        self.record.update(images=len(indices), skipped_images=len(bad), skipped=bad, digest=frames.digest)
        self.record.update(scale=config.data.scale)
        log.info("%d image%s%s", len(indices), "" if len(indices) == 1 else "s", f", {len(bad)} skipped" if bad else "")
        if len(indices) < _FEW_IMAGES:
            log.info("with so few images, clusters may have no meaning; a few dozen are better, hundreds better still")
        return indices

    def _stopping(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        def checked(n: int) -> None:
            self.stop.check(f"stopped before the first epoch; {self.how_to_resume}")
            advance(n)

        return checked

    def check_images(self, saved: dict[str, Any], digest: str, root: str | None) -> None:
        """Raise `InputError` if the images of a checkpoint, `saved`, do not match `digest`."""
        if saved["images"] != digest:
            raise InputError(f"--resume {self.out}: the images of {root} have changed since; restore them, or train anew")

    def finish(self, epochs: int, finished: bool, began: float) -> None:
        """Close the run's records; `began` is its start time from `time.perf_counter`."""
        if distributed.is_main() and (self.out / "config.toml").is_file():
            status = "finished" if finished else "stopped" if self.stop.signum is not None else "failed"
            self.record.finish(status, epochs, time.perf_counter() - began, round(peak_memory_mb()))
