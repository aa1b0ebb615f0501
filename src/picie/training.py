"""The epoch story: label, train, score, save; and going on exactly where a run stopped.

    scan      decode every image once; set the laterals from a PCA of the backbone's levels
    epoch     pseudo-labels  <- generate_pseudo_labels       clustering/pseudo_labels.py
              network        <- one pass of gradient steps    methods/
              scores         <- evaluation, if there are labels
              metrics.jsonl  <- one line;  checkpoint.pt <- replaced

A checkpoint is taken at the end of each epoch and, when asked to stop, after the step at hand. Everything random is a function
of (seed, epoch, image), so a resumed run repeats what the uninterrupted one does, to the bit on a CPU.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from picie import checkpoint, loggers, outputs, registry
from picie.clustering.pseudo_labels import Clustering, PseudoLabelStore, generate_pseudo_labels, refit_prototypes
from picie.config import Config, from_dict, read_toml, to_toml, with_overrides
from picie.data import open_dataset
from picie.data.loading import Frames, split_batches
from picie.engine import Engine, StopRequest, graceful_stop, peak_memory_mb, pick_device
from picie.errors import InputError, TrainingError
from picie.features import FeatureSource
from picie.inference import Segmenter
from picie.losses import class_weights
from picie.methods.base import Method
from picie.models.extractor import Extractor
from picie.models.fpn import pca_start
from picie.preparation import check_points, check_turns, feature_size, labelled_split, with_absolute_root
from picie.runlog import Progress, RunLog, log
from picie.scoring.evaluation import Evaluation, check_labels, matching_state, score_split
from picie.version import __version__
from picie.views.draws import derived_seed
from picie.views.two_views import TwoViews

_PCA_IMAGES = 120  # the covariance of 320 channels from 120 x 25 cells or more is settled (METHOD 8)


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
    _Run(config, Path(), Progress(False), StopRequest())


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
        run = _Run(config, out, bars, stop, pretrained=None if state is None else False)
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


@dataclass
class _Standing:
    """Where a run stands: `epoch` epochs are done, and `step` steps of the next."""

    epoch: int = 0
    step: int = 0
    finished: bool = False
    clusterings: dict[str, Clustering] = field(default_factory=dict)  # of the epoch at hand, by the head's prefix
    totals: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))  # loss parts, summed over images
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))  # by stage of the epoch
    matching: dict[str, Any] | None = None  # of the latest evaluation, while the clusters are those that it matched

    def state(self) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint."""
        begun = {f"{prefix}clustering": vars(clustering) for prefix, clustering in self.clusterings.items()}
        plain = {"totals": dict(self.totals), "seconds": dict(self.seconds), **(begun if self.step else {"clustering": None})}
        return {"epoch": self.epoch, "step": self.step, "finished": self.finished, "matching": self.matching, **plain}

    @staticmethod
    def of(state: dict[str, Any]) -> _Standing:
        """What `state` gave."""
        begun = {prefix: state.get(f"{prefix}clustering") for prefix in ("", "over_")}
        clusterings = {prefix: Clustering(**values) for prefix, values in begun.items() if values is not None}
        totals, seconds = defaultdict(float, state["totals"]), defaultdict(float, state["seconds"])
        matching = checkpoint.without_naming(state)["matching"]
        return _Standing(state["epoch"], state["step"], state["finished"], clusterings, totals, seconds, matching)


