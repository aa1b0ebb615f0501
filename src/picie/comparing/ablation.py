"""`picie ablate`: run the plan of an ablation.

Finished runs are not repeated, and a run that fails does not stop the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import typer

from picie import registry
from picie.comparing.ablation_plan import Job, folder_name
from picie.comparing.comparison import Comparison, compare
from picie.comparing.comparison_view import save_plot, show_comparison, show_task_means
from picie.comparing.probe_scores import measure_probes
from picie.comparing.run_records import Run, options_of
from picie.comparing.task_means import TaskMeans, task_means
from picie.config import to_toml
from picie.errors import InputError, PicieError, Stopped, TrainingError, nearest
from picie.runtime.atomic_write import clear_partials
from picie.runtime.interrupts import graceful_stop
from picie.runtime.output_paths import is_empty, write_json, write_text
from picie.runtime.progress import log
from picie.training import api
from picie.training.backbone_defaults import with_backbone_defaults
from picie.training.checks import with_absolute_root

_POLL = 0.2  # seconds between polls of the training processes


def ablate(jobs: Sequence[Job], out: Path, parallel: int = 1, against: str | None = None, probes: bool = False) -> None:
    """Run the unfinished jobs of a plan, compare all runs, and write `out`/comparison.json and
    .png.

    Args:
        jobs: result of `plan`.
        out: folder of the ablation.
        parallel: number of runs at a time; if it exceeds 1, each has its own process.
        against: setting that the others are tested against; None tests every pair.
        probes: also score the probes of every finished run.

    Raises:
        InputError: a setting cannot be run, or a folder holds a run of another setting. No run was
            started.
        Stopped: SIGINT or SIGTERM was received; the same command continues the ablation.
        TrainingError: some runs failed; the others are finished and were compared.
    """
    settings = list(dict.fromkeys(job.setting for job in jobs))
    if against is not None and against not in settings:
        raise InputError(f"--against: no setting {against!r}; {nearest(against, settings)}")
    unfinished = [job for job in jobs if not _is_finished(job)]
    for job in {(job.setting, job.task): job for job in unfinished}.values():
        _check(job)
    tasks = len({job.task for job in jobs})
    seeds = len(jobs) // len(settings) // tasks
    sizes = f"{len(settings)} settings" + f" x {tasks} tasks" * (tasks > 1) + f" x {seeds} seeds"
    log.info("%d runs: %s; %d to do", len(jobs), sizes, len(unfinished))
    out.mkdir(parents=True, exist_ok=True)
    try:
        failed = _run_in_turn(unfinished) if parallel == 1 else _run_in_parallel(unfinished, parallel)
    except Stopped as stopped:
        done = sum(job.finished for job in jobs)
        raise Stopped(
            stopped.signum, f"stopped with {done} of {len(jobs)} runs finished; run the same command to continue"
        ) from None
    for folder in [job.folder for job in jobs if job.finished] if probes else []:
        measure_probes(folder)
    _compare([job for job in jobs if job.begun], out, against)
    if failed:
        listed = "; ".join(f"{folder} ({reason})" for folder, reason in failed.items())
        raise TrainingError(f"{len(failed)} of {len(jobs)} runs failed; run the same command to try them again: {listed}")


def _is_finished(job: Job) -> bool:
    """Whether the run is finished.

    Raises `InputError` if its folder holds a run with another configuration.
    """
    if not job.begun:
        _remove_partial_files(job.folder)
        return False
    existing = Run.read(job.folder)
    complete = with_backbone_defaults(with_absolute_root(job.config))
    planned, found = options_of(complete), options_of(existing.config)
    key = next((key for key in planned if planned[key] != found[key]), None)
    if key is not None:
        raise InputError(f"{job.folder}: holds a run with {key} = {found[key]}, not {planned[key]}; give another --out")
    return existing.finished


def _remove_partial_files(folder: Path) -> None:
    """Remove the partial files of a run that was killed while it wrote its first file."""
    if folder.is_dir() and is_empty(folder):
        clear_partials(folder)


def _check(job: Job) -> None:
    try:
        api.check(job.config)
    except InputError as error:
        where = f"setting {job.setting!r}" + f", task {job.task!r}" * bool(job.task)
        raise InputError(f"{where}: {error}") from error


def _run_in_turn(jobs: Sequence[Job]) -> dict[Path, str]:
    """Run the jobs one after the other in this process.

    Returns the reason of each failure, by folder.
    """
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
        except Exception as error:  # any error: it must not stop the other runs
            reason = str(error) if isinstance(error, PicieError) else f"{type(error).__name__}: {error}"
            write_text(_file_beside(job, "log"), traceback.format_exc())
            _note_failure(failed, job, reason)
    return failed


def _run_in_parallel(jobs: Sequence[Job], parallel: int) -> dict[Path, str]:
    """Run the jobs as processes, `parallel` at a time.

    Each process has its own session, so that a Ctrl-C in the terminal reaches it only once, through
    this process. If this process is killed, they stop by themselves. Returns the reason of each
    failure, by folder.
    """
    failed: dict[Path, str] = {}
    waiting, signalled = list(jobs), False
    active: list[tuple[Job, subprocess.Popen[bytes]]] = []
    with graceful_stop("stopping the runs, which save what they have") as stop:
        try:
            while active or (waiting and stop.signum is None):
                while waiting and len(active) < parallel and stop.signum is None:
                    job = waiting.pop(0)
                    active.append((job, _start(job, parallel)))
                    log.info("run %d of %d: %s", len(jobs) - len(waiting), len(jobs), job.folder)
                time.sleep(_POLL)
                if stop.signum is not None and not signalled:
                    signalled = True
                    for _, process in active:
                        process.send_signal(stop.signum)
                for job, process in active:
                    if process.poll() not in (None, 0) and not signalled:
                        _note_failure(failed, job, _last_line(job))
                active = [(job, process) for job, process in active if process.returncode is None]
        finally:
            for _, process in active:
                process.terminate()
        stop.check()
    return failed


def _start(job: Job, parallel: int) -> subprocess.Popen[bytes]:
    """Start `picie train` as a process; its output goes to a log next to the run's folder."""
    settings = _file_beside(job, "toml")
    write_text(settings, to_toml(job.config, only_set=True))
    arguments = ["--resume", str(job.folder)] if job.begun else ["--config", str(settings), "--out", str(job.folder)]
    threads = max(1, (os.cpu_count() or 1) // parallel)
    with _file_beside(job, "log").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "picie.cli.child", "train", *arguments, *["--trust"] * registry.trusts_code()],
            env={"OMP_NUM_THREADS": str(threads), **os.environ},
            stdin=subprocess.PIPE,  # closed by the system if this process is killed
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _file_beside(job: Job, suffix: str) -> Path:
    """A file of a run outside its folder, because the folder must be empty when training starts."""
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    return job.folder.with_name(f"{job.folder.name}.{suffix}")


