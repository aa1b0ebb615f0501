"""Two passes over an epoch's views: centroids by METHOD 2.1, labels by METHOD 2.2, on a network that is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from picie.clustering import pseudo_labels as module
from picie.clustering.kmeans import KMeans, assign, lloyd, project
from picie.clustering.pseudo_labels import Clustering, PseudoLabelStore, generate_pseudo_labels, refit_prototypes
from picie.config import Config
from picie.engine import Engine
from picie.methods.base import Method
from picie.methods.mdc import MDC
from picie.methods.picie import PiCIE
from picie.views.draws import derived_seed, permutation
from picie.views.two_views import TwoViews

N, K, SIDE, CELLS = 14, 4, 32, 4


class NormNet(nn.Module):
    """BatchNorm and 4x4 mean pooling, beside the plain colours."""

    dim, stride = 6, 4

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(torch.cat([images, self.norm(images)], dim=1), 4)


class StillFrames:
    """Random blocks of colour by index, as `Frames` gives them."""

    def __init__(self) -> None:
        blocks = torch.randint(0, 256, (N, 3, 8, 8), generator=torch.Generator().manual_seed(0))
        self.pixels = blocks.to(torch.uint8).repeat_interleave(4, 2).repeat_interleave(4, 3)

    def batches(self, batches: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, Tensor]]:
        for indices in batches:
            yield indices, self.pixels[indices]


def config(**cluster: object) -> Config:
    values = {"k": K, "batch_size": 4, "init_batches": 2} | cluster
    return Config.model_validate({"views": {"size": 16}, "cluster": values, "train": {"precision": "fp32"}})


class Setup:
    """Everything that `generate_pseudo_labels` wants, and one call of it."""

    def __init__(self, path: Path, family: type[Method] = PiCIE, **cluster: object) -> None:
        self.config = config(**cluster)
        self.method = family(self.config, NormNet())
        self.engine = Engine(torch.device("cpu"), "fp32", self.method.network)
        self.views = TwoViews(self.config.views.invariance, self.config.views.equivariance, 0)
        self.frames = StillFrames()
        self.store = PseudoLabelStore(path, (family.views, N, CELLS, CELLS), K)
        self.advanced = {"cluster": 0, "label": 0}

    def run(self, epoch: int = 0, indices: np.ndarray | None = None) -> Clustering:
        chosen = np.arange(N) if indices is None else indices
        return generate_pseudo_labels(
            self.method, self.frames, chosen, self.views, epoch, self.config, self.engine, self.store, self.advance
        )

    def advance(self, stage: str, images: int) -> None:
        self.advanced[stage] += images

    def points(self, epoch: int, indices: Sequence[int], view: int) -> Tensor:
        """(n, D) features of a view, computed here."""
        images = self.frames.pixels[np.asarray(indices)].float() / 255
        with torch.no_grad():
            z = self.method.features(images, self.views.draw(epoch, indices, self.method.views), view)
        return z.permute(0, 2, 3, 1).flatten(0, 2)


@pytest.mark.parametrize(("k", "dtype"), [(2, np.uint8), (256, np.uint8), (257, np.uint16), (65535, np.uint16)])
def test_the_store_gives_back_what_it_was_given_in_the_smallest_type(tmp_path: Path, k: int, dtype: type) -> None:
    path = tmp_path / "labels.npy"
    labels = torch.randint(0, k, (2, 5, 3, 7), generator=torch.Generator().manual_seed(0))
    labels[0, 0, 0, 0], labels[1, 4, 2, 6] = 0, k - 1
    store = PseudoLabelStore(path, (2, 5, 3, 7), k)
    for view in (1, 0):
        store.write(view, np.array([3, 0, 4]), labels[view, [3, 0, 4]])
        store.write(view, np.array([1, 2]), labels[view, [1, 2]])
    store.flush()
    assert store.read(np.arange(5)).dtype == torch.int64
    assert torch.equal(store.read(np.array([4, 2])), labels[:, [4, 2]])
    on_disk = np.load(path)
    assert on_disk.dtype == dtype
    assert np.array_equal(on_disk, labels.numpy())
    assert torch.equal(PseudoLabelStore(path, (2, 5, 3, 7), k).read(np.arange(5)), labels)  # opened again


def test_a_store_of_another_shape_or_type_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "labels.npy"
    PseudoLabelStore(path, (1, 2, 3, 3), 5).write(0, np.array([0, 1]), torch.ones(2, 3, 3, dtype=torch.int64))
    assert PseudoLabelStore(path, (1, 2, 3, 4), 5).read(np.arange(2)).shape == (1, 2, 3, 4)
    assert PseudoLabelStore(path, (1, 2, 3, 4), 300).read(np.arange(2)).sum() == 0
    assert np.load(path).dtype == np.uint16


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
        assert clustering.objective[view] == pytest.approx(float(squared.min(1).values.mean()), rel=1e-3)
        shares = clustering.counts[view].double() / (N * CELLS**2)
        assert clustering.imbalance[view] == pytest.approx(float(K * shares.square().sum()))
        assert clustering.empty[view] == int((clustering.counts[view] == 0).sum())
    assert setup.advanced == {"cluster": N, "label": N}


def test_centroids_by_the_recipe(tmp_path: Path) -> None:
    """Lloyd on the first `init_batches` batches, then one running-mean update a batch (METHOD 2.1)."""
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


def test_refit_prototypes_clusters_whole_plain_images(tmp_path: Path) -> None:
    setup = Setup(tmp_path / "l.npy", init_batches=100, lloyd_steps=100)
    start = F.normalize(torch.randn(2, K, 6, generator=torch.Generator().manual_seed(1)), dim=2)
    setup.method.start_epoch(start, None, 0)
    setup.method.train()
    indices = np.arange(3, N)
    done: list[int] = []
    refitted = refit_prototypes(setup.method, setup.frames, indices, setup.config, setup.engine, done.append)
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
