"""Nearest neighbours of a pixel, against brute force."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from picie import Segmenter
from picie.data.images import open_image
from picie.inference.neighbors import Neighbor, Query, feature_at, feature_of, neighbors, search

Cli = Callable[..., tuple[int, str, str]]


def brute_force(segmenter: Segmenter, query: Path, x: int, y: int, folder: Path) -> list[tuple[float, str, int, int]]:
    """Every cell of every other image: (similarity, path, x, y), the most similar first."""
    cells = []
    feature = feature_at(segmenter, open_image(query), x, y).numpy()
    for path in sorted(folder.iterdir()):
        if path != query:
            picture = open_image(path)
            z = segmenter.encode(segmenter.to_pixels(picture))[0].numpy()
            for row in range(z.shape[1]):
                for column in range(z.shape[2]):
                    place = (int((column + 0.5) * picture.width / z.shape[2]), int((row + 0.5) * picture.height / z.shape[1]))
                    cells.append((float(z[:, row, column] @ feature), str(path), *place))
    return sorted(cells, reverse=True)


@pytest.fixture
def images(labelled_folder: Path) -> Path:
    return labelled_folder / "images" / "train"


def test_they_are_those_of_brute_force(trained: Path, images: Path) -> None:
    segmenter, query = Segmenter.load(trained, "cpu"), images / "002.jpg"
    expected = brute_force(segmenter, query, 30, 40, images)
    found = neighbors(trained, Query(query, 30, 40, images, k=25, per_image=10_000), device="cpu")
    np.testing.assert_allclose([n.similarity for n in found], [e[0] for e in expected[:25]], atol=1e-6)
    gaps = np.diff([2.0, *(-e[0] for e in expected[:26])])[1:]
    apart = [i for i in range(1, 25) if min(gaps[i - 1], gaps[i]) > 1e-5]  # rounding determines the order of ties
    assert len(apart) > 5
    assert [(found[i].path, found[i].x, found[i].y) for i in apart] == [expected[i][1:] for i in apart]


def test_of_one_image_at_most_so_many_and_never_of_the_query(trained: Path, images: Path) -> None:
    query = images / "002.jpg"
    found = neighbors(trained, Query(query, 5, 5, images, k=8, per_image=2), device="cpu")
    paths = [n.path for n in found]
    assert len(found) == 8
    assert max(paths.count(p) for p in paths) == 2
    assert str(query) not in paths
    best = {}
    for similarity, path, *_ in brute_force(Segmenter.load(trained, "cpu"), query, 5, 5, images):
        best.setdefault(path, []).append(similarity)
    expected = sorted((s for values in best.values() for s in values[:2]), reverse=True)[:8]
    np.testing.assert_allclose([n.similarity for n in found], expected, atol=1e-6)


def test_a_pixel_finds_itself_and_its_segment(trained: Path, images: Path) -> None:
    segmenter, picture = Segmenter.load(trained, "cpu"), open_image(images / "001.jpg")
    z = segmenter.encode(segmenter.to_pixels(picture))[0]
    centre_of_cell = feature_of(z, (z.shape[2], z.shape[1]), 2, 3)
    (found,) = search(segmenter, centre_of_cell, [("here", (48, 64), z)], 1, 1)
    assert found.similarity == pytest.approx(1, abs=1e-5)
    assert (found.x, found.y) == (int(2.5 * 64 / z.shape[2]), int(3.5 * 48 / z.shape[1]))
    cell = segmenter.values((segmenter.classifier[0] @ z[:, 3, 2] + segmenter.classifier[1]).argmax(0).numpy()[None])[0]
    assert found.name == segmenter.names[cell]


def test_a_feature_is_interpolated_between_the_centres_of_cells() -> None:
    z = F.normalize(torch.randn(8, 3, 4, generator=torch.Generator().manual_seed(0)), dim=0)
    assert torch.allclose(feature_of(z, (4, 3), 2, 1), z[:, 1, 2], atol=1e-6)
    between = F.normalize(0.75 * z[:, 1, 1] + 0.25 * z[:, 1, 2], dim=0)
    assert torch.allclose(feature_of(z, (8, 3), 3, 1), between, atol=1e-5)
    assert torch.allclose(feature_of(z, (400, 300), 0, 0), z[:, 0, 0], atol=1e-6)


def test_nothing_is_written_unasked(trained: Path, images: Path, cli: Cli, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    status, stdout, _ = cli("neighbors", trained, images / "000.jpg", 5, 7, "--in", images, "-k", 2)
    assert status == 0
    assert len(stdout.splitlines()) == 2
    assert not list(tmp_path.iterdir())


def test_picture_and_json_are_written(trained: Path, images: Path, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for path in images.iterdir():
        (tmp_path / "photos" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    out = tmp_path / "like.png"
    status, stdout, stderr = cli(
        "neighbors", trained, images / "000.jpg", 60, 47, "--in", tmp_path / "photos", "-k", 3, "--out", out
    )
    assert status == 0
    assert "skipped" in stderr
    assert "there are no more images" not in stderr
    assert (
        "found 5 pixels, not 9: there are no more images"
        in cli("neighbors", trained, images / "000.jpg", 0, 0, "--in", images, "-k", 9, "--out", tmp_path / "few.png")[2]
    )
    content = json.loads(out.with_suffix(".json").read_text("utf-8"))
    assert content["query"] | {"x": 60, "y": 47, "similarity": 1.0} == content["query"]
    assert len(content["neighbors"]) == 3
    assert [line.split()[0] for line in stdout.splitlines()[:3]] == [f"{n['similarity']:.3f}" for n in content["neighbors"]]
    assert set(content["neighbors"][0]) == {field for field in Neighbor.__dataclass_fields__}
    picture = Image.open(out)
    assert picture.size[0] == 4 * 206 + 6  # the query and three neighbours in a row
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 100


@pytest.mark.parametrize(
    ("x", "y", "options", "part"),
    [
        (64, 0, (), "pixel (64, 0) lies outside the picture, which has 64 x 48 pixels"),
        (0, 48, (), "lies outside the picture"),
        (0, 0, ("-k", 0), "-k 0, --per-image 1: both must be at least 1"),
        (0, 0, ("--out", "there.txt"), "ends in .png"),
        (0, 0, ("--out", "not/there.png"), "no such folder"),
        (0, 0, ("--in", "nowhere"), "--in nowhere: no such folder"),
    ],
)
def test_what_cannot_be_asked(
    trained: Path,
    images: Path,
    refused: Callable[..., str],
    tmp_path: Path,
    x: int,
    y: int,
    options: tuple[object, ...],
    part: str,
) -> None:
    given = ("--in", images, *options) if "--in" not in options else options
    assert part in refused("neighbors", trained, images / "000.jpg", x, y, *given)


def test_a_folder_with_nothing_else_is_refused(
    trained: Path, images: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    only = tmp_path / "000.jpg"
    only.write_bytes((images / "000.jpg").read_bytes())
    assert "has no readable image except the query's" in refused("neighbors", trained, only, 0, 0, "--in", tmp_path)
