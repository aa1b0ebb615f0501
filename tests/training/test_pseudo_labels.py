"""Two passes over an epoch's views: centroids, then labels, on a network that is known."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.equal_runs import assert_same
from torch import Tensor, nn
from torch.nn import functional as F

from picie.clustering.kmeans import KMeans, Metric, assign, lloyd, project
from picie.clustering.smoothed_kmeans import Smoothing, smoothed_assign, smoothed_lloyd
from picie.config import Config, load
from picie.methods.base import Method
from picie.methods.mdc import MDC
from picie.methods.picie import PiCIE
from picie.runtime.device import Engine
from picie.runtime.rng import derived_seed, permutation
from picie.training import pseudo_labels as module
from picie.training.checks import start_points
from picie.training.feature_source import FeatureSource
from picie.training.label_store import PseudoLabelStore
from picie.training.prototype_refit import first_clusters, first_images, refit_images, refit_prototypes
from picie.training.pseudo_labels import Clustering, generate_pseudo_labels
from picie.views.two_views import BatchViews, TwoViews

N, K, SIDE, CELLS = 14, 4, 32, 4


class NormNet(nn.Module):
    """BatchNorm and 4x4 mean pooling, beside the plain colours."""

    dim, stride, frozen = 6, 4, False

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(torch.cat([images, self.norm(images)], dim=1), 4)

    def levels(self, images: Tensor) -> list[Tensor]:
        return [self(images)]

    def decode(self, levels: Sequence[Tensor]) -> Tensor:
        return levels[0]

    def folded(self, size: tuple[int, int]) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class StillFrames:
    """Random blocks of colour by index, as `FrameCache` gives them."""

    def __init__(self) -> None:
        blocks = torch.randint(0, 256, (N, 3, 8, 8), generator=torch.Generator().manual_seed(0))
        self.pixels = blocks.to(torch.uint8).repeat_interleave(4, 2).repeat_interleave(4, 3)

    def batches(self, batches: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, Tensor]]:
        for indices in batches:
            yield indices, self.pixels[indices]


def config(**cluster: object) -> Config:
    values = {"k": K, "batch_size": 4, "init_batches": 2, "smooth": 0.0, "warm_start": False} | cluster
    return Config.model_validate({"views": {"size": 16}, "cluster": values, "train": {"precision": "fp32"}})


class Setup:
    """Everything that `generate_pseudo_labels` wants, and one call of it."""

    def __init__(self, path: Path, family: type[Method] = PiCIE, **cluster: object) -> None:
        self.config = config(**cluster)
        self.method = family(self.config, NormNet())
        self.engine = Engine(torch.device("cpu"), "fp32")
        self.views = TwoViews(self.config.views.invariance, self.config.views.equivariance, 0)
        self.frames = StillFrames()
        ks = tuple(self.config.cluster.heads.values())
        self.store = PseudoLabelStore(path, (len(ks) * family.views, N, CELLS, CELLS), ks)
        self.advanced = {"cluster": 0, "label": 0}

    def source(self, indices: np.ndarray | None = None) -> FeatureSource:
        chosen = np.arange(N) if indices is None else indices
        return FeatureSource(self.config, self.method, self.views, self.frames, chosen, self.engine)

    def run(self, epoch: int = 0, indices: np.ndarray | None = None) -> Clustering:
        return self.run_heads(epoch, indices)[""]

    def run_heads(self, epoch: int = 0, indices: np.ndarray | None = None) -> dict[str, Clustering]:
        return generate_pseudo_labels(self.source(indices), epoch, self.store, self.advance)

    def maps(self, epoch: int, indices: Sequence[int], view: int) -> tuple[Tensor, Tensor]:
        """Features of a view and the colours of their cells, computed here."""
        images = self.frames.pixels[np.asarray(indices)].float() / 255
        draws = self.views.draw(epoch, indices, self.method.views)
        with torch.no_grad():
            z = self.method.view_features(BatchViews(draws, self.config.views.view_size, images), view)
        return z, draws.geometry.apply(images, (CELLS, CELLS))

    def advance(self, stage: str, images: int) -> None:
        self.advanced[stage] += images

    def points(self, epoch: int, indices: Sequence[int], view: int) -> Tensor:
        """(n, D) features of a view, computed here."""
        images = self.frames.pixels[np.asarray(indices)].float() / 255
        with torch.no_grad():
            draws = self.views.draw(epoch, indices, self.method.views)
            z = self.method.features(BatchViews(draws, self.config.views.view_size, images), view)
        return z.permute(0, 2, 3, 1).flatten(0, 2)


@pytest.mark.parametrize("family", [PiCIE, MDC])
def test_every_cell_has_its_nearest_centroid_and_the_numbers_follow(tmp_path: Path, family: type[Method]) -> None:
    setup = Setup(tmp_path / "l.npy", family)
    clustering = setup.run(epoch=3)
    assert clustering.centroids.shape == (family.views, K, 6)
    stored = setup.store.read(np.arange(N))
    for view in range(family.views):
        points = setup.points(3, range(N), view)
        squared = torch.cdist(points.double(), clustering.centroids[view].double()).square()
        chosen = squared.gather(1, stored[view].flatten()[:, None])[:, 0]
        torch.testing.assert_close(chosen, squared.min(1).values, atol=1e-5, rtol=0)
        assert clustering.counts[view].tolist() == torch.bincount(stored[view].flatten(), minlength=K).tolist()
        assert clustering.inertia[view] == pytest.approx(float(squared.min(1).values.mean()), rel=1e-3)
        shares = clustering.counts[view].double() / (N * CELLS**2)
        assert clustering.imbalance[view] == pytest.approx(float(K * shares.square().sum()))
        assert clustering.empty[view] == int((clustering.counts[view] == 0).sum())
    assert setup.advanced == {"cluster": N, "label": N}


def test_centroids_by_the_recipe(tmp_path: Path) -> None:
    """Lloyd on the first `init_batches` batches, then one running-mean update a batch."""
    setup = Setup(tmp_path / "l.npy")
    clustering = setup.run(epoch=1)
    setup.method.eval()
    order = permutation(N, 0, 1, "cluster")
    assert order.tolist() != sorted(order.tolist())
    for view in (0, 1):
        kmeans = KMeans(K, "spherical", setup.config.cluster.lloyd_steps, seed=derived_seed(0, 1, "kmeans", view))
        kmeans.start(torch.cat([setup.points(1, order[:4], view), setup.points(1, order[4:8], view)]))
        kmeans.update(setup.points(1, order[8:12], view))
        kmeans.update(setup.points(1, order[12:], view))
        torch.testing.assert_close(clustering.centroids[view], kmeans.centroids, atol=1e-4, rtol=0)
        assert float(kmeans.counts.sum()) == N * CELLS**2


@pytest.mark.parametrize("over_k", [2, 9])
def test_a_second_head_leaves_the_first_as_it_is_to_the_bit(tmp_path: Path, over_k: int) -> None:
    sizes = {"init_batches": 3, "init_points": 90}  # random shares of three batches to start from, then one update
    alone, both = Setup(tmp_path / "a.npy", **sizes), Setup(tmp_path / "b.npy", over_k=over_k, **sizes)
    seen: list[int] = []
    both.method.network.register_forward_hook(lambda *_: seen.append(1))
    for epoch in (0, 1):
        expected, found = alone.run_heads(epoch), both.run_heads(epoch)
        assert set(expected) == {""}
        assert set(found) == {"", "over_"}
        assert_same(vars(found[""]), vars(expected[""]), f"epoch {epoch}")
    assert len(seen) == 2 * 2 * 2 * 4  # epochs, passes, views, batches: no more of them for the second head
    every = np.arange(N)
    assert torch.equal(both.store.read(every)[:2], alone.store.read(every))


@pytest.mark.parametrize("metric", ["spherical", "euclidean"])
def test_the_second_head_has_its_own_clusters_by_the_same_recipe(tmp_path: Path, metric: Metric) -> None:
    setup = Setup(tmp_path / "l.npy", over_k=9, metric=metric)
    over = setup.run_heads(epoch=1)["over_"]
    setup.method.eval()
    order, stored = permutation(N, 0, 1, "cluster"), setup.store.read(np.arange(N))[2:]
    for view in (0, 1):
        kmeans = KMeans(9, metric, setup.config.cluster.lloyd_steps, seed=derived_seed(0, 1, "over_kmeans", view))
        kmeans.start(torch.cat([setup.points(1, order[:4], view), setup.points(1, order[4:8], view)]))
        kmeans.update(setup.points(1, order[8:12], view))
        kmeans.update(setup.points(1, order[12:], view))
        torch.testing.assert_close(over.centroids[view], kmeans.centroids, atol=1e-4, rtol=0)
        squared = torch.cdist(setup.points(1, range(N), view).double(), over.centroids[view].double()).square()
        chosen = squared.gather(1, stored[view].flatten()[:, None])[:, 0]
        torch.testing.assert_close(chosen, squared.min(1).values, atol=1e-5, rtol=0)
        assert over.counts[view].tolist() == torch.bincount(stored[view].flatten(), minlength=9).tolist()
        assert over.inertia[view] == pytest.approx(float(squared.min(1).values.mean()), rel=1e-3)


def test_a_warm_start_keeps_the_identities_of_both_heads_clusters(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "l.npy", warm_start=True, over_k=7)
    found = setup.run_heads(0)
    relabelled = {head: clustering.centroids.flip(1) for head, clustering in found.items()}
    setup.method.start_epoch(relabelled[""], None, 0)
    setup.method.start_over_head(relabelled["over_"], None)
    warm = setup.run_heads(1)
    for head, k in (("", K), ("over_", 7)):
        for view in (0, 1):
            assert assign(warm[head].centroids[view], relabelled[head][view])[0].tolist() == list(range(k))


def test_an_epoch_is_a_function_of_its_number(tmp_path: Path) -> None:
    first, again, later = (Setup(tmp_path / f"{i}.npy") for i in range(3))
    a = first.run(0)
    later.run(0)
    b, c = again.run(0), later.run(1)
    assert torch.equal(a.centroids, b.centroids)
    assert torch.equal(first.store.read(np.arange(N)), again.store.read(np.arange(N)))
    assert not torch.equal(a.centroids, c.centroids)


def test_images_left_out_are_neither_clustered_nor_written(tmp_path: Path) -> None:
    setup, other = Setup(tmp_path / "a.npy"), Setup(tmp_path / "b.npy")
    kept = np.array([0, 2, 3, 5, 6, 8, 9, 11, 13])
    left_out = np.setdiff1d(np.arange(N), kept)
    for view in (0, 1):
        setup.store.write(view, left_out, torch.full((len(left_out), CELLS, CELLS), 77))
    other.frames.pixels[left_out] = 0  # what they show plays no part
    a, b = setup.run(indices=kept), other.run(indices=kept)
    assert torch.equal(a.centroids, b.centroids)
    assert (setup.store.read(left_out) == 77).all()
    assert int(a.counts.sum()) == 2 * len(kept) * CELLS**2


def test_the_start_is_a_bounded_sample_that_stands_for_all_it_was_drawn_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Tensor, float]] = []
    start = KMeans.start

    def spy(self: KMeans, sample: Tensor, centroids: Tensor | None = None, weight: float = 1.0) -> None:
        seen.append((sample, weight))
        start(self, sample, centroids, weight)

    monkeypatch.setattr(module.KMeans, "start", spy)
    setup = Setup(tmp_path / "l.npy", init_points=40)
    setup.run()
    order = permutation(N, 0, 0, "cluster")
    for view, (sample, weight) in enumerate(seen):
        assert sample.shape == (40, 6)
        assert weight == pytest.approx(2 * 4 * CELLS**2 / 40)
        for half, batch in ((sample[:20], order[:4]), (sample[20:], order[4:8])):  # an equal share of each batch
            source = setup.points(0, batch, view)
            assert torch.cdist(half, source).min(1).values.max() < 1e-3
            assert len(half.unique(dim=0)) > 10  # not one point twenty times; the blocks of colour repeat some


@pytest.mark.parametrize(
    "cluster",
    [
        {},  # 2 batches of 4, all their cells
        {"init_batches": 1},
        {"init_batches": 100},  # more than there are: 4, 4, 4 and 2
        {"init_batches": 100, "batch_size": 13},  # one image left over joins the batch before it
        {"init_batches": 100, "batch_size": 5, "init_points": 216},  # a share of 72 is more than the last batch's 64
        {"init_points": 41},  # shares are rounded up
        {"init_points": 4, "init_batches": 3},
        {"init_points": 4},  # exactly K
    ],
)
def test_start_points_is_the_size_of_the_sample_that_k_means_starts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: dict[str, int]
) -> None:
    sizes: list[int] = []
    start = KMeans.start

    def spy(self: KMeans, sample: Tensor, centroids: Tensor | None = None, weight: float = 1.0) -> None:
        sizes.append(len(sample))
        start(self, sample, centroids, weight)

    monkeypatch.setattr(module.KMeans, "start", spy)
    setup = Setup(tmp_path / "l.npy", **cluster)
    for images in (N, 9, 1):
        setup.run(indices=np.arange(images))
        assert sizes == [start_points(setup.config, images, CELLS**2)] * 2
        sizes.clear()


def test_start_points_by_hand_and_k_may_be_as_many(tmp_path: Path) -> None:
    assert start_points(config(init_batches=100, batch_size=5, init_points=216), N, 16) == 72 + 72 + 64
    assert start_points(config(init_points=41), N, 16) == 21 + 21
    assert start_points(config(), 0, 16) == 0
    assert start_points(config(init_points=1, init_batches=3), N, 16) == 3
    with pytest.raises(ValueError, match="4 clusters cannot be made of 3 points"):
        Setup(tmp_path / "l.npy", init_points=1, init_batches=3).run()
    assert start_points(config(init_points=4, init_batches=2), N, 16) == K
    Setup(tmp_path / "l.npy", init_points=4, init_batches=2).run()


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_batchnorm_while_clustering_and_always_eval_while_labelling(tmp_path: Path, mode: str) -> None:
    setup = Setup(tmp_path / "l.npy", batchnorm=mode)
    modes: dict[bool, int] = {True: 0, False: 0}
    norm = setup.method.network.norm
    norm.register_forward_hook(lambda m, *_: modes.update({m.training: modes[m.training] + 1}))
    setup.run()
    assert modes == ({True: 8, False: 8} if mode == "train" else {True: 0, False: 16})
    assert bool(norm.running_mean.any()) == (mode == "train")


def test_a_warm_start_keeps_the_clusters_identities(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "l.npy", warm_start=True)
    found = setup.run(0).centroids
    relabelled = found.flip(1)
    setup.method.start_epoch(relabelled, None, 0)
    warm = setup.run(1).centroids
    for view in (0, 1):
        assert assign(warm[view], relabelled[view])[0].tolist() == [0, 1, 2, 3]


def test_a_refit_takes_as_many_images_as_the_score_and_k_need() -> None:
    default = load()  # starts from 20 batches of 16
    assert [refit_images(default, n, 1600) for n in (50, 367, 2000, 100_000)] == [50, 128, 200, 320]
    assert [refit_images(default, 10_000, cells) for cells in (1600, 6400, 2**20)] == [320, 81, 1]  # memory
    assert refit_images(load(overrides=["model.dim=4096"]), 10_000, 1600) == 10
    many = load(overrides=["cluster.k=600"])
    assert refit_images(many, 2000, 100) == 320  # 64 points a cluster would be 384 images
    assert refit_images(many, 2000, 150) == 256
    for cells in (1, 7, 64):  # a K that is small enough for the epoch's clustering is for this one
        k = min(65535, start_points(default, 2000, cells))
        few = load(overrides=[f"cluster.k={k}"])
        assert start_points(few, refit_images(few, 2000, cells), cells) >= k


def test_a_run_smooths_unless_it_is_told_not_to(tmp_path: Path) -> None:
    def smoothing(config: Config) -> Smoothing | None:
        return dataclasses.replace(source, config=config).smoothing

    source = Setup(tmp_path / "l.npy").source()
    assert smoothing(load()) == Smoothing(0.125, 0.3)
    assert smoothing(load(overrides=["cluster.smooth=0.25", "loss.temperature=1"])) == Smoothing(0.25, 1.0)
    assert smoothing(load(overrides=["cluster.smooth=0"])) is None
    assert smoothing(load("reference")) is None


def test_the_first_images_keep_their_batches() -> None:
    batches = [np.arange(4), np.arange(4, 8), np.arange(8, 10)]
    assert [b.tolist() for b in first_images(batches, 6)] == [[0, 1, 2, 3], [4, 5]]
    assert [b.tolist() for b in first_images(batches, 4)] == [[0, 1, 2, 3]]
    assert [len(b) for b in first_images(batches, 12)] == [4, 4, 2]


def test_refit_prototypes_clusters_whole_plain_images(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "l.npy", init_batches=100, lloyd_steps=100)
    start = F.normalize(torch.randn(2, K, 6, generator=torch.Generator().manual_seed(1)), dim=2)
    setup.method.start_epoch(start, None, 0)
    setup.method.train()
    indices = np.arange(3, N)
    done: list[int] = []
    refitted = refit_prototypes(setup.source(indices), len(indices), done.append)
    images = F.interpolate(setup.frames.pixels[indices].float() / 255, (16, 16), mode="bilinear", antialias=True)
    with torch.no_grad():
        z = F.normalize(setup.method.eval().network(images), dim=1).permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(
        project(lloyd(z, refitted, 1, "spherical")[0], "spherical").float(), refitted, atol=1e-4, rtol=0
    )  # a fixed point there
    reached = float(assign(z, refitted)[1].mean())
    for view in (0, 1):  # no worse than from the epoch's centroids
        assert (
            reached
            <= float(assign(z, project(lloyd(z, start[view], 10, "spherical")[0], "spherical").float())[1].mean()) + 1e-5
        )
    assert sum(done) == len(indices)


SMOOTHED = {"smooth": 0.25, "warm_start": True, "init_batches": 100}


@pytest.mark.parametrize(("family", "over_k"), [(PiCIE, 0), (PiCIE, 5), (MDC, 0)])
def test_smoothed_centroids_and_labels_by_the_recipe(tmp_path: Path, family: type[Method], over_k: int) -> None:
    """Both views: five smoothed steps from the latest centroids, then smoothed labels of all cells."""
    setup = Setup(tmp_path / "l.npy", family, over_k=over_k, **SMOOTHED)
    generator = torch.Generator().manual_seed(1)
    last = {k: F.normalize(torch.randn(family.views, k, 6, generator=generator), dim=2) for k in (K, over_k) if k}
    setup.method.start_epoch(last[K], None, 0)
    if over_k:
        setup.method.start_over_head(last[over_k], None)
    found = setup.run_heads(1)
    setup.method.eval()
    order, every, smoothing = permutation(N, 0, 1, "cluster"), setup.store.read(np.arange(N)), Smoothing(0.25, 0.3)
    for head, (prefix, clustering) in enumerate(found.items()):
        k = over_k if prefix else K
        for view in range(family.views):
            maps = [setup.maps(1, order[i : i + 4], view) for i in (0, 4, 8, 12)]
            centroids = smoothed_lloyd(maps, last[k][view], 5, "spherical", smoothing)
            torch.testing.assert_close(clustering.centroids[view], centroids, atol=1e-4, rtol=0)
            z, guide = setup.maps(1, range(N), view)
            clusters, distances = smoothed_assign(z, guide, clustering.centroids[view], smoothing)
            stored = every[head * family.views + view].flatten()
            assert float((stored == clusters).float().mean()) > 0.98  # but for ties within rounding
            assert clustering.counts[view].tolist() == torch.bincount(stored, minlength=k).tolist()
            assert clustering.inertia[view] == pytest.approx(float(distances.mean()), rel=1e-2)
    assert setup.advanced == {"cluster": N, "label": N}


def test_smoothed_k_means_takes_a_sample_and_starts_anew_without_a_warm_start(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "l.npy", **SMOOTHED | {"init_batches": 2, "warm_start": False})
    setup.method.start_epoch(torch.full((2, K, 6), 0.4), None, 0)  # plays no part
    clustering = setup.run(1)
    assert setup.advanced == {"cluster": 8, "label": N}  # two batches of four
    setup.method.eval()
    order = permutation(N, 0, 1, "cluster")
    for view in (0, 1):
        maps = [setup.maps(1, order[i : i + 4], view) for i in (0, 4)]
        kmeans = KMeans(K, "spherical", setup.config.cluster.lloyd_steps, seed=derived_seed(0, 1, "kmeans", view))
        kmeans.start(setup.points(1, order[:8], view))
        expected = smoothed_lloyd(maps, kmeans.centroids, 5, "spherical", Smoothing(0.25, 0.3))
        torch.testing.assert_close(clustering.centroids[view], expected, atol=1e-4, rtol=0)


def test_the_refit_of_a_warm_start_goes_on_from_the_epochs_clusters(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "l.npy", **SMOOTHED)
    start = F.normalize(torch.randn(2, K, 6, generator=torch.Generator().manual_seed(1)), dim=2)
    setup.method.start_epoch(start, None, 0)
    refitted = refit_prototypes(setup.source(), N, lambda images: None)
    images = F.interpolate(setup.frames.pixels.float() / 255, (16, 16), mode="bilinear", antialias=True)
    with torch.no_grad():
        z = setup.method.eval().network(images)
    guide = F.interpolate(images, (CELLS, CELLS), mode="bilinear", antialias=True)
    expected = smoothed_lloyd([(z, guide)], start.mean(0), 20, "spherical", Smoothing(0.25, 0.3))
    torch.testing.assert_close(refitted, expected, atol=1e-3, rtol=0)


def test_first_clusters_are_those_of_whole_images_and_repeat(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "l.npy", **SMOOTHED)
    (first,) = first_clusters(setup.source(), N, lambda images: None)
    assert first.shape == (K, 6)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(K))
    assert torch.equal(first_clusters(setup.source(), N, lambda images: None)[0], first)