def _last_line(job: Job) -> str:
    lines = _file_beside(job, "log").read_text("utf-8", "replace").splitlines()
    return lines[-1].removeprefix("picie: error: ") if lines else "killed"


def _note_failure(failed: dict[Path, str], job: Job, reason: str) -> None:
    failed[job.folder] = reason
    log.warning("%s failed: %s", job.folder, reason)


def _compare(jobs: Sequence[Job], out: Path, against: str | None) -> None:
    """Compare all runs of a plan; print the comparison and write it to files."""
    if not jobs:
        return
    by_task: dict[str, list[Job]] = {}
    for job in jobs:
        by_task.setdefault(job.task, []).append(job)
    comparisons = {task: _compare_task(members, against) for task, members in by_task.items()}
    for task, comparison in comparisons.items():
        plot = out / (f"comparison-{folder_name(task)}.png" if task else "comparison.png")
        save_plot(comparison, plot)
        typer.echo(f"{plot}")
    if len(comparisons) == 1:
        result: Comparison | TaskMeans = next(iter(comparisons.values()))
    else:
        result = task_means(comparisons, against)
    if isinstance(result, TaskMeans):
        show_task_means(result)
    else:
        show_comparison(result)
    write_json(out / "comparison.json", result.to_dict())


def _compare_task(jobs: Sequence[Job], against: str | None) -> Comparison:
    reference = against if against in {job.setting for job in jobs} else None
    return compare([job.folder for job in jobs], {job.folder: job.setting for job in jobs}, reference)
