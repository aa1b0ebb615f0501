"""Measure the contestants of each setting, each in its own process, and build a record of the
result.

Epochs of the naive recipe run before and after those of picie and the floor, which alternate, so
that a machine that becomes slower or faster affects all three.
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
    """Yield a record for each setting: picie, the floor and, if `naive`, the naive recipe.

    Args:
        settings: from `settings.setting`.
        folder: for all files that are written; the caller removes it.
        rounds: timed epochs of each contestant.
        naive: whether to run the naive recipe, by far the slowest.

    Raises:
        InputError: invalid settings or data; raised before anything is measured.
    """
    for config in settings if naive else ():
        _check_naive(config)
    in_process(_check_all, settings)
    for number, config in enumerate(settings):
        log.info("%s%s", config.model.backbone, ", frozen" if config.model.freeze else "")
        place = folder / f"setting-{number}"
        slow = [_naive(config, place, epoch) for epoch in range((rounds + 1) // 2 if naive else 0)]
        log.info("picie and the floor, %d epochs each, after two warm-up epochs of picie", rounds)
        ours = in_process(_measure, config, place / "run", rounds)
        slow += [_naive(config, place, epoch) for epoch in range(len(slow), rounds if naive else 0)]
        yield record(config, ours, slow)


def growth(config: Config, grow: Grow, folder: Path, rounds: int) -> Iterator[Record]:
    """Yield a record of picie alone for each value in `STEPS[grow]`.

    Args:
        config: from `settings.setting`.
        grow: the quantity that increases; "images" repeats the images of the data, without scores.
        folder: for all files that are written; the caller removes it.
        rounds: timed epochs.

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
        in_process(_check_all, settings)
    except InputError as error:
        raise InputError(f"--grow {grow} ({', '.join(map(str, STEPS[grow]))}): {error}") from error
    for step, tried in zip(STEPS[grow], settings, strict=True):
        log.info("%s: %d", grow, step)
        ours = in_process(_measure, tried, folder / f"{grow}-{step}", rounds, floor=False)
        yield {"grow": grow, **record(tried, ours, [])}


def _check_all(settings: Sequence[Config]) -> None:
    """Raise `InputError` for an invalid setting or an unreadable image before anything is
    measured.
    """
    from picie.data.loading import read_ahead
    from picie.training.api import check
    from picie.training.checks import labelled_split

    for config in settings:
        check(config)
    config = settings[0]  # all settings have the same images
    for split in (open_dataset(config.data, config.data.train_split), labelled_split(config)):
        for _ in read_ahead(split.image, range(len(split))) if split is not None else ():
            pass


def _check_naive(config: Config) -> None:
    """Raise `InputError` unless the setting is PiCIE on image files, like the naive recipe."""
    try:
        image_paths(open_dataset(config.data, config.data.train_split))
    except InputError as error:
        raise InputError(f"{error}, or use --no-naive") from error
    plain = config.method == "picie" and not config.cluster.over_k and not config.loss.mse
    if not plain:
        raise InputError(
            "bench: the naive recipe is PiCIE as published; with another method, cluster.over_k or loss.mse, use --no-naive"
        )


def _measure(*arguments: Any, **options: Any) -> Record:
    # imports torch; the parent process stays small without it
    from benchmarks.measuring import measure

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
    """The result of one setting as plain values: sizes, machine, all times, minima, ratios.

    Args:
        config: the setting that was measured.
        ours: from `measure`.
        naive: from `measure_naive`, one item per epoch; may be empty.
    """
    seconds = {**ours["seconds"], **({"naive": [epoch["seconds"] for epoch in naive]} if naive else {})}
    # other load on the machine can only add time
    least = {name: min(values) for name, values in seconds.items()}
    total = sum(ours["stages"].values())
    result: Record = {
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
        result["calls"]["naive"] = {key: last[key] for key in ("forwards", "backwards")}
        result["memory"]["naive"] = {key: last[key] for key in ("peak_memory_mb", "peak_vram_mb")}
        result["naive"] = {key: last[key] for key in ("passes", "threads", "workers")}
    return result


def _ratios(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Ratios of the contestants' times.

    Epochs of picie and the floor alternate, so their ratio is the median of the ratios of
    neighbouring epochs; this cancels drift of the machine. The naive recipe runs minutes apart, so
    its ratio is that of the minima.
    """
    ratios = {}
    if "floor" in seconds:
        ratios["picie/floor"] = statistics.median(side_by_side(seconds))
    if "naive" in seconds:
        ratios["naive/picie"] = min(seconds["naive"]) / min(seconds["picie"])
    return ratios


def side_by_side(seconds: Mapping[str, Sequence[float]]) -> list[float]:
    """Time of picie over the time of the neighbouring floor, for each round."""
    return [a / b for a, b in zip(seconds["picie"], seconds["floor"], strict=True)]


def _images(stage: str, ours: Mapping[str, Any]) -> int:
    """Number of images that a stage processes: validation, refit or training images."""
    kinds = {"evaluate": "val_images", "refit": "refit_images"}
    images: int = ours[kinds.get(stage.split("/")[0], "images")]
    return images


def machine_of(result: Mapping[str, Any]) -> str:
    """Device and number of cores of a record, for a file name; contains no host name."""
    device = "".join(c if c.isalnum() else "-" for c in str(result["engine"]["device"]).lower())
    return f"{device}-{result['cores']}cores"


def append(out: Path, result: Record) -> Path:
    """Append a record as a line to the file `out`, or in a folder, to a file named by date and
    machine.

    Returns:
        The file that was written.
    """
    path = out / f"{result['taken']}-{machine_of(result)}.jsonl" if out.is_dir() else out
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    return path
