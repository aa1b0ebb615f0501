"""Check and measure picie on a GPU in one go: `python -m benchmarks.gpu`.

    python -m benchmarks.gpu                     # written to take less than eight minutes on one GPU
    python -m benchmarks.gpu --dry-run           # the same steps on the CPU, with tiny sizes

First it checks that the GPU computes what the CPU computes, that a resumed run ends like an
uninterrupted one and, if there are two GPUs, that two processes compute what one does. Then it
measures an epoch, its stages, memory and the floor at COCO's size: ResNet-18, K = 27, views of 320
px cut from frames of 640, k-means batches of 256 and training batches of 128. Pictures are
generated in memory. The record is written after each part, so that an interruption loses little.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks import bench, bench_tables
from benchmarks.gpu_checks import ROOT, compare_processes, compare_runs, compare_with_cpu, judged
from benchmarks.in_memory import NAME
from benchmarks.measuring import measure
from benchmarks.meters import stoppable
from benchmarks.settings import EXTRA_EPOCHS
from picie.cli.exit_status import run_app
from picie.config import Config, load
from picie.errors import InputError
from picie.runtime.atomic_write import write_atomically
from picie.runtime.device import pick_device
from picie.runtime.progress import log, set_up_logging
from picie.runtime.run_record import git_state, versions

COCO = 49_629  # training images of COCO-Stuff's curated list
GOAL = 800  # images/s on one H200
_ROUNDS = 2
_FRAMES_GB, _KEEP_GB = 64, 62  # run.cache_gb and run.keep_gb for all of COCO on a GPU of 140 GB
_SHARED = (f"data.name={NAME}", "data.on_bad_image=error", "run.report=false", "run.progress=false")
_SMALL = (*_SHARED, "model.pretrained=false", "cluster.init_batches=2", "evaluate.scale=1")
# small enough for the CPU, which computes everything, too
_CHECKED = (*_SMALL, "model.backbone=resnet18", "cluster.k=27", "views.size=96", "train.batch_size=32", "cluster.batch_size=32")
_MEASURED = (*_SMALL, "model.backbone=resnet18", "cluster.k=27", "views.size=320", "train.batch_size=128")
_TINY = (*_SMALL, "model.backbone=test_resnet", "model.dim=8", "cluster.k=3", "views.size=32", "train.batch_size=4")

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks and the measurement; the exit status is 1 if a check fails."""
    return run_app(app, "python -m benchmarks.gpu", arguments)


@app.command()
def gpu(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Take every step on the CPU, with tiny sizes.")] = False,
    device: Annotated[str, typer.Option(help="The device: cuda, cuda:1 or mps.")] = "cuda",
    images: Annotated[int, typer.Option(min=512, help="Images of the measured epochs.")] = 4096,
    processes: Annotated[
        int | None, typer.Option(help="Processes to compare with one; 0 compares none. [default: 2, if there are two GPUs]")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The record, JSON. [default: a file in benchmarks/results named by date and device]"),
    ] = None,
) -> None:
    """Check that a GPU computes what the CPU does, and measure it at COCO's size."""
    set_up_logging(quiet=True)  # the runs are only a means
    if dry_run:
        device, images = "cpu", 8
    chosen = pick_device(device)
    if dry_run and out is None:
        raise InputError("--dry-run: give the file of its record, e.g. --out record.json")
    if processes is None:
        processes = 2 if chosen.type == "cuda" and torch.cuda.device_count() > 1 else 0
    record = _start(chosen, dry_run)
    out = out or ROOT / "benchmarks" / "results" / f"{record['taken']}-gpu-{bench.machine_of(record)}.json"
    checked, measured = _configs(device, images, dry_run)
    with stoppable(), tempfile.TemporaryDirectory(prefix="picie-gpu-") as temporary:
        folder = Path(temporary)
        (folder / "runs").mkdir()
        _tell(f"one batch on the CPU and on {record['engine']['device']}")
        record["checks"] |= judged(compare_with_cpu(checked, 4 if dry_run else 32))
        _write(out, record)
        _tell("two epochs on the CPU, on the device, and with a stop in between")
        record["checks"] |= judged(compare_runs(checked, folder / "runs"))
        _write(out, record)
        if processes > 1:
            _tell(f"an epoch in {processes} processes and in one")
            record["checks"] |= judged(compare_processes(checked, folder / "runs", processes))
            _write(out, record)
        _tell(f"epochs of {images:,} images, their stages, and the floor")
        if chosen.type == "cuda":
            torch.cuda.reset_peak_memory_stats(chosen)
        record["speed"] = _speed(measured, folder / "measured")
    record["seconds"] = round(time.perf_counter() - record.pop("began"), 1)
    _write(out, record)
    _show(record)
    typer.echo(f"{out}")
    failed = [name for name, check in record["checks"].items() if not check["passed"]]
    if failed:
        log.error("outside their tolerances: %s", ", ".join(failed))
        raise typer.Exit(1)


