"""The benchmark: each setting's contestants measured, each in a process of its own, and a record of it.

The naive recipe's epochs are taken before and after those of picie and the floor, which alternate, so that a machine that
becomes slower or faster does so for all three.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.meters import cores, in_process
from benchmarks.pictures import image_paths, repeat
from benchmarks.settings import STEPS, Grow, described, grown
from picie.config import Config
from picie.data import open_dataset
from picie.errors import InputError
from picie.runtime.progress import log
from picie.runtime.run_record import git_state, versions

Record = dict[str, Any]


def bench(settings: Sequence[Config], folder: Path, rounds: int, naive: bool) -> Iterator[Record]:
    """Yield a record of each setting: picie, the floor and, if asked for, the naive recipe.

    Args:
        settings: what `settings.setting` gives.
        folder: for everything that is written; emptied by the caller.
        rounds: epochs counted of each contestant.
        naive: whether to run the naive recipe, the slowest by far.

    Raises:
        InputError: settings or data that cannot be used; nothing has been measured yet.
    """
    for config in settings if naive else ():
        _check_naive(config)
    in_process(_refuse, settings)
    for number, config in enumerate(settings):
        log.info("%s%s", config.model.backbone, ", frozen" if config.model.freeze else "")
        place = folder / f"setting-{number}"
        slow = [_naive(config, place, epoch) for epoch in range((rounds + 1) // 2 if naive else 0)]
        log.info("picie and the floor, %d epochs each after two of picie to warm up", rounds)
        ours = in_process(_measure, config, place / "run", rounds)
        slow += [_naive(config, place, epoch) for epoch in range(len(slow), rounds if naive else 0)]
        yield record(config, ours, slow)


def growth(config: Config, grow: Grow, folder: Path, rounds: int) -> Iterator[Record]:
    """Yield a record of picie alone for each of `STEPS[grow]`: how time and memory grow with one quantity.

    Args:
        config: what `settings.setting` gives.
        grow: the quantity; "images" takes those of the data several times over, and scores none.
        folder: for everything that is written; emptied by the caller.
        rounds: epochs counted.

    Raises:
        InputError: as for `bench`.
    """
    if grow == "images":
        paths = image_paths(open_dataset(config.data, config.data.train_split))
        settings = []
        for times in STEPS[grow]:
            repeat(paths, times, folder / f"times-{times}")
            data = config.data.model_copy(update={"name": "folder", "root": str(folder / f"times-{times}")})
            settings.append(config.model_copy(update={"data": data}))
    else:
        settings = [grown(config, grow, value) for value in STEPS[grow]]
    try:
        in_process(_refuse, settings)
    except InputError as error:
        raise InputError(f"--grow {grow} ({', '.join(map(str, STEPS[grow]))}): {error}") from error
    for step, tried in zip(STEPS[grow], settings, strict=True):
        log.info("%s: %d", grow, step)
        ours = in_process(_measure, tried, folder / f"{grow}-{step}", rounds, floor=False)
        yield {"grow": grow, **record(tried, ours, [])}


def _refuse(settings: Sequence[Config]) -> None:
    """Raise `InputError` for settings of which one is refused, or an image of them, before the first takes its minutes."""
    from picie.data.loading import read_ahead
    from picie.training.api import check
    from picie.training.checks import labelled_split

    for config in settings:
        check(config)
    config = settings[0]  # the others' images are the same
    for split in (open_dataset(config.data, config.data.train_split), labelled_split(config)):
        for _ in read_ahead(split.image, range(len(split))) if split is not None else ():
            pass


def _check_naive(config: Config) -> None:
    """Raise `InputError` for what the naive recipe, which is PiCIE on image files, cannot be compared with."""
    try:
        image_paths(open_dataset(config.data, config.data.train_split))
    except InputError as error:
        raise InputError(f"{error}, or --no-naive") from error
    plain = config.method == "picie" and not config.cluster.over_k and not config.loss.mse
    if not plain:
        raise InputError(
            "bench: the naive recipe is PiCIE as published; with another method, cluster.over_k or loss.mse say --no-naive"
        )


def _measure(*arguments: Any, **options: Any) -> Record:
    from benchmarks.measuring import measure  # torch, which the process that starts the others does without

    return measure(*arguments, **options)


def _naive(config: Config, place: Path, epoch: int) -> Record:
    log.info("the naive recipe, epoch %d", epoch + 1)
    folder = place / f"naive-{epoch}"
    folder.mkdir(parents=True)
    return in_process(_measure_naive, config, folder, epoch)


def _measure_naive(*arguments: Any) -> Record:
    from benchmarks.naive import measure_naive

    return measure_naive(*arguments)


def record(config: Config, ours: Mapping[str, Any], naive: Sequence[Mapping[str, Any]]) -> Record:
    """What a benchmark of `config` found, as plain values: sizes, machine, all seconds, each contestant's least, their ratios.

    Args:
        config: what was measured.
        ours: what `measure` gave.
        naive: what `measure_naive` gave, an item an epoch; may be empty.
    """
    seconds = {**ours["seconds"], **({"naive": [epoch["seconds"] for epoch in naive]} if naive else {})}
    least = {name: min(values) for name, values in seconds.items()}  # whatever else the machine did can only have added
    total = sum(ours["stages"].values())
    found: Record = {
        "taken": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "git": git_state(),
        "platform": platform.platform(),
        "cores": cores(),
        "engine": ours["engine"],
        **described(config),
        "images": ours["images"],
        "val_images": ours["val_images"],
        "refit_images": ours["refit_images"],
        "seconds": seconds,
        "least": least,
        "ratios": _ratios(seconds),
        "calls": {"picie": ours["calls"]},
        "stages": {
            name: {"seconds": value, "images_per_second": _images(name, ours) / value, "share": value / total}
            for name, value in ours["stages"].items()
        },
        "once": ours["once"],
        "memory": {"picie": {key: ours[key] for key in ("peak_memory_mb", "peak_vram_mb")}},
    }
    if naive:
        last = naive[-1]
        found["calls"]["naive"] = {key: last[key] for key in ("forwards", "backwards")}
        found["memory"]["naive"] = {key: last[key] for key in ("peak_memory_mb", "peak_vram_mb")}
        found["naive"] = {key: last[key] for key in ("passes", "threads", "workers")}
    return found


def _ratios(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """How contestants compare: an epoch of picie and a floor that were taken in turn, the median of their quotients, so that a
    machine that slows down counts for neither; with the naive recipe, minutes away, the quotient of the least.
    """
    ratios = {}
    if "floor" in seconds:
        ratios["picie/floor"] = statistics.median(side_by_side(seconds))
    if "naive" in seconds:
        ratios["naive/picie"] = min(seconds["naive"]) / min(seconds["picie"])
    return ratios


def side_by_side(seconds: Mapping[str, Sequence[float]]) -> list[float]:
    """Each round's epoch of picie over the floor right beside it."""
    return [a / b for a, b in zip(seconds["picie"], seconds["floor"], strict=True)]


def _images(stage: str, ours: Mapping[str, Any]) -> int:
    """How many images a stage has to do with: those that are scored, of the refit, or trained on."""
    kinds = {"evaluate": "val_images", "refit": "refit_images"}
    images: int = ours[kinds.get(stage.split("/")[0], "images")]
    return images


def machine_of(found: Mapping[str, Any]) -> str:
    """Device and cores of a record, as they stand in a file's name; no machine is named by it."""
    device = "".join(c if c.isalnum() else "-" for c in str(found["engine"]["device"]).lower())
    return f"{device}-{found['cores']}cores"


def append(out: Path, found: Record) -> Path:
    """Append `found` as a line to the file `out`, or, where that is a folder, to one in it named by date and machine.

    Returns:
        The file.
    """
    path = out / f"{found['taken']}-{machine_of(found)}.jsonl" if out.is_dir() else out
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(found) + "\n")
    return path
