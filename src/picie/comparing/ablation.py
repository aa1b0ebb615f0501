"""`picie ablate`: carry out a plan; what is there already is not run again, and what fails does not end the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import typer

from picie.comparing.ablation_plan import Job
from picie.comparing.comparison import compare
from picie.comparing.comparison_view import save_plot, show_comparison
from picie.comparing.run_records import Run, options_of
from picie.config import to_toml
from picie.errors import InputError, PicieError, Stopped, TrainingError, nearest
from picie.runtime.interrupts import graceful_stop
from picie.runtime.progress import log
from picie.training import api
from picie.training.checks import with_absolute_root

_POLL = 0.2  # seconds between looks at processes that take minutes


def ablate(jobs: Sequence[Job], out: Path, parallel: int = 1, against: str | None = None) -> None:
    """Carry out what is left of a plan, compare all runs, and write `out`/comparison.json and .png.

    Args:
        jobs: what `plan` gives.
        out: the folder of the ablation.
        parallel: runs at a time; more than one are processes of their own.
        against: the setting that the others are tested against; None: every pair is tested.

    Raises:
        InputError: a setting that cannot be run, or runs of other settings in the same folders; nothing has been started.
        Stopped: SIGINT or SIGTERM; the same command goes on.
        TrainingError: some runs failed; the others are finished and compared.
    """
    settings = list(dict.fromkeys(job.setting for job in jobs))
    if against is not None and against not in settings:
        raise InputError(f"--against: no setting {against!r}; {nearest(against, settings)}")
    left = [job for job in jobs if not _finished_alike(job)]
    for job in {job.setting: job for job in left}.values():
        _check(job)
    log.info("%d runs: %d settings x %d seeds; %d to do", len(jobs), len(settings), len(jobs) // len(settings), len(left))
    out.mkdir(parents=True, exist_ok=True)
    try:
        failed = _in_turn(left) if parallel == 1 else _side_by_side(left, parallel)
    except Stopped as stopped:
        done = sum(job.finished for job in jobs)
        raise Stopped(stopped.signum, f"stopped with {done} of {len(jobs)} runs finished; the same command goes on") from None
    _compare([job for job in jobs if job.begun], out, against)
    if failed:
        told = "; ".join(f"{folder} ({reason})" for folder, reason in failed.items())
        raise TrainingError(f"{len(failed)} of {len(jobs)} runs failed, and the same command tries them again: {told}")


def _finished_alike(job: Job) -> bool:
    """Whether the run is finished. Raises `InputError` if its folder holds a run of another configuration."""
    if not job.begun:
        return False
    there = Run.read(job.folder)
    ours, theirs = (options_of(config) for config in (with_absolute_root(job.config), there.config))
    key = next((key for key in ours if ours[key] != theirs[key]), None)
    if key is not None:
        raise InputError(f"{job.folder}: holds a run with {key} = {theirs[key]}, not {ours[key]}; give another --out")
    return there.finished


def _check(job: Job) -> None:
    try:
        api.check(job.config)
    except InputError as error:
        raise InputError(f"setting {job.setting!r}: {error}") from error


def _in_turn(jobs: Sequence[Job]) -> dict[Path, str]:
    """Carry out `jobs` in this process; why some failed, by folder."""
    failed: dict[Path, str] = {}
    for n, job in enumerate(jobs, 1):
        log.info("run %d of %d: %s", n, len(jobs), job.folder)
        try:
            if job.begun:
                api.resume(job.folder)
            else:
                api.train(job.config, job.folder)
        except Stopped:
            raise
        except Exception as error:  # of whatever kind: hours of other runs wait
            told = str(error) if isinstance(error, PicieError) else f"{type(error).__name__}: {error}"
            _beside(job, "log").write_text(traceback.format_exc(), "utf-8")
            _note_failure(failed, job, told)
    return failed


def _side_by_side(jobs: Sequence[Job], parallel: int) -> dict[Path, str]:
    """Carry out `jobs` as processes, so many at a time; why some failed, by folder.

    They are in sessions of their own, so that a terminal's SIGINT comes to them once, from here.
    """
    failed: dict[Path, str] = {}
    waiting, told = list(jobs), False
    active: list[tuple[Job, subprocess.Popen[bytes]]] = []
    with graceful_stop() as stop:
        try:
            while active or (waiting and stop.signum is None):
                while waiting and len(active) < parallel and stop.signum is None:
                    job = waiting.pop(0)
                    active.append((job, _start(job, parallel)))
                    log.info("run %d of %d: %s", len(jobs) - len(waiting), len(jobs), job.folder)
                time.sleep(_POLL)
                if stop.signum is not None and not told:
                    told = True
                    for _, process in active:
                        process.send_signal(stop.signum)
                for job, process in active:
                    if process.poll() not in (None, 0) and not told:
                        _note_failure(failed, job, _last_line(job))
                active = [(job, process) for job, process in active if process.returncode is None]
        finally:
            for _, process in active:
                process.terminate()
        stop.check()
    return failed


def _start(job: Job, parallel: int) -> subprocess.Popen[bytes]:
    """A process of `picie train`, whose words go to a log beside the run's folder."""
    settings = _beside(job, "toml")
    settings.write_text(to_toml(job.config), "utf-8")
    arguments = ["--resume", str(job.folder)] if job.begun else ["--config", str(settings), "--out", str(job.folder)]
    threads = max(1, (os.cpu_count() or 1) // parallel)
    with _beside(job, "log").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "picie", "train", *arguments],
            env={"OMP_NUM_THREADS": str(threads), **os.environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _beside(job: Job, suffix: str) -> Path:
    """A file of a run that does not belong into its folder, which must be empty when it begins."""
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    return job.folder.with_name(f"{job.folder.name}.{suffix}")


def _last_line(job: Job) -> str:
    lines = _beside(job, "log").read_text("utf-8", "replace").splitlines()
    return lines[-1].removeprefix("picie: error: ") if lines else "killed"


def _note_failure(failed: dict[Path, str], job: Job, reason: str) -> None:
    failed[job.folder] = reason
    log.warning("%s failed: %s", job.folder, reason)


def _compare(jobs: Sequence[Job], out: Path, against: str | None) -> None:
    """The comparison of all runs of a plan, on the terminal and in files."""
    if not jobs:
        return
    there = against if against in {job.setting for job in jobs} else None
    found = compare([job.folder for job in jobs], {job.folder: job.setting for job in jobs}, there)
    show_comparison(found)
    (out / "comparison.json").write_text(json.dumps(found.to_dict(), indent=2) + "\n", "utf-8")
    save_plot(found, out / "comparison.png")
    typer.echo(f"{out / 'comparison.png'}")