def _tell(step: str) -> None:
    typer.echo(step, err=True)


def _configs(device: str, images: int, dry_run: bool) -> tuple[Config, Config]:
    """The configurations of the checks and of the measurement."""

    def splits(n: int, n_val: int, size: str) -> list[str]:
        return [f"data.train_split=train-{n}-{size}", f"evaluate.split=val-{n_val}-{size}", f"run.device={device}"]

    epochs = f"train.epochs={_ROUNDS + EXTRA_EPOCHS}"
    if dry_run:
        tiny = [*_TINY, *splits(images, 2, "48x64"), "cluster.batch_size=4"]
        return load(None, None, tiny), load(None, None, [*tiny, epochs])
    # The same shares of the frames and of the cached views as in an epoch of COCO.
    share = images / COCO
    sizes = ["cluster.batch_size=256", epochs, f"run.cache_gb={_FRAMES_GB}", f"run.keep_gb={_keep_gb(device) * share:.2f}"]
    measured = [*_MEASURED, *splits(images, images // 8, "480x640"), *sizes]
    return load(None, None, [*_CHECKED, *splits(96, 32, "240x320")]), load(None, None, measured)


def _keep_gb(device: str) -> float:
    """`run.keep_gb` for all of COCO on this device."""
    if not device.startswith("cuda"):
        return 1.0
    return min(_KEEP_GB, 0.45 * torch.cuda.get_device_properties(torch.device(device)).total_memory / 1e9)


def _start(device: torch.device, dry_run: bool) -> dict[str, Any]:
    """What is known before anything is measured."""
    record: dict[str, Any] = {
        "taken": time.strftime("%Y-%m-%d"),
        "began": time.perf_counter(),
        "dry_run": dry_run,
        "versions": versions(),
        "git": git_state(),
        "cores": bench.cores(),
        "engine": {"device": device.type},
        "checks": {},
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        record["engine"] = {
            "device": properties.name,
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "gpus": torch.cuda.device_count(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return record


def _speed(config: Config, folder: Path) -> dict[str, Any]:
    """The benchmark's record of an epoch, with images/s and what they mean for COCO."""
    speed = bench.record(config, measure(config, folder, _ROUNDS), [])
    rate = speed["images"] / speed["least"]["picie"]
    floor = speed["images"] / speed["least"]["floor"]
    return speed | {
        "images_per_second": {"picie": rate, "floor": floor},
        "coco_epoch_seconds": COCO / rate,
        "goal": {"images_per_second": GOAL, "reached": rate >= GOAL},
    }


def _write(out: Path, record: dict[str, Any]) -> None:
    content = {key: value for key, value in record.items() if key != "began"}
    write_atomically(out, lambda file: file.write((json.dumps(content, indent=2) + "\n").encode()))


def _show(record: dict[str, Any]) -> None:
    typer.echo(f"{'check':20} {'value':>10} {'at most':>10}")
    for name, check in record["checks"].items():
        typer.echo(f"{name:20} {check['value']:10.2e} {check['tolerance']:10.0e}{'' if check['passed'] else '  FAILED'}")
    speed = record["speed"]
    bench_tables.show_record(speed)
    rates = speed["images_per_second"]
    typer.echo(
        f"{rates['picie']:.0f} images/s, bare network {rates['floor']:.0f}; an epoch of {COCO:,} images: "
        f"{speed['coco_epoch_seconds']:.0f} s; goal of {GOAL} images/s on one H200"
    )


if __name__ == "__main__":
    sys.exit(main())
