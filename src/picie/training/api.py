"""Train a new run, or continue one; the epochs are in `picie.training.trainer`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from picie.config import Config, from_dict, read_toml, with_overrides
from picie.errors import InputError, LostError, TrainingError
from picie.runtime import checkpoint, distributed, output_paths
from picie.runtime.atomic_write import is_disk_full
from picie.runtime.interrupts import graceful_stop
from picie.runtime.progress import Progress, log
from picie.runtime.rng import preserved_global_state
from picie.runtime.run_record import RunRecord
from picie.scoring.evaluation import Evaluation
from picie.training.feature_source import FeatureSource
from picie.training.label_store import PseudoLabelStore
from picie.training.run_folder import RunFolder
from picie.training.setup import Setup, set_up
from picie.training.train_state import TrainState
from picie.training.trainer import Trainer
from picie.training.view_cache import ViewCache


def train(config: Config, out: str | Path) -> Path:
    """Train a new run. Under torchrun every process calls this, and they train the run together.

    Args:
        config: the run's configuration.
        out: the run's folder; it is created, and must not hold a run already.

    Returns:
        The run's folder.

    Raises:
        InputError: the configuration or the data cannot be used; nothing is left behind.
        TrainingError: the loss is not finite, or memory ran out.
        Stopped: SIGINT or SIGTERM; the run can be resumed.
    """
    with distributed.process_group():
        out = distributed.run_on_main(lambda: _new(Path(out)))
        outcome = _train(config, out, None)
    _conclude(outcome)
    return out


def _new(out: Path) -> Path:
    output_paths.check_new(out, f", or --resume {out} to go on with a run in it")
    return out


def check(config: Config) -> None:
    """Raise `InputError` if `train` would reject `config` before it reads the images.

    Nothing is written.
    """
    set_up(config, Progress(False))


def resume(out: str | Path, overrides: Sequence[str] = ()) -> Path:
    """Continue the run in `out` exactly where it stopped, in any number of processes.

    Args:
        out: the run's folder.
        overrides: "run.key=value" (options that do not change results), "data.root=FOLDER" (the
            same images elsewhere) or "train.epochs=N" (more epochs; a cosine schedule then
            continues as in the longer run). Nothing else can be changed.

    Raises:
        InputError: there is no run in `out`, an override is not allowed, or the images have
            changed; also as for `train`.
    """
    with distributed.process_group():
        config, saved = _saved(Path(out), overrides)
        outcome = _train(config, Path(out), saved)
    _conclude(outcome)
    return Path(out)


def _saved(out: Path, overrides: Sequence[str]) -> tuple[Config, dict[str, Any] | None]:
    """Return the configuration of the run in `out`, and its checkpoint or None."""
    for override in overrides:
        if not override.startswith(("run.", "train.epochs=", "data.root=")):
            raise InputError(f"--resume takes its settings from the run; {override!r} would change it: leave it out")
    if not (out / "config.toml").is_file():
        raise InputError(f"--resume {out}: holds no run (no config.toml); give a folder that `picie train` made")
    saved = checkpoint.load(out) if (out / checkpoint.FILE_NAME).is_file() else None
    if saved is not None and "imported" in saved:
        raise InputError(f"--resume {out}: was imported, not trained here; it can be evaluated, predicted with and exported")
    settings = read_toml(out / "config.toml") if saved is None else saved["config"]
    config = with_overrides(from_dict(settings), overrides)
    if saved is not None and config.train.epochs < saved["epoch"] + (saved["step"] > 0):
        done = f"is in epoch {saved['epoch'] + 1}" if saved["step"] else f"has {saved['epoch']} epochs behind it"
        raise InputError(f"train.epochs = {config.train.epochs}: the run in {out} {done}; ask for more")
    return config, saved


@dataclass(frozen=True)
class _Outcome:
    """The result of a run: folder, whether it had work to do, configuration, latest scores."""

    out: Path
    has_work: bool
    config: Config
    evaluation: Evaluation | None


def _train(config: Config, out: Path, saved: dict[str, Any] | None) -> _Outcome:
    """Train from the checkpoint `saved`, or from the start.

    A new run that fails before its first checkpoint leaves no files behind.
    """
    made = output_paths.missing(out)
    unchanged = preserved_global_state(config.run.device)
    with unchanged, graceful_stop("finishing the step and saving") as stop, Progress(config.run.progress) as bars:
        setup = set_up(config, bars, pretrained=None if saved is None else False)
        folder = RunFolder(out, RunRecord(out, config.run.loggers), bars, stop)
        with _locked(out) as empty:
            try:
                with open_trainer(setup, folder, saved) as trainer:
                    has_work = not trainer.state.finished
                    if saved is None and "k" not in config.cluster.model_fields_set and config.data.name == "folder":
                        k = config.cluster.k
                        log.info("K = %d clusters, the default; to choose K, use -k or picie clusters suggest-k", k)
                    trainer.run()
            except InputError:
                if empty and not (out / checkpoint.FILE_NAME).exists():
                    output_paths.clear(out, made)
                raise
            except OSError as error:
                if not is_disk_full(error):
                    raise
                if empty and not (out / checkpoint.FILE_NAME).exists():
                    output_paths.clear(out, made)
                    raise TrainingError(
                        f"{out}: the disk is full, and nothing is kept; free some space or set run.cache_gb=0, then train again"
                    ) from error
                raise TrainingError(
                    f"{out}: the disk is full; the last checkpoint is kept; free some space, then {folder.how_to_resume}"
                ) from error
            except torch.OutOfMemoryError as error:
                advice = "lower run.keep_gb, train.batch_size, cluster.batch_size or views.size"
                raise TrainingError(f"{out}: out of memory on {setup.engine.device}; {advice}") from error
            except LostError as error:
                raise LostError(
                    f"{error}; the last checkpoint is kept; {folder.how_to_resume}, in any number of processes"
                ) from error
    return _Outcome(out, has_work, setup.config, trainer.evaluation)


@contextlib.contextmanager
def open_trainer(setup: Setup, folder: RunFolder, saved: dict[str, Any] | None = None) -> Iterator[Trainer]:
    """A trainer that is ready to run in `folder`: images decoded, the network started or restored.

    When the context ends, the run's records are closed.

    Args:
        setup: the parts of the run.
        folder: the run's folder, which exists.
        saved: the checkpoint to continue from; None starts anew.

    Raises:
        InputError: no image can be read, or the images are not those of the checkpoint.
    """
    config, began = setup.config, time.perf_counter()
    state = TrainState() if saved is None else TrainState.from_dict(saved)
    try:
        folder.begin(setup, new=saved is None)
        with folder.frames(setup) as frames:
            indices = folder.read_images(setup, frames)
            if saved is not None:
                folder.check_images(saved, frames.digest, config.data.root)
            store = _label_store(setup, folder, keep=state.step > 0)
            cache = _view_cache(setup, len(indices))
            source = FeatureSource(config, setup.method, setup.views, frames, indices, setup.engine, cache)
            trainer = Trainer(setup, folder, source, store, frames.digest, state)
            if saved is None:
                trainer.start()
            else:
                trainer.restore(saved)
            distributed.broadcast(list(setup.method.state_dict().values()))
            if not state.finished:
                folder.record.open_loggers()
            yield trainer
    except LostError:
        # torchrun ends the other processes by a signal; nobody asked the run to stop.
        folder.stop.signum = None
        raise
    finally:
        folder.finish(state.epoch, state.finished, began)


def _label_store(setup: Setup, folder: RunFolder, keep: bool) -> PseudoLabelStore:
    """Return the store of the pseudo-labels; `keep` opens the labels of an unfinished epoch."""
    ks = tuple(setup.config.cluster.heads.values())
    shape = (len(ks) * setup.method.views, len(setup.dataset), *setup.cells)
    store = PseudoLabelStore(folder.out / "pseudo_labels.npy", shape, ks, keep=keep)
    if not keep:
        folder.record.update(labelled_epoch=None)
    return store


def _view_cache(setup: Setup, images: int) -> ViewCache:
    """Return a cache for the views of `images` images.

    Its budget is `run.keep_gb`, which processes on one CPU share.
    """
    sharing = distributed.local_world_size() if setup.engine.device.type == "cpu" else 1
    return ViewCache(setup.config.run.keep_gb * 1e9 / sharing, setup.method.has_fixed_levels, images * setup.method.views)


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[bool]:
    """Make and lock the folder `out` against other runs; yields whether it was empty.

    With several processes the main process locks the folder for all. The others yield False,
    because only rank 0 may delete it.
    """
    if not distributed.is_main():
        distributed.barrier()
        yield False
        return
    out.mkdir(parents=True, exist_ok=True)
    with checkpoint.exclusive(out) as alone:
        if not alone:  # this run must not clear or close anything here
            raise InputError(f"{out}: another picie is at work on this run; wait for it")
        distributed.barrier()
        yield output_paths.is_empty(out)


def _conclude(outcome: _Outcome) -> None:
    """Write the report and the last log line, in the main process."""
    if not distributed.is_main():
        return
    if outcome.has_work and outcome.config.run.report:
        _report(outcome.out, outcome.config.run.device, outcome.evaluation)
    log.info("segment pictures with: picie predict %s PATH... --out DIR", outcome.out)


def _report(out: Path, device: str, evaluation: Evaluation | None) -> None:
    """Write the run's report. The run is saved already, so an error here is a warning."""
    # Its imports take a second, which a run without a report saves.
    from picie.report import write_report

    try:
        log.info("report: %s", write_report(out, device=device, evaluation=evaluation))
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        log.warning("no report was written (%s: %s); picie report %s tries again", type(error).__name__, reason, out)
