"""The section of views: each pseudo-label is shown next to the crop it was computed from."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import checkpoint_of
from tests.report.conftest import Page, decode
from torch.nn import functional as F

from picie import Config, Segmenter
from picie.clustering.kmeans import assign
from picie.report import view_pairs as module
from picie.report.pictures import png_uri
from picie.report.subject import open_subject
from picie.report.view_pairs import frame_box, gather_views, match_views
from picie.training import api
from picie.views.geometry import Geometry
from picie.views.two_views import TwoViews


def test_views_are_matched_as_the_best_of_all_assignments() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 4, (5, 6, 6))
    second = np.where(rng.random(first.shape) < 0.7, (first + 1) % 4, rng.integers(0, 4, first.shape))
    matched, agreement = match_views(np.stack([first, second]), 4)
    best = max(permutations(range(4)), key=lambda p: (np.array(p)[second] == first).mean())
    assert matched.tolist() == list(best)
    assert agreement == pytest.approx((matched[second] == first).mean())


def test_the_box_and_its_dot_show_what_a_geometry_takes() -> None:
    """The position of the cell that the geometry moves to the upper left."""
    positions = torch.arange(64).view(1, 8, 8)
    for box, transpose in [((0, 0.5, 0.25, 0.75), False), ((0.5, 0, 1, 0.5), False), ((0, 0.5, 1, 0.5), True)]:
        geometry = Geometry(torch.tensor([box], dtype=torch.float64), torch.tensor([transpose]))
        taken = geometry.apply_labels(positions, (4, 4))[0]
        rows, columns = taken // 8, taken % 8
        (y0, y1, x0, x1), (dot_y, dot_x) = frame_box(geometry)
        assert (min(y0, y1) * 8, max(y0, y1) * 8) == (int(rows.min()), int(rows.max()) + 1)
        assert (min(x0, x1) * 8, max(x0, x1) * 8) == (int(columns.min()), int(columns.max()) + 1)
        assert int(rows[0, 0]) in {dot_y * 8, dot_y * 8 - 1}
        assert int(columns[0, 0]) in {dot_x * 8, dot_x * 8 - 1}


def test_the_pictures_are_those_of_the_labelled_epoch(trained: Path) -> None:
    subject = open_subject(trained, None, "cpu", None)
    pairs = gather_views(subject)
    assert pairs is not None
    assert (pairs.epoch, pairs.views, len(pairs.rows)) == (2, 2, 4)
    config, images = subject.config, subject.images
    assert images is not None
    names = [images.name(i) for i in range(len(images))]
    draws = TwoViews(config.views.invariance, config.views.equivariance, config.seed)
    for row in pairs.rows:
        frame = np.asarray(images.image(names.index(row.name)).resize((64, 64), Image.Resampling.BILINEAR, box=(8, 0, 56, 48)))
        pixels = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float() / 255
        shown = np.asarray(decode(row.pictures[1].uri)).astype(float)[8:, 8:]  # without the dot
        differences = []
        for epoch in (0, 1):
            drawn = draws.draw(epoch, [names.index(row.name)])
            view = drawn.recolor(drawn.geometry.apply(pixels, (32, 32)), 0)[0].permute(1, 2, 0).numpy() * 255
            differences.append(np.abs(shown - view[8:, 8:]).mean())
        assert differences[1] < 12 < differences[0] or differences[1] < differences[0] / 2


def test_the_labels_are_the_clusters_of_the_pictures_beside_them(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recompute them from the pictures on the page with the network of the run."""
    run = api.train(tiny("train.epochs=0"), tmp_path / "run")
    subject = open_subject(run, None, "cpu", None)
    segmenter, images, config = subject.segmenter, subject.images, subject.config
    assert segmenter is not None
    assert images is not None
    monkeypatch.setattr(module, "jpeg_uri", png_uri)
    monkeypatch.setattr(module, "with_dot", lambda image: image)
    monkeypatch.setattr(module, "with_box", lambda image, *_: image)
    pairs = gather_views(subject)
    assert pairs is not None
    centroids, stored = checkpoint_of(run)["method"]["centroids"], np.load(run / "pseudo_labels.npy")
    names = [images.name(i) for i in range(len(images))]
    draws = TwoViews(config.views.invariance, config.views.equivariance, config.seed)
    for row in pairs.rows:
        index = names.index(row.name)
        geometry = draws.draw(0, [index]).geometry
        for view, picture in enumerate((row.pictures[1], row.pictures[3])):
            z = segmenter.encode(torch.from_numpy(np.array(decode(picture.uri))).permute(2, 0, 1)[None])
            if view == 1:
                z = F.normalize(geometry.apply(z, (z.shape[2], z.shape[3])), dim=1)
            found = assign(z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]), centroids[view])[0].numpy()
            assert (found == stored[view, index].ravel()).mean() > 0.9
    labels = np.asarray(decode(pairs.rows[0].pictures[2].uri))
    assert np.array_equal(labels, stored[0, names.index(pairs.rows[0].name)])


def test_the_caption_gives_the_share_of_cells_that_agree(page: Page, trained: Path) -> None:
    labels = np.load(trained / "pseudo_labels.npy")
    _, agreement = match_views(labels, 3)
    assert f"{100 * agreement:.0f} % of the cells agree" in " ".join(page.text["views"].split())
    assert "epoch 2" in page.text["views"]


def test_cells_of_matched_clusters_have_one_color(page: Page, trained: Path) -> None:
    """The share of equal cells is that of the matching, over the shown images."""
    pictures, names = page.pictures("views"), [text for where, text in page.headings if where == "views"]
    labels = np.load(trained / "pseudo_labels.npy")[:, [int(name.removesuffix(".jpg")) for name in names]]
    matched, _ = match_views(np.load(trained / "pseudo_labels.npy"), 3)
    shown = [[np.asarray(pictures[5 * row + column].convert("RGB")) for row in range(4)] for column in (2, 4)]
    same = (np.stack(shown[0]) == np.stack(shown[1])).all(-1)
    assert np.array_equal(same, matched[labels[1]] == labels[0])
    named = {tuple(color) for color in Segmenter.load(trained, "cpu").colors}
    assert not named & {tuple(int(c) for c in color) for color in np.stack(shown).reshape(-1, 3)}
