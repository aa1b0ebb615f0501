"""Begin a run or go on with one, and keep its record; what a run does is in `picie.training.trainer`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from picie.config import Config, from_dict, read_toml, with_overrides
from picie.errors import InputError, LostError, TrainingError
from picie.runtime import checkpoint, distributed, output_paths
from picie.runtime.interrupts import StopRequest, graceful_stop
from picie.runtime.progress import Progress, log
from picie.scoring.evaluation import Evaluation
from picie.training.trainer import Run


def train(config: Config, out: str | Path) -> Path:
    """Train a new run; where torchrun started several processes, all of them call this, and train it together.

    Args:
        config: everything about it.
        out: its folder; made, and must not hold a run already.

    Returns:
        The run's folder.

    Raises:
        InputError: the configuration or the data cannot be used; nothing is left behind.
        TrainingError: the loss is not finite, or memory ran out.
        Stopped: SIGINT or SIGTERM; the run can be resumed.
    """
    with distributed.process_group():
        out = distributed.run_on_main(lambda: _new(Path(out)))
        run, has_work = _carry_out(config, out, None)
    _conclude(run, has_work)
    return out


def _new(out: Path) -> Path:
    output_paths.check_new(out, f", or --resume {out} to go on with a run in it")
    return out


def check(config: Config) -> None:
    """Raises `InputError` for all that `train` refuses before it reads the images; nothing is written."""
    Run(config, Path(), Progress(False), StopRequest())


def resume(out: str | Path, overrides: Sequence[str] = ()) -> Path:
    """Go on exactly where the run in `out` stopped, with as many processes as call this.

    Args:
        out: the run's folder.
        overrides: "run.key=value" (how it is computed), "data.root=FOLDER" (the same images have moved) or "train.epochs=N"
            (more epochs; a cosine schedule then goes on where the longer one stands); nothing else may change.

    Raises:
        InputError: no run in `out`, other overrides, or data that has changed; and as for `train`.
    """
    with distributed.process_group():
        config, state = _standing(Path(out), overrides)
        run, has_work = _carry_out(config, Path(out), state)
    _conclude(run, has_work)
    return Path(out)


def _standing(out: Path, overrides: Sequence[str]) -> tuple[Config, dict[str, Any] | None]:
    """The configuration and the checkpoint, if there is one, with which the run in `out` goes on."""
    for override in overrides:
        if not override.startswith(("run.", "train.epochs=", "data.root=")):
            raise InputError(f"--resume takes its settings from the run; {override!r} would change it: leave it out")
    if not (out / "config.toml").is_file():
        raise InputError(f"--resume {out}: holds no run (no config.toml); give a folder that `picie train` made")
    state = checkpoint.load(out) if (out / checkpoint.FILE_NAME).is_file() else None
    if state is not None and "imported" in state:
        raise InputError(f"--resume {out}: was imported, not trained here; it can be evaluated, predicted with and exported")
    settings = read_toml(out / "config.toml") if state is None else state["config"]
    config = with_overrides(from_dict(settings), overrides)
    if state is not None and config.train.epochs < state["epoch"] + (state["step"] > 0):
        done = f"is in epoch {state['epoch'] + 1}" if state["step"] else f"has {state['epoch']} epochs behind it"
        raise InputError(f"train.epochs = {config.train.epochs}: the run in {out} {done}; ask for more")
    return config, state


def _carry_out(config: Config, out: Path, state: dict[str, Any] | None) -> tuple[Run, bool]:
    """Train from `state`, a checkpoint, or from the start; keep the run's record; leave nothing of a run that never began.

    Returns:
        The run, and whether there was anything left to do.
    """
    made = output_paths.missing(out)
    with graceful_stop() as stop, Progress(config.run.progress) as bars:
        run = Run(config, out, bars, stop, pretrained=None if state is None else False)
        began = time.perf_counter()
        with _taken(out) as empty:
            try:
                run.open(state)
                has_work = not run.standing.finished
                run.go()
            except InputError:
                if empty and not (out / checkpoint.FILE_NAME).exists():
                    output_paths.clear(out, made)
                raise
            except torch.OutOfMemoryError as error:
                advice = "lower run.keep_gb, train.batch_size, cluster.batch_size or views.size"
                raise TrainingError(f"{out}: out of memory on {run.engine.device}; {advice}") from error
            except LostError as error:
                stop.signum = None  # by which torchrun ends the others: nobody asked the run to stop
                raise LostError(
                    f"{error}; the last checkpoint is kept; {run.how_to_resume}, in any number of processes"
                ) from error
            finally:
                run.close(time.perf_counter() - began, stop)
    return run, has_work


@contextlib.contextmanager
def _taken(out: Path) -> Iterator[bool]:
    """Hold the folder `out`, made if it is not there, against other runs; yields whether it was empty.

    Of several processes the main one holds it for all, and to the others it is not empty: theirs it is not to clear.
    """
    if not distributed.is_main():
        distributed.barrier()
        yield False
        return
    out.mkdir(parents=True, exist_ok=True)
    with checkpoint.exclusive(out) as alone:
        if not alone:  # and nothing here is this run's to clear or to close
            raise InputError(f"{out}: another picie is at work on this run; wait for it")
        distributed.barrier()
        yield not any(out.iterdir())


def _conclude(run: Run, has_work: bool) -> None:
    """What the main process does when a run is done."""
    if not distributed.is_main():
        return
    if has_work and run.config.run.report:
        _report(run.out, run.config.run.device, run.evaluation)
    log.info("segment pictures with: picie predict %s PATH... --out DIR", run.out)


def _report(out: Path, device: str, evaluation: Evaluation | None) -> None:
    """Write the run's report; the run is done and saved, and whatever happens here must not make it fail."""
    from picie.report import write_report  # it needs what evaluates and predicts, which a run without it need not wait for

    try:
        log.info("report: %s", write_report(out, device=device, evaluation=evaluation))
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        log.warning("no report was written (%s: %s); picie report %s tries again", type(error).__name__, reason, out)
