"""Time picie and the floor alternately: epochs of a run, and its network calls replayed on ready
tensors.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.meters import peaks, timed
from benchmarks.replay import as_it_was, counts, ready, recorded, replay
from picie.config import Config
from picie.runtime.interrupts import StopRequest
from picie.runtime.profiling import stopwatch
from picie.runtime.progress import Progress
from picie.runtime.run_record import RunRecord
from picie.training.api import open_trainer
from picie.training.run_folder import RunFolder
from picie.training.setup import set_up

_UNMARKED = "rest"  # time outside all stages


def measure(config: Config, folder: Path, rounds: int, floor: bool = True) -> dict[str, Any]:
    """Time `rounds` epochs of a run, and as many replays of the network calls of such an epoch.

    A warm-up epoch comes first, then one in which stages are timed and network calls are recorded,
    so that neither disturbs the timed epochs. Peak memory is taken at that point, so it is that of
    picie alone.

    Args:
        config: configuration of the run; `train.epochs` is at least `rounds` +
            `settings.EXTRA_EPOCHS`.
        folder: folder of the run; it is created and must not exist.
        rounds: number of timed epochs.
        floor: whether to time the replays too.

    Returns:
        "seconds" per round of picie and the floor, "calls" of an epoch, seconds by stage of an
        epoch ("stages") and of the set-up before the first ("once"), numbers of images, the
        engine's description and peak memory.

    Raises:
        InputError: as for `picie.training.api.train`.
    """
    folder.mkdir(parents=True)
    setup = set_up(config, Progress(False))
    run_folder = RunFolder(folder, RunRecord(folder), Progress(False), StopRequest())
    device, network = setup.engine.device, setup.method.network
    seconds: dict[str, list[float]] = {name: [] for name in (("picie", "floor") if floor else ("picie",))}
    with contextlib.ExitStack() as stack:
        with stopwatch() as opening:
            run = stack.enter_context(open_trainer(setup, run_folder))
        run.epoch()
        with stopwatch() as watch, recorded(network) as calls:
            run.epoch()
        memory = peaks(device)
        given = ready(calls if floor else (), device)
        with as_it_was(network):
            # warm up the floor with one call of each kind
            replay(network, list(given.inputs), given)
        for number in range(rounds):
            # alternate the order, so that drift of the machine cancels
            for name in sorted(seconds, reverse=number % 2 == 0):
                if name == "picie":
                    seconds[name].append(timed(run.epoch, device))
                else:
                    with as_it_was(network):
                        seconds[name].append(timed(lambda: replay(network, calls, given), device))
    return {
        "engine": setup.engine.describe(),
        "images": len(run.source.indices),
        "val_images": 0 if setup.scored is None else len(setup.scored.dataset),
        "refit_images": run.refit_images,
        "seconds": seconds,
        "calls": counts(calls),
        "stages": _joined(watch.seconds),
        "once": _joined(opening.seconds),
        **memory,
    }


def _joined(seconds: Mapping[tuple[str, ...], float]) -> dict[str, float]:
    """{"train/forward": 2.5, ...} from a stopwatch's seconds; unmarked time is "rest", empty
    stages are left out.
    """
    joined: defaultdict[str, float] = defaultdict(float)
    for path, value in seconds.items():
        joined["/".join(path) or _UNMARKED] += value
    return {name: value for name, value in joined.items() if value >= 5e-4}
