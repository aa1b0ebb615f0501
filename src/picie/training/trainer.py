"""A run and its epochs: label, train, score, save.

    open      decode every image once; set the laterals from a PCA of the backbone's levels, or take over a checkpoint
    epoch     pseudo-labels  <- generate_pseudo_labels       clustering/pseudo_labels.py
              network        <- one pass of gradient steps    steps.py, methods/
              scores         <- evaluation, if there are labels
              metrics.jsonl  <- one line;  checkpoint.pt <- replaced

A checkpoint is taken at the end of each epoch and, when asked to stop, after the step at hand. Everything random is a function
of (seed, epoch, image), so a resumed run repeats what the uninterrupted one does, to the bit on a CPU.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from picie import registry
from picie.config import Config, to_toml
from picie.data import open_dataset
from picie.data.loading import FrameCache, split_batches
from picie.errors import InputError, TrainingError
from picie.inference.segmenter import Segmenter
from picie.methods.base import Method
from picie.methods.losses import class_weights
from picie.models.extractor import Extractor
from picie.models.fpn import pca_start
from picie.models.synced_batchnorm import synchronise
from picie.runtime import checkpoint, distributed, loggers
from picie.runtime.device import AsyncCopy, Engine, keep_freed_memory, peak_memory_mb, pick_device
from picie.runtime.interrupts import StopRequest
from picie.runtime.profiling import stage
from picie.runtime.progress import Progress, log
from picie.runtime.rng import derived_seed
from picie.runtime.run_record import RunRecord
from picie.scoring.evaluation import Evaluation, Pairs, check_labels, matching_state, score_split
from picie.training.checks import (
    check_normalisable,
    check_points,
    check_turns,
    feature_size,
    labelled_split,
    with_absolute_root,
)
from picie.training.feature_source import FeatureSource, Leftovers
from picie.training.label_store import PseudoLabelStore
from picie.training.optimization import Optimizer
from picie.training.prototype_refit import refit_images, refit_prototypes
from picie.training.pseudo_labels import Clustering, generate_pseudo_labels
from picie.training.train_state import TrainState
from picie.version import __version__
from picie.views.two_views import BatchViews, TwoViews

_PCA_IMAGES = 120  # the covariance of 320 channels from 120 x 25 cells or more is settled (METHOD 8)


class Run:
    """A run's parts, and what is done with them."""

    def __init__(self, config: Config, out: Path, bars: Progress, stop: StopRequest, pretrained: bool | None = None) -> None:
        self.config, self.out, self.bars, self.stop = with_absolute_root(config), out, bars, stop
        loggers.check(config.run.loggers)
        device = pick_device(config.run.device)
        if device.type == "cpu":
            keep_freed_memory()
        self.views = TwoViews(config.views.invariance, config.views.equivariance, config.seed)
        check_turns(self.views, config)
        method_class: type[Method] = registry.find(registry.METHODS, config.method, "method")
        self.dataset = open_dataset(config.data, config.data.train_split)
        labelled = labelled_split(config)
        self.scored = None if labelled is None else Pairs(labelled, self.config)
        torch.manual_seed(derived_seed(config.seed, "weights"))
        network = Extractor(config.model, pretrained)
        self.method = method_class(config, network)
        self.engine = Engine(device, config.train.precision)
        network.prepare(device, self.engine.bf16)
        self.method.to(device)
        if distributed.world_size() > 1:
            synchronise(self.method)
        self.cells = feature_size(network, self.engine, config)
        check_points(config, len(self.dataset), self.cells)
        if labelled is not None:
            check_labels(labelled, bars)
        self.steps = Optimizer(config.train, self.method)
        self.log = RunRecord(out, config.run.loggers)
        self.standing = TrainState()
        self.evaluation: Evaluation | None = None  # the latest
        self.frames: FrameCache | None = None
        self.digest = ""  # of the images, once they are read
        self._unread: tuple[int, list[str], AsyncCopy] | None = None  # images, names and values of the latest step's losses

    def open(self, state: dict[str, Any] | None) -> None:
        """Decode all images, then make the network ready: as `state`, a checkpoint, says, or for its first epoch."""
        if state is not None:
            self.standing = TrainState.of(state)
        elif distributed.is_main():
            checkpoint.write_atomically(self.out / "config.toml", lambda file: file.write(to_toml(self.config).encode()))
        self.log.start({"engine": self.engine.describe()})
        indices = self._read_images()
        if state is not None and state["images"] != self.digest:
            raise InputError(
                f"--resume {self.out}: the images of {self.config.data.root} have changed since; bring them back, or train anew"
            )
        self._make_room(indices, begun=state is not None and state["step"] > 0)
        if state is None:
            self._start_network()
        else:
            self._restore(state)
        distributed.broadcast(list(self.method.state_dict().values()))
        if not self.standing.finished:
            self.log.open_loggers()

    def _read_images(self) -> np.ndarray:
        """Fill the frame file; (N,) int64, the images that can be read."""
        options, size = self.config.run, self.config.views.frame_size
        pin = self.engine.device.type == "cuda"
        self.frames = frames = FrameCache(self.dataset, size, self.out, options.cache_gb, options.workers, pin=pin)
        decoded = len(self.dataset) * distributed.world_size() // distributed.local_world_size()  # once on each machine
        with stage("decode"), self.bars.bar("read images", decoded) as advance:
            indices = frames.scan(self.config.data.on_bad_image, self._stopping(advance))
        check_points(self.config, len(indices), self.cells)
        check_normalisable(self.config, self.method.network, len(indices))
        bad = {self.dataset.name(i): reason for i, reason in frames.bad.items()}
        self.digest = frames.digest
        self.log.update(images=len(indices), skipped_images=len(bad), skipped=bad, digest=self.digest)
        log.info("%d images%s", len(indices), f", {len(bad)} skipped" if bad else "")
        return indices

    def _make_room(self, indices: np.ndarray, begun: bool) -> None:
        """For the labels of the images `indices`, and for what one pass leaves for the next; `begun`: labels are there."""
        assert self.frames is not None
        config, ks = self.config, self.config.cluster.heads.values()
        shape = (len(ks) * self.method.views, len(self.dataset), *self.cells)
        self.store = PseudoLabelStore(self.out / "pseudo_labels.npy", shape, max(ks), keep=begun)
        if not begun:
            self.log.update(labelled_epoch=None)
        sharing = distributed.local_world_size() if self.engine.device.type == "cpu" else 1  # of the device's memory
        left = Leftovers(config.run.keep_gb * 1e9 / sharing, config.model.freeze, len(indices) * self.method.views)
        self.source = FeatureSource(config, self.method, self.views, self.frames, indices, self.engine, left)

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
        for optimizer, saved in zip(self.steps.optimizers, state["optimizers"], strict=True):
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
        while self.standing.epoch < self.config.train.epochs:
            self.epoch()
        if self.config.train.epochs == 0 and not self.standing.finished:
            self._label()
            self._finish_epoch()

    def epoch(self) -> None:
        """One epoch, or what is left of the one that was begun."""
        standing = self.standing
        if not standing.clusterings:
            self._label()
        self._train()
        standing.epoch, standing.step = standing.epoch + 1, 0
        self._finish_epoch()

    def _label(self) -> None:
        n, standing = len(self.source.indices), self.standing
        self.log.update(labelled_epoch=None)  # while the file holds labels of two epochs
        with self._timed("label"), self.bars.bar("cluster", n) as first, self.bars.bar("label", n) as second:
            advance = {"cluster": self._stopping(first), "label": self._stopping(second)}
            standing.clusterings = generate_pseudo_labels(
                self.source, standing.epoch, self.store, lambda stage, images: advance[stage](images)
            )
        self.source.left.labelled()
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
        to_come = batches[standing.step :]
        self.method.train()
        name = f"train {standing.epoch + 1}/{self.config.train.epochs}"
        frozen = source.folded() if self.config.model.freeze else contextlib.nullcontext()
        with self._timed("train"), self.bars.bar(name, len(order)) as advance, frozen:
            advance(sum(len(distributed.shard(b)) for b in batches[: standing.step]))
            for batch, (indices, views) in zip(to_come, source.batches(to_come, standing.epoch), strict=True):
                self.steps.set_rate(standing.epoch + standing.step / len(batches))
                self._step(len(batch), indices, views)
                standing.step += 1
                advance(len(indices))
                if self.stop.is_asked() and standing.step < len(batches):
                    break
            self._read_losses()
        if standing.step < len(batches):
            self.save()
            self.stop.check(f"stopped in epoch {standing.epoch + 1}; {self.how_to_resume}")
        source.left.clear()

    def _step(self, n: int, indices: np.ndarray, views: BatchViews) -> None:
        """One step on a batch of `n` images, of which this process has `indices` and their `views`."""
        labels = self.store.read(indices, self.engine.device)
        names, values = self.steps.take(views, labels, len(indices) / n)
        latest = (n, names, AsyncCopy(values))
        self._read_losses()  # those of the step before: a GPU has them by now, and is at work on this step
        self._unread = latest

    def _read_losses(self) -> None:
        """Add the latest step's losses to the epoch's."""
        if self._unread is None:
            return
        n, names, found = self._unread
        self._unread = None
        values = found.read().tolist()
        if not all(math.isfinite(value) for value in values):
            raise TrainingError(
                f"{self.out}: the loss is not finite in epoch {self.standing.epoch + 1}, step {self.standing.step}; the "
                "last checkpoint is kept. Lower train.lr or raise loss.temperature"
            )
        for name, value in zip(names, values, strict=True):
            self.standing.totals[name] += value * n

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
        done = "after the last epoch; nothing is left to do" if last else f"after epoch {standing.epoch}; {self.how_to_resume}"
        self.stop.check(f"stopped {done}")

    def _epoch_line(self, result: Evaluation | None) -> dict[str, Any]:
        standing = self.standing
        line: dict[str, Any] = {"epoch": standing.epoch}
        line |= {name: total / len(self.source.indices) for name, total in standing.totals.items()}
        for prefix, clustering in standing.clusterings.items():
            line |= {f"{prefix}{key}": getattr(clustering, key) for key in ("inertia", "imbalance", "empty")}
        if result is not None:
            summary = result.to_dict()
            line |= {key: summary[key] for key in ("accuracy", "miou", "protocol")}
        return line | {"seconds": dict(standing.seconds), "peak_memory_mb": round(peak_memory_mb())}

    def _refit(self) -> None:
        with self._timed("refit"), self.bars.bar("refit", self.refit_images) as advance:
            # No stop is taken here: the epoch's training is done, and saved right after.
            self.method.prototypes.copy_(refit_prototypes(self.source, self.refit_images, advance))

    @property
    def refit_images(self) -> int:
        """How many images a refit takes."""
        return refit_images(self.config, len(self.source.indices), math.prod(self.cells))

    def _score(self) -> Evaluation:
        assert self.scored is not None
        with self._timed("evaluate"):
            segmenter = Segmenter(self.method.network, self.method.classifier(), self.config, self.engine)
            split = self.config.evaluate.split
            result = score_split(segmenter.clusters, segmenter.k, self.scored, split, self.bars)
        self.standing.matching = matching_state(result)
        self.evaluation = result
        return result

    def save(self) -> None:
        """Replace the run's checkpoint by the state at hand; when this returns it is there, whichever process wrote it."""
        if distributed.is_main():
            self._save()
        distributed.barrier()

    def _save(self) -> None:
        weight, bias = self.method.classifier()
        checkpoint.save(
            self.out / checkpoint.FILE_NAME,
            {
                "picie": __version__,
                "config": self.config.model_dump(mode="json"),
                "images": self.digest,
                "method": self.method.state_dict(),
                "classifier": {"weight": weight.detach().cpu(), "bias": bias.detach().cpu()},
                "optimizers": [o.state_dict() for o in self.steps.optimizers],
                **self.standing.state(),
            },
        )

    def _stopping(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        """`advance` that also notices a request to stop; before the first step of an epoch there is nothing to save."""

        def checked(n: int) -> None:
            self.stop.check(f"stopped before the steps of epoch {self.standing.epoch + 1}; {self.how_to_resume}")
            advance(n)

        return checked

    @property
    def how_to_resume(self) -> str:
        """In a few words."""
        return f"go on with: picie train --resume {self.out}"

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            with stage(name):
                yield
        finally:
            self.standing.seconds[name] += time.perf_counter() - began

    def close(self, seconds: float, stop: StopRequest) -> None:
        """Give back threads and files, and close the record; `seconds` it took this time."""
        if self.frames is not None:
            self.frames.close()
        if distributed.is_main() and (self.out / "config.toml").is_file():
            status = "finished" if self.standing.finished else "stopped" if stop.signum is not None else "failed"
            self.log.finish(status, self.standing.epoch, seconds, round(peak_memory_mb()))


def _epoch_text(line: dict[str, Any], epochs: int) -> str:
    parts = [f"epoch {line['epoch']}/{epochs}"]
    parts += [
        f"{name} {line[name]:.3f}" for name in ("loss", "within", "cross", "over_within", "over_cross", "mse") if name in line
    ]
    parts.append("inertia " + "/".join(f"{value:.3f}" for value in line["inertia"]))
    parts += [f"{name} {line[key]:.1f}" for name, key in (("accuracy", "accuracy"), ("mIoU", "miou")) if line.get(key)]
    parts.append(f"{sum(line['seconds'].values()):.1f} s")
    return "  ".join(parts)
