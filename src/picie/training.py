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

import math
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from picie import checkpoint, registry
from picie.clustering.pseudo_labels import Clustering, PseudoLabelStore, generate_pseudo_labels, refit_prototypes
from picie.config import Config, from_dict, read_toml, to_toml, with_overrides
from picie.data import open_dataset
from picie.data.base import Dataset
from picie.data.loading import Frames, split_batches
from picie.engine import Engine, StopRequest, graceful_stop, peak_memory_mb, pick_device
from picie.errors import InputError, Stopped, TrainingError
from picie.evaluation import Evaluation, check_labels, matching_state, score_split
from picie.inference import Segmenter
from picie.losses import class_weights
from picie.methods.base import Method
from picie.models.extractor import Extractor
from picie.models.fpn import pca_start
from picie.runlog import Progress, RunLog, log
from picie.version import __version__
from picie.views.draws import derived_seed, permutation
from picie.views.geometry import shrink
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
        TrainingError: the loss is not finite.
        Stopped: SIGINT or SIGTERM; the run can be resumed.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: exists already; give another folder, or --resume {out} to go on with a run in it")
    return _carry_out(config, out, None)


def resume(out: str | Path, overrides: Sequence[str] = ()) -> Path:
    """Go on exactly where the run in `out` stopped.

    Args:
        out: the run's folder.
        overrides: "run.key=value" (how it is computed) or "train.epochs=N" (more epochs; a cosine schedule then goes on
            where the longer one stands); nothing else may change.

    Raises:
        InputError: no run in `out`, other overrides, or data that has changed; and as for `train`.
    """
    out = Path(out)
    for override in overrides:
        if not override.startswith(("run.", "train.epochs=")):
            raise InputError(f"--resume takes its settings from the run; {override!r} would change it: leave it out")
    if not (out / "config.toml").is_file():
        raise InputError(f"--resume {out}: holds no run (no config.toml); give a folder that `picie train` made")
    config = with_overrides(from_dict(read_toml(out / "config.toml")), overrides)
    state = checkpoint.load(out) if (out / checkpoint.FILE_NAME).is_file() else None
    return _carry_out(config, out, state)


def _carry_out(config: Config, out: Path, state: dict[str, Any] | None) -> Path:
    """Train from `state`, a checkpoint, or from the start; keep the run's record; leave nothing of a run that never began."""
    made = [path for path in (out, *out.parents) if not path.exists()]  # what is missing now, `out` first
    empty = bool(made) or not any(out.iterdir())
    with graceful_stop() as stop, Progress(config.run.progress) as bars:
        run = _Run(config, out, bars, stop, pretrained=None if state is None else False)
        status, began = "failed", time.perf_counter()
        try:
            run.open()
            if state is None:
                run.start_network()
            else:
                run.restore(state)
            run.go()
            status = "finished"
        except Stopped:
            status = "stopped"
            raise
        except InputError:
            if empty and not (out / checkpoint.FILE_NAME).exists():
                _clear(out, made)
            raise
        finally:
            run.close()
            if (out / "config.toml").is_file():
                run.log.finish(status, run.epoch, time.perf_counter() - began, round(peak_memory_mb()))
    log.info("segment pictures with: picie predict %s PATH... --out DIR", out)
    return out


def _clear(out: Path, made: Sequence[Path]) -> None:
    """Take back what a run that could not begin has written: the folders `made` for it, or the content of its empty one."""
    if made:
        shutil.rmtree(made[-1], ignore_errors=True)
    else:
        for path in out.iterdir():
            path.unlink()