class _Run:
    """A run's parts, and what is done with them."""

    def __init__(self, config: Config, out: Path, bars: Progress, stop: StopRequest, pretrained: bool | None = None) -> None:
        self.config, self.out, self.bars, self.stop = with_absolute_root(config), out, bars, stop
        loggers.check(config.run.loggers)
        device = pick_device(config.run.device)
        self.views = TwoViews(config.views.invariance, config.views.equivariance, config.seed)
        check_turns(self.views, config)
        method_class: type[Method] = registry.find(registry.METHODS, config.method, "method")
        self.dataset = open_dataset(config.data, config.data.train_split)
        self.scored = labelled_split(config)
        torch.manual_seed(derived_seed(config.seed, "weights"))
        network = Extractor(config.model, pretrained)
        self.method = method_class(config, network)
        self.engine = Engine(device, config.train.precision, network)
        self.method.to(device)
        self.cells = feature_size(network, self.engine, config)
        check_points(config, len(self.dataset), self.cells)
        if self.scored is not None:
            check_labels(self.scored, bars)
        trained = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=config.train.lr)
        self.log = RunLog(out, config.run.loggers)
        self.standing = _Standing()
        self.evaluation: Evaluation | None = None  # the latest
        self.frames: Frames | None = None

    def open(self, state: dict[str, Any] | None) -> None:
        """Decode all images, then make the network ready: as `state`, a checkpoint, says, or for its first epoch."""
        config = self.config
        if state is not None:
            self.standing = _Standing.of(state)
        else:
            checkpoint.write_atomically(self.out / "config.toml", lambda file: file.write(to_toml(config).encode()))
        self.log.start({"engine": self.engine.describe()})
        self.frames = Frames(self.dataset, config.views.frame_size, self.out, config.run.cache_gb, config.run.workers)
        with self.bars.bar("read images", len(self.dataset)) as advance:
            indices = self.frames.scan(config.data.on_bad_image, self._stopping(advance))
        bad = {self.dataset.name(i): reason for i, reason in self.frames.bad.items()}
        self.log.update(images=len(indices), skipped_images=len(bad), skipped=bad, digest=self.frames.digest)
        log.info("%d images%s", len(indices), f", {len(bad)} skipped" if bad else "")
        check_points(config, len(indices), self.cells)
        if state is not None and state["images"] != self.frames.digest:
            raise InputError(
                f"--resume {self.out}: the images of {config.data.root} have changed since; bring them back, or train anew"
            )
        begun = state is not None and state["step"] > 0
        ks = config.cluster.heads.values()
        shape = (len(ks) * self.method.views, len(self.dataset), *self.cells)
        self.store = PseudoLabelStore(self.out / "pseudo_labels.npy", shape, max(ks), keep=begun)
        if not begun:
            self.log.update(labelled_epoch=None)
        self.source = FeatureSource(config, self.method, self.views, self.frames, indices, self.engine)
        if state is None:
            self._start_network()
        else:
            self._restore(state)
        if not self.standing.finished:
            self.log.open_loggers()

    def _start_network(self) -> None:
        """What happens to a new network before its first epoch: the laterals' PCA start."""
        if self.config.model.laterals == "pca":
            images = self.source.order("pca")[:_PCA_IMAGES]
            with self.bars.bar("start laterals", len(images)) as advance, torch.no_grad():
                pca_start(self.method.network.fpn, self._levels(images, self._stopping(advance)))
        self.save()

    def _levels(self, images: np.ndarray, advance: Callable[[int], None]) -> Iterator[Sequence[Tensor]]:
        self.method.eval()
        for batch, pixels in self.source.whole_images(split_batches(images, self.config.train.batch_size)):
            yield self.method.network.levels(pixels)
            advance(len(batch))

    def _restore(self, state: dict[str, Any]) -> None:
        """Take over a checkpoint's state."""
        standing = self.standing
        standing.finished = standing.finished and standing.epoch >= self.config.train.epochs
        if standing.clusterings:
            self._start_epoch()
        self.method.load_state_dict(state["method"])  # last: over the epoch's new classifier, where a method has one
        for optimizer, saved in zip((self.optimizer, *self.method.optimizers()), state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.log.keep_epochs(standing.epoch)
        if standing.finished:
            log.info("finished already, %d epochs; --epochs N goes on", standing.epoch)
        else:
            log.info("going on at epoch %d, step %d", standing.epoch + 1, standing.step + 1)
            if state.get("naming") is not None:
                log.warning("the names and clusters of `picie name` are dropped: training makes new clusters")

    def go(self) -> None:
        """Train what is left; without any epoch, cluster the network as it is."""
        standing = self.standing
        while standing.epoch < self.config.train.epochs:
            if not standing.clusterings:
                self._label()
            self._train()
            standing.epoch, standing.step = standing.epoch + 1, 0
            self._finish_epoch()
        if self.config.train.epochs == 0 and not standing.finished:
            self._label()
            self._finish_epoch()

    def _label(self) -> None:
        n, standing = len(self.source.indices), self.standing
        self.log.update(labelled_epoch=None)  # while the file holds labels of two epochs
        with self._timed("label"), self.bars.bar("cluster", n) as first, self.bars.bar("label", n) as second:
            advance = {"cluster": self._stopping(first), "label": self._stopping(second)}
            standing.clusterings = generate_pseudo_labels(
                self.source, standing.epoch, self.store, lambda stage, images: advance[stage](images)
            )
        self.log.update(labelled_epoch=standing.epoch + 1)  # whose draws the file's labels belong to
        standing.matching = None  # the clusters are new
        self._start_epoch()

    def _start_epoch(self) -> None:
        first, *over = ((c.centroids, self._class_weights(c)) for c in self.standing.clusterings.values())
        self.method.start_epoch(*first, self.standing.epoch)
        for head in over:
            self.method.start_over_head(*head)

    def _class_weights(self, clustering: Clustering) -> Tensor | None:
        kind = self.config.loss.class_weights
        weights = [w for counts in clustering.counts if (w := class_weights(counts, kind)) is not None]
        return torch.stack(weights) if weights else None

    def _train(self) -> None:
        """The epoch's steps from `step` on."""
        standing, source = self.standing, self.source
        order = source.order(standing.epoch, "train")
        batches = split_batches(order, self.config.train.batch_size)
        self.method.train()
        name = f"train {standing.epoch + 1}/{self.config.train.epochs}"
        with self._timed("train"), self.bars.bar(name, len(order)) as advance:
            advance(sum(len(b) for b in batches[: standing.step]))
            for indices, pixels in source.frames.batches(batches[standing.step :]):
                if self.config.train.schedule == "cosine":
                    done = (standing.epoch + standing.step / len(batches)) / self.config.train.epochs
                    self.optimizer.param_groups[0]["lr"] = self.config.train.lr * (0.5 + 0.5 * math.cos(math.pi * done))
                self._step(indices, pixels)
                standing.step += 1
                advance(len(indices))
                if self.stop.signum is not None and standing.step < len(batches):
                    self.save()
                    self.stop.check(f"stopped in epoch {standing.epoch + 1}; {self._how_to_resume}")

    def _step(self, indices: np.ndarray, pixels: Tensor) -> None:
        standing = self.standing
        draws = self.views.draw(standing.epoch, indices, self.method.views)
        labels = self.store.read(indices).to(self.engine.device)
        optimizers = (self.optimizer, *self.method.optimizers())
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        parts: list[tuple[str, Tensor]] = []
        for term in self.method.losses(self.engine.to_images(pixels), draws, labels):
            term["loss"].backward()
            parts += [(name, value.detach()) for name, value in term.items()]
        values = torch.stack([value for _, value in parts]).tolist()  # at once: on a GPU each look is a wait
        if not all(math.isfinite(value) for value in values):
            raise TrainingError(
                f"{self.out}: the loss is not finite in epoch {standing.epoch + 1}, step {standing.step + 1}; the last "
                "checkpoint is kept. Lower train.lr or raise loss.temperature"
            )
        for optimizer in optimizers:
            optimizer.step()
        for (name, _), value in zip(parts, values, strict=True):
            standing.totals[name] += value * len(indices)

    def _finish_epoch(self) -> None:
        """Score, write the epoch's line, save."""
        standing, config = self.standing, self.config
        last = standing.epoch == config.train.epochs
        due = config.evaluate.every > 0 and standing.epoch % config.evaluate.every == 0
        scored = self.scored is not None and (last or due)
        if config.cluster.refit and self.method.predicts_by_prototypes and (last or scored):
            self._refit()
        result = self._score() if scored else None
        line = self._epoch_line(result)
        self.log.metrics(line)
        standing.finished = last
        standing.clusterings.clear()
        standing.totals.clear()
        standing.seconds.clear()
        self.save()
        log.info(_epoch_text(line, config.train.epochs))
        done = "after the last epoch; nothing is left to do" if last else f"after epoch {standing.epoch}; {self._how_to_resume}"
        self.stop.check(f"stopped {done}")

    def _epoch_line(self, result: Evaluation | None) -> dict[str, Any]:
        standing = self.standing
        line: dict[str, Any] = {"epoch": standing.epoch}
        line |= {name: total / len(self.source.indices) for name, total in standing.totals.items()}
        for prefix, clustering in standing.clusterings.items():
            line |= {f"{prefix}{key}": getattr(clustering, key) for key in ("objective", "imbalance", "empty")}
        if result is not None:
            summary = result.to_dict()
            line |= {key: summary[key] for key in ("accuracy", "miou", "protocol")}
        return line | {"seconds": dict(standing.seconds), "peak_memory_mb": round(peak_memory_mb())}

    def _refit(self) -> None:
        with self._timed("refit"), self.bars.bar("refit", len(self.source.indices)) as advance:
            # No stop is taken here: the epoch's training is done, and saved right after.
            self.method.prototypes.copy_(refit_prototypes(self.source, advance))

    def _score(self) -> Evaluation:
        assert self.scored is not None
        with self._timed("evaluate"):
            segmenter = Segmenter(self.method.network, self.method.classifier(), self.config, self.engine)
            split = self.config.evaluate.split
            result = score_split(segmenter.clusters, segmenter.k, self.scored, self.config, split, self.bars)
        self.standing.matching = matching_state(result)
        self.evaluation = result
        return result

    def save(self) -> None:
        """Replace the run's checkpoint by the state at hand."""
        weight, bias = self.method.classifier()
        checkpoint.save(
            self.out / checkpoint.FILE_NAME,
            {
                "picie": __version__,
                "config": self.config.model_dump(mode="json"),
                "images": self.source.frames.digest,
                "method": self.method.state_dict(),
                "classifier": {"weight": weight.detach().cpu(), "bias": bias.detach().cpu()},
                "optimizers": [o.state_dict() for o in (self.optimizer, *self.method.optimizers())],
                **self.standing.state(),
            },
        )

    def _stopping(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        """`advance` that also notices a request to stop; before the first step of an epoch there is nothing to save."""

        def checked(n: int) -> None:
            self.stop.check(f"stopped before the steps of epoch {self.standing.epoch + 1}; {self._how_to_resume}")
            advance(n)

        return checked

    @property
    def _how_to_resume(self) -> str:
        return f"go on with: picie train --resume {self.out}"

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.standing.seconds[stage] += time.perf_counter() - began

    def close(self, seconds: float, stop: StopRequest) -> None:
        """Give back threads and files, and close the record; `seconds` it took this time."""
        if self.frames is not None:
            self.frames.close()
        if (self.out / "config.toml").is_file():
            status = "finished" if self.standing.finished else "stopped" if stop.signum is not None else "failed"
            self.log.finish(status, self.standing.epoch, seconds, round(peak_memory_mb()))


def _epoch_text(line: dict[str, Any], epochs: int) -> str:
    parts = [f"epoch {line['epoch']}/{epochs}"]
    parts += [
        f"{name} {line[name]:.3f}" for name in ("loss", "within", "cross", "over_within", "over_cross", "mse") if name in line
    ]
    parts.append("objective " + "/".join(f"{value:.3f}" for value in line["objective"]))
    parts += [f"{name} {line[key]:.1f}" for name, key in (("accuracy", "accuracy"), ("mIoU", "miou")) if line.get(key)]
    parts.append(f"{sum(line['seconds'].values()):.1f} s")
    return "  ".join(parts)
