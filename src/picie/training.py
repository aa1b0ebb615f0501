"""Begin a run or go on with one, and keep its record; what a run does is in `picie.run`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from picie import checkpoint, outputs
from picie.config import Config, from_dict, read_toml, with_overrides
from picie.engine import StopRequest, graceful_stop
from picie.errors import InputError, TrainingError
from picie.run import Run
from picie.runlog import Progress, log
from picie.scoring.evaluation import Evaluation


def train(config: Config, out: str | Path) -> Path:
    """Train a new run.

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
    out = Path(out)
    outputs.check_new(out, f", or --resume {out} to go on with a run in it")
    return _carry_out(config, out, None)


def check(config: Config) -> None:
    """Raises `InputError` for all that `train` refuses before it reads the images; nothing is written."""
    Run(config, Path(), Progress(False), StopRequest())


def resume(out: str | Path, overrides: Sequence[str] = ()) -> Path:
    """Go on exactly where the run in `out` stopped.

    Args:
        out: the run's folder.
        overrides: "run.key=value" (how it is computed), "data.root=FOLDER" (the same images have moved) or "train.epochs=N"
            (more epochs; a cosine schedule then goes on where the longer one stands); nothing else may change.

    Raises:
        InputError: no run in `out`, other overrides, or data that has changed; and as for `train`.
    """
    out = Path(out)
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
        raise InputError(
            f"train.epochs = {config.train.epochs}: the run in {out} is in epoch {state['epoch'] + 1}; ask for more"
        )
    return _carry_out(config, out, state)


def _carry_out(config: Config, out: Path, state: dict[str, Any] | None) -> Path:
    """Train from `state`, a checkpoint, or from the start; keep the run's record; leave nothing of a run that never began."""
    made = outputs.missing(out)
    with graceful_stop() as stop, Progress(config.run.progress) as bars:
        run = Run(config, out, bars, stop, pretrained=None if state is None else False)
        out.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        with checkpoint.exclusive(out) as alone:
            if not alone:  # and nothing here is this run's to clear or to close
                raise InputError(f"{out}: another picie is at work on this run; wait for it")
            empty = not any(out.iterdir())
            try:
                run.open(state)
                has_work = not run.standing.finished
                run.go()
            except InputError:
                if empty and not (out / checkpoint.FILE_NAME).exists():
                    outputs.clear(out, made)
                raise
            except torch.OutOfMemoryError as error:
                advice = "lower train.batch_size, cluster.batch_size or views.size"
                raise TrainingError(f"{out}: out of memory on {run.engine.device}; {advice}") from error
            finally:
                run.close(time.perf_counter() - began, stop)
    if has_work and config.run.report:
        _report(out, config.run.device, run.evaluation)
    log.info("segment pictures with: picie predict %s PATH... --out DIR", out)
    return out


def _report(out: Path, device: str, evaluation: Evaluation | None) -> None:
    """Write the run's report; the run is done and saved, and whatever happens here must not make it fail."""
    from picie.report import write_report  # it needs what evaluates and predicts, which a run without it need not wait for

    try:
        log.info("report: %s", write_report(out, device=device, evaluation=evaluation))
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        log.warning("no report was written (%s: %s); picie report %s tries again", type(error).__name__, reason, out)