class _Run:
    """A run's parts and where it stands: `epoch` epochs are done, and `step` steps of the next."""

    def __init__(self, config: Config, out: Path, bars: Progress, stop: StopRequest, pretrained: bool | None = None) -> None:
        self.config, self.out, self.bars, self.stop = _with_absolute_root(config), out, bars, stop
        device = pick_device(config.run.device)
        self.views = TwoViews(config.views.invariance, config.views.equivariance, config.seed)
        method_class: type[Method] = registry.find(registry.METHODS, config.method, "method")
        self.dataset = open_dataset(config.data, config.data.train_split)
        self.scored = _labelled_split(config)
        torch.manual_seed(derived_seed(config.seed, "weights"))
        network = Extractor(config.model, pretrained)
        self.engine = Engine(device, config.train.precision, network)
        self.cells = _feature_size(network, self.engine, config)
        self._check_points(len(self.dataset))
        if self.scored is not None:
            check_labels(self.scored, bars)
        self.method = method_class(config, network).to(device)
        trained = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=config.train.lr)
        self.log = RunLog(out)
        self.epoch = self.step = 0
        self.clustering: Clustering | None = None  # of the epoch at hand
        self.totals: defaultdict[str, float] = defaultdict(float)  # loss parts summed over the epoch's images so far
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.matching: dict[str, Any] | None = None
        self.finished = False
        self.frames: Frames | None = None

    def open(self) -> None:
        """Make the folder with its first records, then decode all images."""
        config = self.config
        self.out.mkdir(parents=True, exist_ok=True)
        checkpoint.write_atomically(self.out / "config.toml", lambda file: file.write(to_toml(config).encode()))
        self.log.start({"engine": self.engine.describe()})
        self.frames = Frames(self.dataset, config.views.frame, self.out, config.run.cache_gb, config.run.workers)
        with self.bars.bar("read images", len(self.dataset)) as advance:
            self.indices = self.frames.scan(config.data.on_bad_image, self._advance(advance))
        bad = {self.dataset.name(i): reason for i, reason in self.frames.bad.items()}
        self.log.update(images=len(self.indices), skipped_images=len(bad), skipped=bad)
        self._check_points(len(self.indices))
        shape = (self.method.views, len(self.dataset), *self.cells)
        self.store = PseudoLabelStore(self.out / "pseudo_labels.npy", shape, config.cluster.k)

    def _check_points(self, images: int) -> None:
        points = images * self.cells[0] * self.cells[1]
        if self.config.cluster.k > min(points, self.config.cluster.init_points):
            raise InputError(
                f"cluster.k = {self.config.cluster.k} clusters cannot be made of {points} points ({images} images of "
                f"{self.cells[0]}x{self.cells[1]} cells); ask for fewer clusters or give more images"
            )

    def start_network(self) -> None:
        """What happens to a new network before its first epoch: the laterals' PCA start."""
        if self.config.model.laterals == "pca":
            order = permutation(len(self.indices), self.config.seed, "pca")[:_PCA_IMAGES]
            with self.bars.bar("start laterals", len(order)) as advance:
                pca_start(self.method.network.fpn, self._levels(self.indices[order], self._advance(advance)))
        self.save()

    @torch.no_grad()
    def _levels(self, indices: np.ndarray, advance: Any) -> Iterator[Sequence[Tensor]]:
        assert self.frames is not None
        self.method.eval()
        size = (self.config.views.size,) * 2
        for batch, pixels in self.frames.batches(split_batches(indices, self.config.train.batch_size)):
            yield self.method.network.levels(shrink(self.engine.to_images(pixels), size))
            advance(len(batch))

    def go(self) -> None:
        """Train what is left; without any epoch, cluster the network as it is."""
        while self.epoch < self.config.train.epochs:
            self._run_epoch()
        if self.config.train.epochs == 0 and not self.finished:
            self._label()
            self._finish_epoch()

    def _run_epoch(self) -> None:
        if self.clustering is None:
            self._label()
        self._train()
        self.epoch, self.step = self.epoch + 1, 0
        self._finish_epoch()

    def _label(self) -> None:
        assert self.frames is not None
        n = len(self.indices)
        with self._timed("label"), self.bars.bar("cluster", n) as first, self.bars.bar("label", n) as second:
            advance = {"cluster": self._advance(first), "label": self._advance(second)}
            self.clustering = generate_pseudo_labels(
                self.method,
                self.frames,
                self.indices,
                self.views,
                self.epoch,
                self.config,
                self.engine,
                self.store,
                lambda stage, images: advance[stage](images),
            )
        self._start_epoch(self.clustering)

    def _start_epoch(self, clustering: Clustering) -> None:
        weights = [class_weights(counts, self.config.loss.class_weights) for counts in clustering.counts]
        stacked = torch.stack([w for w in weights if w is not None]) if weights[0] is not None else None
        self.method.start_epoch(clustering.centroids, stacked, self.epoch)

    def _train(self) -> None:
        """The epoch's steps from `step` on."""
        assert self.frames is not None
        config = self.config
        order = self.indices[permutation(len(self.indices), config.seed, self.epoch, "train")]
        batches = split_batches(order, config.train.batch_size)
        self.method.train()
        name = f"train {self.epoch + 1}/{config.train.epochs}"
        with self._timed("train"), self.bars.bar(name, len(order)) as advance:
            advance(sum(len(b) for b in batches[: self.step]))
            for indices, pixels in self.frames.batches(batches[self.step :]):
                self._step(indices, pixels)
                self.step += 1
                advance(len(indices))
                if self.stop.signum is not None and self.step < len(batches):
                    self.save()
                    self.stop.check(f"stopped in epoch {self.epoch + 1}; go on with: picie train --resume {self.out}")

    def _step(self, indices: np.ndarray, pixels: Tensor) -> None:
        draws = self.views.draw(self.epoch, indices, self.method.views)
        labels = self.store.read(indices).to(self.engine.device)
        optimizers = (self.optimizer, *self.method.optimizers())
        if self.config.train.schedule == "cosine":
            self.optimizer.param_groups[0]["lr"] = self.config.train.lr * self._cosine()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        images = self.engine.to_images(pixels)
        values: defaultdict[str, float] = defaultdict(float)
        for term in self.method.losses(images, draws, labels):
            term["loss"].backward()
            for name, value in term.items():
                values[name] += float(value.detach())
        if not math.isfinite(values["loss"]):
            raise TrainingError(
                f"{self.out}: the loss is {values['loss']} in epoch {self.epoch + 1}, step {self.step + 1}; the last "
                "checkpoint is kept. Lower train.lr or raise loss.temperature"
            )
        for optimizer in optimizers:
            optimizer.step()
        for name, mean in values.items():
            self.totals[name] += mean * len(indices)

    def _cosine(self) -> float:
        """From 1 at the run's first step to 0 after its last."""
        steps = len(split_batches(self.indices, self.config.train.batch_size))
        return 0.5 + 0.5 * math.cos(math.pi * (self.epoch + self.step / steps) / self.config.train.epochs)

    def _finish_epoch(self) -> None:
        """Score, write the epoch's line, save."""
        assert self.clustering is not None
        clustering, config = self.clustering, self.config
        last = self.epoch == config.train.epochs
        due = config.evaluate.every > 0 and self.epoch % config.evaluate.every == 0
        if config.cluster.refit and (last or (due and self.scored is not None)):
            self._refit()
        result = self._score() if self.scored is not None and (last or due) else None
        line: dict[str, Any] = {"epoch": self.epoch}
        if config.train.epochs:
            line |= {name: total / len(self.indices) for name, total in self.totals.items()}
        line |= {
            "objective": clustering.objective,
            "imbalance": clustering.imbalance,
            "empty": clustering.empty,
        }
        if result is not None:
            summary = result.to_dict()
            line |= {key: summary[key] for key in ("accuracy", "miou", "protocol")}
        line |= {"seconds": dict(self.seconds), "peak_memory_mb": round(peak_memory_mb())}
        self.log.metrics(line)
        log.info(_epoch_text(line, config.train.epochs))
        self.clustering, self.finished = None, last
        self.totals.clear()
        self.seconds.clear()
        self.save()
        if not last:
            self.stop.check(f"stopped after epoch {self.epoch}; go on with: picie train --resume {self.out}")

    def _refit(self) -> None:
        assert self.frames is not None
        with self._timed("refit"), self.bars.bar("refit", len(self.indices)) as advance:
            # No stop is taken here: the epoch's training is done and saved right after.
            found = refit_prototypes(self.method, self.frames, self.indices, self.config, self.engine, advance)
        self.method.prototypes.copy_(found)

    def _score(self) -> Evaluation:
        assert self.scored is not None
        with self._timed("evaluate"):
            segmenter = Segmenter(self.method.network, self.method.classifier(), self.config, self.engine)
            split = self.config.evaluate.split
            result = score_split(segmenter.clusters, segmenter.k, self.scored, self.config, split, self.bars)
        self.matching = matching_state(result)
        return result

    def save(self) -> None:
        """Replace the run's checkpoint by the state at hand."""
        assert self.frames is not None
        weight, bias = self.method.classifier()
        clustering = self.clustering if self.step else None
        checkpoint.save(
            self.out / checkpoint.FILE_NAME,
            {
                "picie": __version__,
                "config": self.config.model_dump(mode="json"),
                "epoch": self.epoch,
                "step": self.step,
                "method": self.method.state_dict(),
                "classifier": {"weight": weight.detach().cpu(), "bias": bias.detach().cpu()},
                "optimizers": [o.state_dict() for o in (self.optimizer, *self.method.optimizers())],
                "clustering": vars(clustering) if clustering is not None else None,
                "totals": dict(self.totals),
                "images": self.frames.digest,
                "matching": self.matching,
                "finished": self.finished,
            },
        )

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a checkpoint's state."""
        if self.frames is None or state["images"] != self.frames.digest:
            raise InputError(f"--resume {self.out}: the images of {self.config.data.root} have changed since; undo that")
        if state["step"] and not self.store.found:
            raise InputError(f"--resume {self.out}: pseudo_labels.npy is missing or of another run; put it back or train anew")
        self.epoch, self.step = state["epoch"], state["step"]
        self.method.load_state_dict(state["method"])
        self.matching = state["matching"]
        self.finished = state["finished"] and self.epoch >= self.config.train.epochs
        self.totals = defaultdict(float, state["totals"])
        if self.step:
            self.clustering = Clustering(**state["clustering"])
            self._start_epoch(self.clustering)
            self.method.load_state_dict(state["method"])  # over the epoch's new classifier, where a method has one
        for optimizer, saved in zip((self.optimizer, *self.method.optimizers()), state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.log.keep_epochs(self.epoch)
        if not self.finished:
            log.info("going on at epoch %d, step %d", self.epoch + 1, self.step + 1)

    def _advance(self, advance: Any) -> Any:
        """`advance` that also notices a request to stop; before the first step of an epoch there is nothing to save."""

        def checked(n: int) -> None:
            self.stop.check(f"stopped before a step of epoch {self.epoch + 1}; go on with: picie train --resume {self.out}")
            advance(n)

        return checked

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - began

    def close(self) -> None:
        """Give back threads and files."""
        if self.frames is not None:
            self.frames.close()


def _with_absolute_root(config: Config) -> Config:
    """The configuration that is recorded, so that a run can be scored and resumed from any folder."""
    if config.data.root is None:
        return config
    root = str(Path(config.data.root).absolute())
    return config.model_copy(update={"data": config.data.model_copy(update={"root": root})})


def _labelled_split(config: Config) -> Dataset | None:
    """The split to score while training, if it is there and has labels."""
    try:
        dataset = open_dataset(config.data, config.evaluate.split)
    except InputError as error:
        log.info("no scores while training: %s", error)
        return None
    return dataset if dataset.classes is not None else None


@torch.no_grad()
def _feature_size(network: Extractor, engine: Engine, config: Config) -> tuple[int, int]:
    """(h, w) of a view's features, found by trying. Raises `InputError` if the backbone refuses the size."""
    side = config.views.size
    network.eval()
    try:
        z = network(torch.zeros(1, 3, side, side, device=engine.device))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"model.backbone: {config.model.backbone!r} cannot take images of {side} px ({reason}); choose another views.size"
        ) from error
    return z.shape[2], z.shape[3]


def _epoch_text(line: dict[str, Any], epochs: int) -> str:
    parts = [f"epoch {line['epoch']}/{epochs}"]
    parts += [f"{name} {line[name]:.3f}" for name in ("loss", "within", "cross", "mse") if name in line]
    parts.append("objective " + "/".join(f"{value:.3f}" for value in line["objective"]))
    if "miou" in line:
        parts.append(f"accuracy {line['accuracy']:.1f} mIoU {line['miou']:.1f}")
    parts.append(f"{sum(line['seconds'].values()):.1f} s")
    return "  ".join(parts)
