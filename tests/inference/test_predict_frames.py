"""`picie predict` of animations, TIFFs of several pages, and videos."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import picture
from tests.data.test_frames import write_video

from picie import Segmenter
from picie.data.frames import open_frames
from picie.data.scaling import Reading
from picie.inference.predict import predict_files
from picie.inference.prediction_folder import open_predictions
from picie.inference.prediction_options import PredictOptions, Summary
from picie.inference.steadying import SteadyLabels

Cli = Callable[..., tuple[int, str, str]]


def frames_of(n: int, seed: int = 3) -> list[Image.Image]:
    """The same picture with noise of its own in each frame."""
    clean = picture(seed)[0].astype(int)
    rng = np.random.default_rng(0)
    return [Image.fromarray((clean + rng.normal(0, 40, clean.shape)).clip(0, 255).astype(np.uint8)) for _ in range(n)]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", frames_of(8))


def entry(out: Path, path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "predictions.json").read_text("utf-8"))["images"][str(path)]
    return content


def test_all_pages_of_a_tiff_have_a_map(untrained: Path, tmp_path: Path, cli: Cli) -> None:
    pages, path, out = frames_of(3), tmp_path / "stack.tif", tmp_path / "out"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    command = ("predict", untrained, path, "--out", out)
    status, _, stderr = cli(*command)
    assert status == 0
    assert "only the first page or frame is used of stack.tif (3 pages)" in stderr
    assert entry(out, path)["frames"] == []
    status, stdout, stderr = cli(*command, "--frames", "all")
    told = "1 earlier predictions had another size or other options, and are made again\n"
    assert (status, stdout, stderr) == (0, f"1 images -> {out}\n", told)
    segmenter = Segmenter.load(untrained)
    written = entry(out, path)
    assert [frame["labels"] for frame in written["frames"]] == [f"stack_frames/{i:06}.png" for i in (1, 2, 3)]
    for frame, page in zip(written["frames"], pages, strict=True):
        assert np.array_equal(np.asarray(Image.open(out / frame["labels"])), segmenter.predict(page))
        assert (out / frame["overlay"]).is_file()
    assert (written["labels"], written["how"]) == ("stack_frames/000001.png", "all frames")
    assert not (out / "stack.png").exists()
    assert cli(*command, "--frames", "all")[1] == f"0 images -> {out} (1 more were there already)\n"
    assert cli(*command, "--overwrite")[0] == 0
    assert sorted(path.name for path in out.iterdir()) == ["legend.png", "predictions.json", "stack.png", "stack_overlay.jpg"]


def test_a_video_becomes_a_video_and_a_map_a_frame(untrained: Path, clip: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    assert cli("predict", untrained, clip, "--out", out)[:2] == (0, f"1 images -> {out}\n")
    written = entry(out, clip)
    assert len(written["frames"]) == 8
    assert written["overlay"] == "clip_overlay.mp4"
    assert all(Image.open(out / frame["labels"]).size == (64, 48) for frame in written["frames"])
    assert not list((out / "clip_frames").glob("*overlay*"))
    with av.open(str(out / "clip_overlay.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (64, 48, 8)
        assert sum(1 for _ in container.decode(stream)) == 8
    assert predict_files(untrained, [clip], out) == Summary(0, 1)
    assert predict_files(untrained, [clip], out, options=PredictOptions(overlay=False, steady=0.0)) == Summary(1, 0)
    assert not (out / "clip_overlay.mp4").exists()


def test_steadiness_does_not_count_for_pictures(untrained: Path, clip: Path, tmp_path: Path) -> None:
    photo, out = tmp_path / "photo.png", tmp_path / "out"
    frames_of(1)[0].save(photo)
    assert predict_files(untrained, [photo, clip], out) == Summary(2, 0)
    assert predict_files(untrained, [photo, clip], out, options=PredictOptions(steady=0.0)) == Summary(1, 1)


def test_steady_labels_change_less(untrained: Path, clip: Path, tmp_path: Path) -> None:
    changes = {}
    for steady in (0.0, 0.5, 0.9):
        out = tmp_path / f"{steady}"
        predict_files(untrained, [clip], out, options=PredictOptions(overlay=False, steady=steady))
        maps = [np.asarray(Image.open(out / frame["labels"])) for frame in entry(out, clip)["frames"]]
        changes[steady] = np.mean([(a != b).mean() for a, b in pairwise(maps)])
        assert len(np.unique(maps)) > 1
    assert 0 < changes[0.9] < changes[0.5] < changes[0.0]
    read = list(open_frames(clip, Reading()) or ())
    assert np.array_equal(
        np.asarray(Image.open(tmp_path / "0.0" / "clip_frames/000003.png")), Segmenter.load(untrained).predict(read[2])
    )


def test_the_average_is_exponential_and_begins_again_at_a_cut(untrained: Path) -> None:
    steady = SteadyLabels(Segmenter.load(untrained), 0.75)
    first, second = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    first[:, 0] = 1
    second[:, 0], second[:, 1, 0] = 1, 2  # another cluster in a quarter of the cells
    assert torch.equal(steady._steadied(first), first)
    assert torch.allclose(steady._steadied(second), 0.75 * first + 0.25 * second)
    cut = 1 - first
    assert torch.equal(steady._steadied(cut), cut)
    other_size = torch.zeros(1, 2, 3, 4)
    assert torch.equal(steady._steadied(other_size), other_size)


def test_odd_sizes_and_tiles_are_possible(untrained: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    odd = [image.resize((65, 47)) for image in frames_of(2)]
    odd[0].save(tmp_path / "odd.gif", save_all=True, append_images=odd[1:])
    clip, out = write_video(tmp_path / "even.mp4", frames_of(2)), tmp_path / "out"
    options = PredictOptions(tile=64, overlap=32, frames="all")
    assert predict_files(untrained, [clip, tmp_path / "odd.gif"], out, options=options).predicted == 2
    assert len(entry(out, clip)["frames"]) == 2
    command = ("predict", untrained, clip, "--out", out)
    assert "not averaged; leave out --tile or --steady" in refused(*command, "--tile", 64, "--steady", 0.5)
    assert "--frames some" in refused(*command, "--frames", "some")


def test_names_in_overlays_predict_no_video_again(untrained: Path, tmp_path: Path) -> None:
    clip, out = write_video(tmp_path / "even.mp4", frames_of(2)), tmp_path / "out"
    for labels, expected in ((False, Summary(1, 0)), (True, Summary(0, 1))):
        assert predict_files(untrained, [clip], out, options=PredictOptions(labels=labels)) == expected


def test_a_video_that_breaks_off_is_skipped(untrained: Path, clip: Path, tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    frames_of(1)[0].save(good)
    (tmp_path / "bad.mp4").write_bytes(clip.read_bytes()[:300])
    summary = predict_files(untrained, [good, tmp_path / "bad.mp4"], tmp_path / "out")
    assert summary.predicted == 1
    assert "bad.mp4: cannot be read" in summary.skipped[str(tmp_path / "bad.mp4")]
    assert not [path for path in (tmp_path / "out").rglob("*") if "partial" in path.name or "bad" in path.name]


@pytest.mark.parametrize("again", [False, True])
def test_a_failure_among_frames_leaves_none_of_them(untrained: Path, tmp_path: Path, monkeypatch: Any, again: bool) -> None:
    pages, stack, good, out = frames_of(4), tmp_path / "stack.tif", tmp_path / "good.png", tmp_path / "out"
    pages[0].save(stack, save_all=True, append_images=pages[1:])
    frames_of(1)[0].save(good)
    if again:
        predict_files(untrained, [stack], out, options=PredictOptions(frames="all"))
    original, calls = Segmenter.predict, 0

    def fails_third(self: Segmenter, image: Any) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise MemoryError
        return original(self, image)

    monkeypatch.setattr(Segmenter, "predict", fails_third)
    options = PredictOptions(frames="all", size=48)
    assert list(predict_files(untrained, [stack, good], out, options=options).skipped) == [str(stack)]
    assert list(json.loads((out / "predictions.json").read_text("utf-8"))["images"]) == [str(good)]
    assert sorted(path.name for path in out.iterdir()) == ["good.png", "good_overlay.jpg", "legend.png", "predictions.json"]


def test_each_frame_is_an_image_of_the_folder(untrained: Path, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_files(untrained, [clip], out)
    images = open_predictions(out).images
    assert [image.photo for image in images] == [f"clip.mp4#{i}" for i in range(1, 9)]
    assert [image.name for image in images] == [f"clip_frames/{i:06}" for i in range(1, 9)]
    assert all(image.read().shape == (48, 64) for image in images)
