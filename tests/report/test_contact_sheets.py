"""What each cluster looks like: hand-made pictures, and a network that only sees their colours."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.report.conftest import decode
from torch.nn import functional as F

from picie.inference.typical import Place, typical_cells, varied
from picie.methods.losses import prototype_logits
from picie.naming import changes as naming
from picie.naming.changes import Changes
from picie.report.contact_sheets import _add, _ValueStats, gather_sheets
from picie.report.subject import open_subject
from picie.runtime import checkpoint

RED, BLUE = (200, 0, 0), (0, 0, 100)


class Pictures:
    """Pictures of 40 x 20 pixels whose left part is red and whose rest is blue."""

    classes = None

    def __init__(self, *red: int) -> None:
        self.red = red

    def __len__(self) -> int:
        return len(self.red)

    def name(self, index: int) -> str:
        return f"{index}.png"

    def image(self, index: int) -> Image.Image:
        pixels = np.full((20, 40, 3), BLUE, dtype=np.uint8)
        pixels[:, : self.red[index]] = RED
        return Image.fromarray(pixels)


class Colors:
    """A segmenter whose features are the mean colours of cells of 4 x 4 pixels.

    Cluster 0 is never the nearest.
    """

    names, colors = ("nothing", "red", "blue"), ((9, 9, 9), (255, 0, 0), (0, 0, 255))
    value_of_cluster = np.array([0, 2, 1])
    classifier = (torch.tensor([[-1.0, -1, -1], [0, 0, 1], [1, 0, 0]]), torch.zeros(3))

    def values(self, clusters: np.ndarray) -> np.ndarray:
        return self.value_of_cluster[clusters]

    def to_pixels(self, image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1)[None].copy())

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return F.normalize(F.avg_pool2d(pixels.float(), 4), dim=1)


def subject(*red: int) -> Any:
    state = {"classifier": {"weight": Colors.classifier[0]}, "method": {}}
    return SimpleNamespace(
        segmenter=Colors(), images=Pictures(*red), config=SimpleNamespace(seed=0), notes=[], folder=Path(), state=state
    )


def test_shares_and_mean_colors_are_those_of_the_pixels() -> None:
    (red, blue, nothing), n = gather_sheets(subject(40, 20, 20))
    assert n == 3
    assert (red.name, red.color, red.clusters, red.mean) == ("red", "#ff0000", [2], "#c80000")
    assert (blue.name, blue.color, blue.clusters, blue.mean) == ("blue", "#0000ff", [1], "#000064")
    assert red.share == pytest.approx(2 / 3)
    assert blue.share == pytest.approx(1 / 3)
    assert (nothing.share, nothing.mean, nothing.crops) == (0.0, None, [])


def test_crops_are_of_different_images_with_the_most_similar_first() -> None:
    (_, blue, _), _ = gather_sheets(subject(40, 40, 40, 38, 37, 36))
    assert [crop.title for crop in blue.crops] == ["5.png", "4.png"]  # in 3.png the cell is more red than blue
    (blue, *_), _ = gather_sheets(subject(*[20] * 30))
    assert len({crop.title for crop in blue.crops}) == len(blue.crops) == 8


def test_a_crop_keeps_its_own_pixels_and_greys_the_others() -> None:
    (_, blue, _), _ = gather_sheets(subject(36, 40))
    crop = np.asarray(decode(blue.crops[0].uri).convert("RGB")).astype(int)
    assert crop.shape == (112, 112, 3)
    left, right = crop[40:70, :20], crop[5:20, -8:]
    assert np.ptp(left, axis=2).max() < 12  # the red half has lost its colour
    assert (right[..., 2] - right[..., 0]).min() > 10


def test_the_parts_of_a_split_cluster_show_what_is_most_like_each_of_them(own_run: Path) -> None:
    naming.change(own_run, Changes(splits={0: 2}), device="cpu")
    opened = open_subject(own_run, None, "cpu", None)
    assert opened.segmenter is not None
    assert opened.images is not None
    segmenter = opened.segmenter
    directions = F.normalize(checkpoint.centroids_in_use(opened.state), dim=1)
    parts = segmenter.segments.clusters(0) + segmenter.segments.clusters(len(segmenter.names) - 1)
    by_logit, shown = 0, 0
    for index in range(len(opened.images)):
        image = opened.images.image(index)
        features = segmenter.encode(segmenter.to_pixels(image))
        found, scores = typical_cells(segmenter, directions, features[0])
        values = segmenter.values(found)
        logits, clusters = prototype_logits(features, *segmenter.classifier)[0].max(0)
        cosines = (features[0] * directions[clusters].permute(2, 0, 1)).sum(0)
        stats = [_ValueStats() for _ in segmenter.names]
        _add(stats, index, image, values, scores)
        for part in parts:
            inside = clusters == part
            for place in stats[segmenter.value_of_cluster[part]].places:
                score, y, x = place.score, place.row, place.column
                assert clusters[y, x] == part
                assert score == pytest.approx(float(cosines[inside].max()), abs=1e-6)
                assert float(cosines[y, x]) == pytest.approx(score, abs=1e-6)
                shown += 1
                by_logit += int(logits[y, x] == logits[inside].max())
    assert shown > 0
    assert by_logit < shown  # the ranking by the parent's logits differs


def test_without_images_there_are_no_sheets() -> None:
    without = subject()
    without.images = None
    assert gather_sheets(without) == ([], 0)


def test_places_that_look_the_same_make_room_for_others() -> None:
    looks = {0: 10.0, 1: 10.1, 2: 10.2, 3: 10.3, 4: 200.0, 5: 90.0, 6: 255.0}  # the colour of each picture's place
    places = [Place(1 - index / 100, index, 0, 0) for index in looks]

    def look(place: Place) -> np.ndarray:
        return np.full((2, 2, 3), looks[place.picture])

    assert [place.picture for place in varied(places, 3, look)] == [0, 5, 6]  # the most typical one always
    assert [place.picture for place in varied(places[:4], 4, look)] == [0, 1, 2, 3]  # no others are there
    assert [place.picture for place in varied(list(reversed(places)), 1, look)] == [0]
    assert 6 not in {place.picture for place in varied(places[:5] + places[6:], 1, look)}
    far = [*places, *(Place(0.5 - index / 100, index, 0, 0) for index in range(7, 40))]
    looks.update({index: 400.0 + index for index in range(7, 40)})
    assert max(place.picture for place in varied(far, 2, look)) < 8  # only typical places are chosen
