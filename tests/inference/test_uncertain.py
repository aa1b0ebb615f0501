"""The pictures to look at first: unsure ones before sure ones, and no two of the same kind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from picie import Segmenter
from picie.errors import InputError
from picie.inference.uncertain import choose, uncertain
from picie.naming.changes import Changes, change
from picie.report.uncertain_page import write_page

Call = Callable[..., tuple[int, str, str]]


def test_the_choice_is_uncertain_first_and_then_different() -> None:
    generator = torch.Generator().manual_seed(0)
    kinds = F.normalize(torch.randn(3, 8, generator=generator), dim=1)
    directions = F.normalize(kinds.repeat_interleave(4, 0) + 0.01 * torch.randn(12, 8, generator=generator), dim=1)
    doubt = torch.tensor([0.9, 0.85, 0.84, 0.83, 0.7, 0.69, 0.68, 0.67, 0.6, 0.59, 0.58, 0.57])
    assert set(choose(doubt, directions, 3)) == {0, 4, 8}
    assert sorted(choose(doubt, directions, 99)) == list(range(12))
    # sure pictures are no candidates, however different
    assert 11 not in choose(torch.cat([torch.full((11,), 0.9), torch.tensor([0.0])]), directions, 2)


def test_the_uncertainty_is_one_minus_the_margin_of_the_cells(trained: Path, labelled_folder: Path) -> None:
    (one,) = uncertain(trained, labelled_folder / "images" / "val" / "100.jpg", 1, "cpu")
    segmenter = Segmenter.load(trained, "cpu")
    features = torch.from_numpy(segmenter.features(one.path))
    weight, offset = segmenter.classifier
    logits = torch.einsum("kd,dhw->khw", weight, features) + offset[:, None, None]
    best = (logits / segmenter.config.loss.temperature).softmax(0).sort(0, descending=True).values
    assert one.uncertainty == pytest.approx(float((1 - best[0] + best[1]).mean()), abs=1e-4)
    assert len(one.between) == 2
    assert set(one.between) < set(segmenter.names)
    width, height = Image.open(one.path).size
    assert 0 <= one.x < width
    assert 0 <= one.y < height


def test_copies_of_a_picture_are_chosen_once_while_others_remain(trained: Path, labelled_folder: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    ranked = uncertain(trained, labelled_folder / "images" / "train", 6, "cpu")
    for name in ("a", "b", "c"):
        shutil.copy(ranked[0].path, photos / f"{name}.jpg")
    for number, one in enumerate(ranked[1:3]):
        shutil.copy(one.path, photos / f"other{number}.jpg")
    chosen = uncertain(trained, photos, 3, "cpu")
    assert sum(one.path.name.startswith("other") for one in chosen) == 2


def test_the_command_lists_writes_and_shows_the_pictures(trained: Path, own_folder: Path, tmp_path: Path, cli: Call) -> None:
    (own_folder / "images" / "val" / "broken.jpg").write_bytes(b"no picture")
    page, listed = tmp_path / "page.html", tmp_path / "list.json"
    status, out, err = cli("uncertain", trained, own_folder, "-n", 3, "--out", page, "--json", listed)
    assert status == 0
    pictures = json.loads(listed.read_text())["pictures"]
    assert len(pictures) == 3
    assert [line.split()[1] for line in out.splitlines()[:3]] == [one["path"] for one in pictures]
    html = page.read_text("utf-8")
    assert html.count("<article>") == 3
    assert html.count("data:image/jpeg") == 9
    assert "<script" not in html
    assert "broken.jpg" in err


def test_wrong_input_is_refused(trained: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "no such file or folder" in refused("uncertain", trained, tmp_path / "none")
    assert "give at least 1" in refused("uncertain", trained, tmp_path, "-n", 0)
    assert "no such folder" in refused("uncertain", trained, tmp_path, "--out", tmp_path / "x" / "page.html")
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    with pytest.raises(InputError, match="can be read"):
        uncertain(trained, tmp_path, 1, "cpu")


def test_the_page_shows_the_segments_of_the_whole_picture(
    trained: Path, labelled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tmp_path / "large.png"
    Image.open(labelled_folder / "images" / "val" / "100.jpg").resize((960, 960)).save(large)
    chosen = uncertain(trained, large, 1, "cpu")
    encoded, drawn = [], []
    encode, overlay = Segmenter.encode, Segmenter.overlay
    monkeypatch.setattr(Segmenter, "encode", lambda self, pixels: encoded.append(pixels) or encode(self, pixels))
    monkeypatch.setattr(Segmenter, "overlay", lambda self, image, labels: drawn.append(labels) or overlay(self, image, labels))
    write_page(trained, chosen, tmp_path / "page.html", "cpu")
    assert len(encoded) == len(drawn) == 1
    expected = Segmenter.load(trained, "cpu").predict(large)[1::2, 1::2]
    assert drawn[0].shape == (480, 480)
    assert (drawn[0] == expected).mean() > 0.98


def test_a_single_segment_is_never_unsure(own_run: Path, labelled_folder: Path, tmp_path: Path) -> None:
    change(own_run, Changes(merges=[((0, 1, 2), "all", "")]))
    chosen = uncertain(own_run, labelled_folder / "images" / "val", 2, "cpu")
    assert np.allclose([one.uncertainty for one in chosen], 0, atol=1e-6)
    assert chosen[0].between == ("all",)
    page = write_page(own_run, chosen, tmp_path / "page.html", "cpu").read_text("utf-8")
    assert "uncertainty 0.00; least sure at" in page
