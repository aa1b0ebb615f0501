"""The epochs of a run: label, train, score, save.

    start     decode every image; initialise the network, or restore it    training/api.py
    epoch     pseudo-labels  <- generate_pseudo_labels       training/pseudo_labels.py
              network        <- one pass of training steps   training/optimization.py, methods/
              scores         <- validate, if there are labels
              metrics.jsonl  <- one line;  checkpoint.pt <- replaced

A checkpoint is written at the end of each epoch and, when the run is asked to stop, after the
current step. Everything random is a function of (seed, epoch, image), so a resumed run repeats
what the uninterrupted one computes, bit for bit on a CPU.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from picie.data.loading import split_batches
from picie.errors import InputError, TrainingError
from picie.methods.losses import class_weights
from picie.runtime import checkpoint, distributed
from picie.runtime.device import AsyncCopy
from picie.runtime.profiling import stage
from picie.runtime.progress import duration
from picie.runtime.system_calls import peak_memory_mb
from picie.scoring.evaluation import Evaluation, matching_state
from picie.training.collapse import collapse_warning
from picie.training.feature_source import FeatureSource
from picie.training.label_store import PseudoLabelStore
from picie.training.optimization import Optimizer, load_optimizer_state
from picie.training.prototype_refit import first_clusters, refit_images, refit_prototypes
from picie.training.pseudo_labels import Clustering, generate_pseudo_labels
from picie.training.run_folder import RunFolder
from picie.training.setup import Setup
from picie.training.time_left import TimeLeft
from picie.training.train_state import TrainState
from picie.training.validation import validate
from picie.version import __version__
from picie.views.two_views import BatchViews

log = logging.getLogger("picie")
# The covariance of 320 channels is stable from 120 x 25 cells on.
_PCA_IMAGES = 120


class Trainer:
    """Trains a run from its current state.

    Args:
        setup: the parts of the run.
        folder: the run's folder, its records and progress bars.
        source: training images and their features.
        store: the pseudo-labels.
        digest: hash of the training images.
        state: epochs and steps that are done; changed in place.

    Attributes:
        evaluation: the latest scores, or None.
    """

    def __init__(
        self,
        setup: Setup,
        folder: RunFolder,
        source: FeatureSource,
        store: PseudoLabelStore,
        digest: str,
        state: TrainState,
    ) -> None:
        self.setup, self.folder, self.source, self.store, self.digest, self.state = (
            setup, folder, source, store, digest, state
        )  # fmt: skip
        self.config, self.method = setup.config, setup.method
        self.optimizer = Optimizer(self.config.train, self.method)
        self.evaluation: Evaluation | None = None
        self._warned_of_collapse = False
        self._time_left = TimeLeft(self.config.train.epochs)
        self.folder.bars.seconds_left = self._seconds_left
        # Images, names and values of the latest losses.
        self._unread: tuple[int, list[str], AsyncCopy] | None = None

    def start(self) -> None:
        """Prepare a new network for its first epoch, and write the first checkpoint."""
        images = self.source.order("pca")[:_PCA_IMAGES]
        batches = split_batches(images, self.config.train.batch_size)
        self.method.eval()
        with self.folder.bars.bar("start laterals", len(images)) as advance, torch.no_grad():
            self.method.initialize(self._whole_images(batches, self._stopping(advance)))
        self._start_clusters()
        self.save()

    def _start_clusters(self) -> None:
        """Set the clusters from which those of the first epoch go on."""
        options = self.config.cluster
        if options.warm_start and options.refit:
            with self.folder.bars.bar("start clusters", self.refit_images) as advance:
                found = first_clusters(self.source, self.refit_images, self._stopping(advance))
            for (centroids, _), first in zip(self.method.heads, found, strict=True):
                centroids.copy_(first)

    def _whole_images(self, batches: Sequence[np.ndarray], advance: Callable[[int], None]) -> Iterator[Tensor]:
        for batch, images in self.source.whole_images(batches):
            yield images
            advance(len(batch))

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue from a checkpoint; `state` has been read from it already."""
        state = self.state
        state.finished = state.finished and state.epoch >= self.config.train.epochs
        if state.clusterings:
            self._start_epoch()
        try:
            # After `start_epoch`, which may make a new classifier.
            self.method.load_state_dict(saved["method"])
            for optimizer, values in zip(self.optimizer.optimizers, saved["optimizers"], strict=True):
                load_optimizer_state(optimizer, values)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = (str(error).strip().splitlines() or [""])[-1].strip()
            raise InputError(
                f"--resume {self.folder.out}: the checkpoint does not fit its configuration ({reason:.200}); it is damaged: "
                "restore a copy of it, or train again"
            ) from error
        self.folder.record.keep_epochs(state.epoch)
        if saved["finished"] and not (state.finished or state.epoch):
            for centroids, _ in self.method.heads:  # those of a run of 0 epochs are one step further
                centroids.zero_()
            self._start_clusters()
        if state.finished:
            log.info("finished already, %d epochs; --epochs N trains more", state.epoch)
            return
        log.info("going on at epoch %d, step %d", state.epoch + 1, state.step + 1)
        if saved.get("naming") is not None:
            log.warning("the names and clusters of `picie name` are dropped: training makes new clusters")

    def run(self) -> None:
        """Train the remaining epochs; with `train.epochs=0`, cluster the network as it is."""
        while self.state.epoch < self.config.train.epochs:
            self.epoch()
        if self.config.train.epochs == 0 and not self.state.finished:
            self._label()
            self._finish_epoch()

    def epoch(self) -> None:
        """Train one epoch, or the rest of the current one."""
        state = self.state
        if not state.clusterings:
            self._label()
        self._train()
        state.epoch, state.step = state.epoch + 1, 0
        self._finish_epoch()

    def _label(self) -> None:
        n, state, bars = len(self.source.indices), self.state, self.folder.bars
        # The file holds labels of two epochs for a while.
        self.folder.record.update(labelled_epoch=None)
        clustered = self.refit_images if self.config.cluster.smooth else n
        with self._timed("label"), bars.bar("cluster", clustered) as first, bars.bar("label", n) as second:
            advance = {"cluster": self._stopping(first), "label": self._stopping(second)}
            state.clusterings = generate_pseudo_labels(
                self.source, state.epoch, self.store, lambda stage, images: advance[stage](images)
            )
        if not all(math.isfinite(value) for c in state.clusterings.values() for value in c.inertia):
            raise TrainingError(f"{self.folder.out}: the features are not finite in epoch {state.epoch + 1}; lower train.lr")
        self.source.cache.finish_labels()
        # The labels use this epoch's draws.
        self.folder.record.update(labelled_epoch=state.epoch + 1)
        state.matching = None  # the clusters are new
        self._start_epoch()

    def _start_epoch(self) -> None:
        first, *over = ((c.centroids, self._class_weights(c)) for c in self.state.clusterings.values())
        self.method.start_epoch(*first, self.state.epoch)
        for head in over:
            self.method.start_over_head(*head)

    def _class_weights(self, clustering: Clustering) -> Tensor | None:
        kind = self.config.loss.class_weights
        weights = [w for counts in clustering.counts if (w := class_weights(counts, kind)) is not None]
        return torch.stack(weights) if weights else None

    def _train(self) -> None:
        """Run the epoch's training steps from `state.step` on."""
        state, source = self.state, self.source
        order = source.order(state.epoch, "train")
        batches = split_batches(order, self.config.train.batch_size)
        remaining = batches[state.step :]
        self.method.train()
        name = f"train {state.epoch + 1}/{self.config.train.epochs}"
        with self._timed("train"), self.folder.bars.bar(name, len(order)) as advance:
            advance(sum(len(distributed.shard(b)) for b in batches[: state.step]))
            for batch, (indices, views) in zip(remaining, source.batches(remaining, state.epoch), strict=True):
                self.optimizer.set_rate(state.epoch + state.step / len(batches))
                self._step(len(batch), indices, views)
                state.step += 1
                advance(len(indices))
                if self.folder.stop.is_asked() and state.step < len(batches):
                    break
            self._read_losses()
        if state.step < len(batches):
            self.save()
            self.folder.stop.check(f"stopped in epoch {state.epoch + 1}; {self.folder.how_to_resume}")
        source.cache.clear()

    def _step(self, n: int, indices: np.ndarray, views: BatchViews) -> None:
        """Take one step on a batch of `n` images.

        `views` are those of this process's images, `indices`.
        """
        labels = self.store.read(indices, self.setup.engine.device)
        # Levels that are not cached are computed as those of the other passes, so the cache changes no result.
        computes_fixed = self.method.has_fixed_levels and not views.levels
        with self.source.folded() if computes_fixed else contextlib.nullcontext():
            names, values = self.optimizer.step(views, labels, len(indices) / n)
        self.method.after_step()
        latest = (n, names, AsyncCopy(values))
        # These are the losses of the previous step; a GPU is already busy with this step.
        self._read_losses()
        self._unread = latest

    def _read_losses(self) -> None:
        """Add the latest step's losses to the epoch's."""
        if self._unread is None:
            return
        n, names, copy = self._unread
        self._unread = None
        values = copy.read().tolist()
        if not all(math.isfinite(value) for value in values):
            raise TrainingError(
                f"{self.folder.out}: the loss is not finite in epoch {self.state.epoch + 1}, step {self.state.step}; "
                "the last checkpoint is kept. Lower train.lr or raise loss.temperature"
            )
        for name, value in zip(names, values, strict=True):
            self.state.totals[name] += value * n

    def _finish_epoch(self) -> None:
        """Score, write the epoch's line, and save."""
        state, config = self.state, self.config
        last = state.epoch == config.train.epochs
        due = config.evaluate.every > 0 and state.epoch % config.evaluate.every == 0
        scored = self.setup.scored is not None and (last or due)
        if config.cluster.refit and self.method.predicts_by_prototypes and (last or scored):
            self._refit()
        result = self._score() if scored else None
        line = self._epoch_line(result)
        self.folder.record.metrics(line)
        state.end_epoch(finished=last)
        self.save()
        self._time_left.end_epoch(line["seconds"])
        left = None if last else self._seconds_left()
        log.info(_epoch_text(line, config.train.epochs) + ("" if left is None else f", about {duration(left)} left"))
        if (warning := collapse_warning(line, config, self._warned_of_collapse)) is not None:
            self._warned_of_collapse = True
            log.warning("%s", warning)
        resume = self.folder.how_to_resume
        done = "after the last epoch; nothing is left to do" if last else f"after epoch {state.epoch}; {resume}"
        self.folder.stop.check(f"stopped {done}")

    def _epoch_line(self, result: Evaluation | None) -> dict[str, Any]:
        state = self.state
        line: dict[str, Any] = {"epoch": state.epoch}
        line |= {name: total / len(self.source.indices) for name, total in state.totals.items()}
        for prefix, clustering in state.clusterings.items():
            line |= {f"{prefix}{key}": getattr(clustering, key) for key in ("inertia", "imbalance", "empty")}
        if result is not None:
            summary = result.to_dict()
            line |= {key: summary[key] for key in ("accuracy", "miou", "protocol")}
        return line | {"seconds": dict(state.seconds), "peak_memory_mb": round(peak_memory_mb())}

    def _refit(self) -> None:
        with self._timed("refit"), self.folder.bars.bar("refit", self.refit_images) as advance:
            # A request to stop waits: training is done, and is saved right after.
            self.method.prototypes.copy_(refit_prototypes(self.source, self.refit_images, advance))

    @property
    def refit_images(self) -> int:
        """Number of images that a refit uses."""
        return refit_images(self.config, len(self.source.indices), math.prod(self.setup.cells))

    def _score(self) -> Evaluation:
        assert self.setup.scored is not None
        with self._timed("evaluate"):
            result = validate(self.method, self.setup.scored, self.config, self.setup.engine, self.folder.bars)
        self.state.matching = matching_state(result)
        self.evaluation = result
        return result

    def save(self) -> None:
        """Replace the run's checkpoint by the current state.

        Every process returns only after the file is written.
        """
        if distributed.is_main():
            weight, bias = self.method.classifier()
            content = {
                "picie": __version__,
                "config": self.config.model_dump(mode="json"),
                "images": self.digest,
                "method": self.method.state_dict(),
                "classifier": {"weight": weight.detach().cpu(), "bias": bias.detach().cpu()},
                "optimizers": [o.state_dict() for o in self.optimizer.optimizers],
                **self.state.to_dict(),
            }
            checkpoint.save(self.folder.out / checkpoint.FILE_NAME, content)
        distributed.barrier()

    def _stopping(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        """Wrap `advance` to check for a stop request.

        Before an epoch's first step there is nothing to save.
        """

        def checked(n: int) -> None:
            epoch = self.state.epoch + 1
            self.folder.stop.check(f"stopped before the steps of epoch {epoch}; {self.folder.how_to_resume}")
            advance(n)

        return checked

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        self._time_left.begin_pass()
        try:
            with stage(name):
                yield
        finally:
            self.state.seconds[name] += self._time_left.end_pass()

    def _seconds_left(self) -> float | None:
        steps = math.ceil(len(self.source.indices) / self.config.train.batch_size)
        return self._time_left.estimate(self.state.epoch, self.state.seconds, self.state.step / max(1, steps))


def _epoch_text(line: dict[str, Any], epochs: int) -> str:
    parts = [f"epoch {line['epoch']}/{epochs}" if epochs else "not trained"]
    names = ("loss", "within", "cross", "over_within", "over_cross", "mse")
    parts += [f"{name} {line[name]:.3f}" for name in names if name in line]
    parts.append("inertia " + "/".join(f"{value:.3f}" for value in line["inertia"]))
    parts += [f"{name} {line[key]:.1f}" for name, key in (("accuracy", "accuracy"), ("mIoU", "miou")) if line.get(key)]
    parts.append(f"{sum(line['seconds'].values()):.1f} s")
    return "  ".join(parts)
