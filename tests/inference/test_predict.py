"""`picie predict`: its output files, their content, and files that it must not change."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from picie import Segmenter
from picie.config import with_overrides
from picie.data.images import open_image
from picie.display.colors import rgb_to_hex
from picie.display.overlays import overlay
from picie.errors import InputError, PicieError, Stopped
from picie.inference import prediction_files, prediction_loop
from picie.inference.picture_prediction import PicturePrediction
from picie.inference.predict import predict_files
from picie.inference.prediction_files import PredictionFiles
from picie.inference.prediction_options import PredictOptions, Summary
from picie.naming import changes as naming
from picie.naming.changes import Changes
from picie.runtime import checkpoint
from picie.version import __version__

Cli = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]


@pytest.fixture
def photos(tmp_path: Path, labelled_folder: Path) -> Path:
    """Pictures with colliding names, in folders and with odd names."""
    root = tmp_path / "photos"
    source = Image.open(labelled_folder / "images" / "val" / "100.jpg")
    for name in ("a.jpg", "a.png", "A b/é 1.jpg", "deep/er/x.tif", "legend.jpg", "v1.2.bmp"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        source.save(root / name)
    Image.linear_gradient("L").resize((1, 30)).save(root / "strip.png")
    return root


def record(out: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((out / "predictions.json").read_text("utf-8"))
    return content


def test_folders_are_kept_and_equal_stems_told_apart(trained: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict_files(trained, [photos], out).predicted == 7
    stems = ["a_jpg", "a_png", "A b/é 1", "deep/er/x", "legend_2", "v1.2", "strip"]
    expected = {f"{stem}{end}" for stem in stems for end in (".png", "_overlay.jpg")} | {"legend.png", "predictions.json"}
    assert {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} == expected


def test_same_names_from_two_folders_do_not_collide(trained: Path, tmp_path: Path) -> None:
    for folder, size in (("one", (20, 30)), ("two", (30, 20)), ("three", (9, 9))):
        (tmp_path / folder).mkdir()
        Image.new("RGB", size, (200, 30, 30)).save(tmp_path / folder / "x.png")
    out = tmp_path / "out"
    paths = [tmp_path / "one", tmp_path / "two" / "x.png", tmp_path / "three"]
    assert predict_files(trained, paths, out).predicted == 3
    images = record(out)["images"]
    assert len(images) == 3
    for path, entry in images.items():
        assert Image.open(out / entry["labels"]).size == Image.open(path).size
        assert Image.open(out / entry["overlay"]).size == Image.open(path).size


def test_a_file_that_is_given_twice_is_one(trained: Path, photos: Path, tmp_path: Path) -> None:
    assert predict_files(trained, [photos / "a.jpg", photos / "a.jpg"], tmp_path / "out").predicted == 1
    assert (tmp_path / "out" / "a.png").is_file()


def test_the_index_map_is_what_predict_gives(trained: Path, photos: Path, tmp_path: Path) -> None:
    predict_files(trained, [photos], tmp_path / "out")
    segmenter = Segmenter.load(trained)
    for name, source in (("a_png", "a.png"), ("strip", "strip.png")):
        image = Image.open(tmp_path / "out" / f"{name}.png")
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), segmenter.predict(photos / source))
        palette = image.getpalette()
        values = range(len(segmenter.colors))
        assert [tuple(palette[3 * i : 3 * i + 3]) for i in values] == list(segmenter.colors)


def test_the_record_says_what_was_done(trained: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"x")
    out = tmp_path / "out"
    assert predict_files(trained, [photos], out).predicted == 7
    content = record(out)
    assert content["picie"] == __version__
    assert content["run"] == str(trained)
    segmenter = Segmenter.load(trained)
    names = list(segmenter.names)
    assert content["names"] == names
    assert content["colors"] == [rgb_to_hex(color) for color in segmenter.colors]
    assert list(content["skipped"]) == [str(photos / "broken.jpg")]
    entry = content["images"][str(photos / "a.png")]
    assert entry["labels"] == "a_png.png"
    counts = np.bincount(np.asarray(Image.open(out / "a_png.png")).ravel(), minlength=len(names)) / (64 * 48)
    assert entry["share"] == {name: pytest.approx(share, abs=1e-4) for name, share in zip(names, counts, strict=True) if share}
    assert list(entry["share"].values()) == sorted(entry["share"].values(), reverse=True)


def test_a_second_prediction_of_a_picture_takes_the_place_of_the_first(trained: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_files(trained, [photos], out)
    before, files = record(out)["images"], set(out.rglob("*"))
    Image.linear_gradient("L").resize((5, 9)).save(photos / "strip.png")
    predict_files(trained, [photos / "strip.png"], out)
    assert set(record(out)["images"]) == set(before)
    assert set(out.rglob("*")) == files
    assert Image.open(out / "strip.png").size == (5, 9)


def test_foreign_files_and_inputs_are_never_overwritten(trained: Path, photos: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds other files"):
        predict_files(trained, [photos], foreign)
    before = {p: p.read_bytes() for p in photos.rglob("*") if p.is_file()}
    for out in (photos, photos / "deep"):
        with pytest.raises(InputError, match=r"give a(nother| new) folder"):
            predict_files(trained, [photos], out)
    assert {p: p.read_bytes() for p in photos.rglob("*") if p.is_file()} == before
    with pytest.raises(InputError, match="is a file"):
        predict_files(trained, [photos], foreign / "thesis.txt")
    assert [p.name for p in foreign.iterdir()] == ["thesis.txt"]


def test_an_earlier_output_is_not_overwritten_as_an_input(trained: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_files(trained, [photos / "strip.png"], out)
    before = (out / "strip.png").read_bytes()
    with pytest.raises(InputError, match="might be overwritten"):
        predict_files(trained, [out / "strip.png"], out)
    assert (out / "strip.png").read_bytes() == before


def test_predictions_below_the_photos_are_not_taken_for_photos(trained: Path, photos: Path) -> None:
    assert predict_files(trained, [photos], photos / "predicted").predicted == 7
    shutil.rmtree(photos / "A b")
    assert predict_files(trained, [photos], photos / "predicted").present == 6


def test_predictions_of_one_run_add_up_and_those_of_another_are_not_mixed_in(
    trained: Path, own_run: Path, labelled_folder: Path, tmp_path: Path
) -> None:
    first, second = sorted((labelled_folder / "images" / "val").iterdir())[:2]
    out = tmp_path / "out"
    assert predict_files(trained, [first], out).predicted == 1
    before = (out / "predictions.json").read_bytes()
    state = checkpoint.load(own_run)
    next(iter(state["method"].values())).add_(1)
    checkpoint.save(own_run / "checkpoint.pt", state)
    with pytest.raises(InputError, match="holds predictions of another run"):
        predict_files(own_run, [second], out)
    assert (out / "predictions.json").read_bytes() == before
    assert predict_files(trained, [second], out).predicted == 1
    assert set(json.loads((out / "predictions.json").read_text())["images"]) == {str(first), str(second)}
    twin = tmp_path / "elsewhere" / first.name
    twin.parent.mkdir()
    twin.write_bytes(second.read_bytes())
    predict_files(trained, [twin], out)
    labels = [entry["labels"] for entry in json.loads((out / "predictions.json").read_text())["images"].values()]
    assert len(set(labels)) == 3


def test_of_a_labelled_folder_the_images_alone_are_predicted(trained: Path, labelled_folder: Path, tmp_path: Path) -> None:
    assert predict_files(trained, [labelled_folder], tmp_path / "out").predicted == len(
        list((labelled_folder / "images").rglob("*.jpg"))
    )


def test_label_maps_beside_images_are_no_photos(trained: Path, labelled_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(labelled_folder / "images" / "val", tmp_path / "coco" / "images" / "val2017")
    shutil.copytree(labelled_folder / "labels" / "val", tmp_path / "coco" / "annotations" / "val2017")
    assert predict_files(trained, [tmp_path / "coco"], tmp_path / "out", "cpu").predicted == 2


# ---- going on, and predicting again


def times(out: Path) -> dict[str, int]:
    """The modification time of each file but the record and the legend."""
    files = [path for path in out.rglob("*") if path.is_file() and path.name not in ("predictions.json", "legend.png")]
    return {path.relative_to(out).as_posix(): path.stat().st_mtime_ns for path in files}


def test_a_named_pipe_is_refused_instead_of_waited_for(trained: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe.tif")  # its header would be read for the scale, too
    with pytest.raises(InputError, match=r"pipe\.jpg: is not a regular file"):
        predict_files(trained, [tmp_path / "pipe.jpg", tmp_path / "pipe.tif"], tmp_path / "out")


def test_what_a_killed_process_left_is_made_again(trained: Path, photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    out = tmp_path / "out"
    writes = 0

    def killed(self: Any, name: str, data: bytes) -> None:
        nonlocal writes
        writes += 1
        if writes == 6:  # within the third image
            for place in (out, out / "deep/er"):
                place.mkdir(parents=True, exist_ok=True)
                (place / ".0123abcd.4.partial").write_bytes(b"half")
                (place / ".mine.partial").write_bytes(b"of the user")
            raise SystemExit
        original(self, name, data)

    original = PredictionFiles.write
    monkeypatch.setattr(PredictionFiles, "write", killed)
    monkeypatch.setattr(prediction_loop.PredictionLoop, "_end", lambda _: None)
    with pytest.raises(SystemExit):
        predict_files(trained, [photos], out)
    assert record(out)["images"] == {}  # it was saved less than five seconds ago
    monkeypatch.undo()
    assert predict_files(trained, [photos], out) == Summary(7, 0, {})
    assert not list(out.rglob(".0123abcd.4.partial"))
    assert len(list(out.rglob(".mine.partial"))) == 2
    assert len(times(out)) == 14 + 2


def test_a_second_call_predicts_what_is_new_or_changed(trained: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_files(trained, [photos], out)
    before = times(out)
    assert predict_files(trained, [photos], out) == Summary(0, 7, {})
    Image.new("RGB", (20, 30)).save(photos / "new.png")
    Image.linear_gradient("L").resize((5, 9)).save(photos / "strip.png")
    (out / "v1.2_overlay.jpg").unlink()
    assert predict_files(trained, [photos], out) == Summary(3, 5, {})
    after = times(out)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {f"{stem}{end}" for stem in ("new", "strip", "v1.2") for end in (".png", "_overlay.jpg")}


def test_a_picture_keeps_its_output_name(trained: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_files(trained, [photos / "a.jpg"], out)
    assert predict_files(trained, [photos], out) == Summary(6, 1, {})
    images = record(out)["images"]
    assert images[str(photos / "a.jpg")]["labels"] == "a.png"
    assert images[str(photos / "a.png")]["labels"] == "a_png.png"


def test_other_names_make_all_predictions_again(own_run: Path, photos: Path, tmp_path: Path, told: list[str]) -> None:
    out = tmp_path / "out"
    predict_files(own_run, [photos], out)
    before = len(record(out)["names"])
    (photos / "v1.2.bmp").unlink()
    naming.change(own_run, Changes(merges=((("0", "1"), "land", "#00ff00"),)), device="cpu")
    assert predict_files(own_run, [photos / "strip.png"], out) == Summary(6, 0, {})
    assert "the run's segments have changed: 6 earlier predictions are made again" in told
    assert any("v1.2.bmp: no longer there; its prediction" in line for line in told)
    segmenter, content = Segmenter.load(own_run), record(out)
    assert content["names"] == list(segmenter.names)
    assert len(content["names"]) == before - 1
    for path, entry in content["images"].items():
        assert np.array_equal(np.asarray(Image.open(out / entry["labels"])), segmenter.predict(path))
    assert predict_files(own_run, [photos], out) == Summary(0, 6, {})


def test_new_clusters_make_all_predictions_again(own_run: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_files(own_run, [photos], out)
    sample = torch.from_numpy(np.random.default_rng(0).normal(size=(200, Segmenter.load(own_run).classifier[0].shape[1])))
    naming.change(own_run, Changes(k=3), device="cpu", sample=lambda: F.normalize(sample.float(), dim=1))
    assert predict_files(own_run, [photos], out) == Summary(7, 0, {})
    segmenter = Segmenter.load(own_run)
    for path, entry in record(out)["images"].items():
        assert np.array_equal(np.asarray(Image.open(out / entry["labels"])), segmenter.predict(path))


def test_an_interruption_after_other_names_leaves_nothing_outdated_behind(
    own_run: Path, photos: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    out = tmp_path / "out"
    predict_files(own_run, [photos], out)
    naming.change(own_run, Changes(names={"0": ("sky", "#0000ff")}), device="cpu")
    original = Segmenter.predict

    def interrupted(self: Segmenter, image: Any) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGINT)
        return original(self, image)

    monkeypatch.setattr(Segmenter, "predict", interrupted)
    with pytest.raises(Stopped, match="stopped; 1 of 7 images are done"):
        predict_files(own_run, [photos], out)
    monkeypatch.undo()
    assert sum(entry["size"] == 0 for entry in record(out)["images"].values()) == 6
    assert predict_files(own_run, [photos / "strip.png"], out).predicted == 6
    assert all(entry["size"] == 32 for entry in record(out)["images"].values())


def test_overwrite_deletes_the_earlier_predictions_alone(trained: Path, own_run: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    state = checkpoint.load(own_run)
    next(iter(state["method"].values())).add_(1)
    checkpoint.save(own_run / "checkpoint.pt", state)
    predict_files(trained, [photos], out)
    (out / "deep" / "er" / "notes.txt").write_text("mine")
    assert predict_files(own_run, [photos / "strip.png"], out, options=PredictOptions(overwrite=True)) == Summary(1, 0, {})
    expected = {"deep/er/notes.txt", "strip.png", "strip_overlay.jpg", "legend.png", "predictions.json"}
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == expected
    assert not (out / "A b").exists()


# ---- options


def test_without_overlays_only_label_maps_are_written(trained: Path, photos: Path, tmp_path: Path) -> None:
    out, without = tmp_path / "out", PredictOptions(overlay=False)
    assert predict_files(trained, [photos], out, options=without).predicted == 7
    assert all(name.endswith(".png") and "overlay" not in name for name in times(out))
    assert predict_files(trained, [photos], out).predicted == 7  # now with overlays
    assert predict_files(trained, [photos], out, options=without).present == 7


def test_the_size_can_be_changed(trained: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "out"
    predict_files(trained, [photos / "a.png"], out)
    with caplog.at_level("INFO", "picie"):
        assert predict_files(trained, [photos / "a.png"], out, options=PredictOptions(size=48)).predicted == 1
    assert "1 earlier predictions had another size or other options, and are made again" in caplog.text
    segmenter = Segmenter.load(trained)
    segmenter.config = with_overrides(segmenter.config, ["evaluate.scale=1.5"])
    labels = np.asarray(Image.open(out / "a.png"))
    assert np.array_equal(labels, segmenter.predict(photos / "a.png"))
    assert not np.array_equal(labels, Segmenter.load(trained).predict(photos / "a.png"))


def test_the_limit_on_pixels_can_be_changed(trained: Path, photos: Path, cli: Cli, refused: Refused, tmp_path: Path) -> None:
    command = ("predict", trained, photos / "a.png", "--out", tmp_path / "out", "--device", "cpu", "--max-pixels")
    assert "it has 64 x 48 pixels; the limit is 0.003071 megapixels" in (reason := refused(*command, 64 * 48 - 1))
    assert "(picie predict: --max-pixels)" in reason
    assert cli(*command, 64 * 48)[0] == 0


def test_the_command_line(trained: Path, photos: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (photos / "broken.jpg").write_bytes(b"x")
    command = ("predict", trained, photos, "--out", out, "--device", "cpu", "--no-overlay", "--size", 40)
    status, stdout, stderr = cli(*command)
    assert (status, stdout) == (0, f"7 images -> {out}, 1 skipped\n")
    assert stderr.count("picie: warning: skipped: ") == 1
    status, stdout, stderr = cli(*command)
    assert (status, stdout) == (0, f"0 images -> {out} (7 more were there already), 1 skipped\n")
    assert "7 of 8 images are there already; --overwrite predicts them again" in stderr
    (photos / "broken.jpg").unlink()
    assert cli(*command, "-q", "--overwrite") == (0, f"7 images -> {out}\n", "")


# ---- files that make trouble


def test_a_bad_file_does_not_stop_the_others(trained: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "a.png", photos / f"{'x' * 245}.png")  # "_overlay.jpg" makes it longer than 255
    (photos / "conflict").mkdir()
    shutil.copy(photos / "a.png", photos / "conflict" / "y.png")
    out = tmp_path / "out"
    predict_files(trained, [photos / "strip.png"], out)
    (out / "conflict").write_text("a file where a folder must be")
    summary = predict_files(trained, [photos], out)
    assert (summary.predicted, summary.present) == (6, 1)
    assert len(summary.skipped) == 2
    for reason in summary.skipped.values():
        assert f"its predictions cannot be written to {out} (" in reason
    assert not any(path.name.startswith("xxx") or path.name.endswith(".partial") for path in out.rglob("*"))
    assert record(out)["skipped"] == summary.skipped


@pytest.mark.parametrize("written", [False, True])
def test_a_failed_repeat_keeps_the_earlier_prediction_or_none(
    trained: Path, photos: Path, tmp_path: Path, monkeypatch: Any, written: bool
) -> None:
    out, names = tmp_path / "out", ("a.jpg", "strip.png")
    predict_files(trained, [photos / name for name in names], out)
    before = {path.name: path.read_bytes() for path in (out / "a.png", out / "a_overlay.jpg")}
    owner, function = (prediction_files, "draw_overlay") if written else (Segmenter, "predict")
    original, calls = getattr(owner, function), 0

    def fails_first(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise MemoryError
        return original(*args)

    monkeypatch.setattr(owner, function, fails_first)
    summary = predict_files(trained, [photos / name for name in names], out, options=PredictOptions(size=48))
    assert list(summary.skipped) == [str(photos / "a.jpg")]
    listed = {Path(image).name: entry["size"] for image, entry in record(out)["images"].items()}
    found = {path.name: path.read_bytes() for path in (out / "a.png", out / "a_overlay.jpg") if path.exists()}
    assert found == ({} if written else before)
    assert listed == ({"strip.png": 48} if written else {"a.jpg": 32, "strip.png": 48})


def test_nothing_that_can_be_predicted_is_an_error_and_leaves_nothing(trained: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no image can be predicted: .*broken.jpg: cannot be read"):
        predict_files(trained, [photos / "broken.jpg"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_stops_and_the_command_continues(trained: Path, photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    out, synced = tmp_path / "out", 0

    def full(_: int) -> None:
        nonlocal synced
        synced += 1
        if synced > 14:  # each file and its folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(prediction_loop, "default_workers", lambda: 1)  # one picture is written after the other
    with pytest.raises(PicieError, match=r"the disk is full; 2 of 7 images are done. Free some space") as error:
        predict_files(trained, [photos], out)
    assert not isinstance(error.value, InputError)  # exit status 1
    monkeypatch.undo()
    assert all(path.stat().st_size for path in out.rglob("*.*"))
    assert predict_files(trained, [photos], out).predicted >= 5


def test_an_overlay_that_is_too_long_for_a_jpeg_is_a_png(trained: Path, tmp_path: Path) -> None:
    Image.new("RGB", (65_501, 2), (200, 40, 40)).save(tmp_path / "long.png")
    Image.new("RGB", (2, 65_500), (200, 40, 40)).save(tmp_path / "high.png")
    out = tmp_path / "out"
    assert predict_files(trained, [tmp_path / "long.png", tmp_path / "high.png"], out).predicted == 2
    expected = overlay(
        open_image(tmp_path / "long.png"), np.asarray(Image.open(out / "long.png")), Segmenter.load(trained).colors
    )
    assert np.array_equal(np.asarray(Image.open(out / "long_overlay.png")), np.asarray(expected))
    assert Image.open(out / "high_overlay.jpg").size == (2, 65_500)


def _set(*keys: str, value: object) -> Callable[[dict[str, Any]], object]:
    def change(content: dict[str, Any]) -> object:
        place = content
        for key in keys[:-1]:
            place = next(iter(place.values())) if key == "*" else place[key]
        place[keys[-1]] = value
        return content

    return change


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: [],
        lambda _: None,
        lambda content: {},
        lambda content: {key: value for key, value in content.items() if key != "images"},
        _set("images", value=[]),
        _set("names", value="sky"),
        _set("model", value=7),
        _set("images", "*", value={}),
        _set("images", "*", "labels", value="/etc/passwd"),
        _set("images", "*", "labels", value="../x.png"),
        _set("images", "*", "overlay", value=""),
        _set("images", "*", "source", value=[1]),
        _set("images", "*", "share", value={"a": "b"}),
        _set("images", "*", "size", value="large"),
    ],
)
def test_a_damaged_record_is_one_line(
    trained: Path, photos: Path, refused: Callable[..., str], tmp_path: Path, damage: Callable[[Any], object]
) -> None:
    out = tmp_path / "out"
    predict_files(trained, [photos / "strip.png"], out)
    (out / "predictions.json").write_text(json.dumps(damage(record(out))), "utf-8")
    before = times(out)
    assert "predictions.json: is damaged" in refused("predict", trained, photos, "--out", out, "--overwrite")
    assert times(out) == before


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"images": NaN'])
def test_a_record_that_is_no_json_is_one_line(
    trained: Path, photos: Path, refused: Callable[..., str], tmp_path: Path, text: bytes
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.json").write_bytes(text)
    assert "predictions.json: is damaged" in refused("predict", trained, photos, "--out", tmp_path / "out")


def test_names_are_written_into_overlays_if_asked_for(trained: Path, labelled_folder: Path, tmp_path: Path, cli: Cli) -> None:
    out, photos = tmp_path / "out", labelled_folder / "images" / "val"
    assert cli("predict", trained, photos, "--out", out)[0] == 0
    plain = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix != ".json"}
    status, text, _ = cli("predict", trained, photos, "--out", out, "--labels")
    assert (status, text) == (0, f"2 images -> {out}\n")
    changed = {name for name, data in plain.items() if (out / name).read_bytes() != data}
    assert changed == {"100_overlay.jpg", "101_overlay.jpg"}
    assert cli("predict", trained, photos, "--out", out, "--labels")[1].startswith("0 images")


def test_paths_can_come_from_a_file(trained: Path, photos: Path, tmp_path: Path, cli: Cli, refused: Callable[..., str]) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(f"{photos / 'a.png'}\n\n  {photos / 'deep'}\n", "utf-8")
    out = tmp_path / "out"
    assert cli("predict", trained, photos / "strip.png", "--from", listed, "--out", out)[:2] == (0, f"3 images -> {out}\n")
    assert cli("predict", trained, "--from", listed, "--out", out)[1] == f"0 images -> {out} (2 more were there already)\n"
    odd = photos / " a\nb\x85.png"
    (photos / "a.png").rename(odd)
    for text in (f"{odd}\0{photos / 'strip.png'}\0", f"\ufeff{photos / 'strip.png'}\r\n"):  # find -print0; an editor
        listed.write_text(text, "utf-8", newline="")
        assert cli("predict", trained, "--from", listed, "--out", tmp_path / "odd")[0] == 0
    assert len(list((tmp_path / "odd").glob("*a*b*.png"))) == 1
    odd.rename(photos / "a.png")
    listed.write_text("\n", "utf-8")
    assert "list.txt: has no path; give a text file with one path a line, or paths separated by NUL" in refused(
        "predict", trained, "--from", listed, "--out", out
    )
    assert "cannot be read (No such file" in refused("predict", trained, "--from", tmp_path / "no.txt", "--out", out)
    assert "cannot be read (it is not a text file)" in refused("predict", trained, "--from", photos / "a.png", "--out", out)
    assert "or a list of them with --from FILE" in refused("predict", trained, "--out", out)


def test_paths_separated_by_nul_keep_their_folders_below_a_root(
    trained: Path, photos: Path, tmp_path: Path, cli: Cli, monkeypatch: Any
) -> None:
    listed, out = (
        io.BytesIO(b"\0".join(os.fsencode(photos / name) for name in ("a.png", "A b/\u00e9 1.jpg")) + b"\0"),
        tmp_path / "out",
    )
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(listed))
    status, stdout, _ = cli("predict", trained, "--from", "-", "--root", photos, "--out", out, "--no-overlay")
    assert (status, stdout) == (0, f"2 images -> {out}\n")
    assert {entry["labels"] for entry in record(out)["images"].values()} == {"a.png", "A b/\u00e9 1.png"}


def test_pictures_that_are_computed_together_have_the_same_maps(
    untrained: Path, photos: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    predict_files(untrained, [photos], tmp_path / "single")
    monkeypatch.setattr(PicturePrediction, "batch_size", 3)  # as on a GPU
    together, original = [], Segmenter.predict
    monkeypatch.setattr(Segmenter, "predict", lambda *args: together.append(args[1]) or original(*args))
    predict_files(untrained, [photos], tmp_path / "batches")
    assert [len(images) if isinstance(images, list) else 1 for images in together] == [3, 3, 1]
    for path in (tmp_path / "single").rglob("*.png"):
        alike = np.asarray(Image.open(path)) == np.asarray(
            Image.open(tmp_path / "batches" / path.relative_to(tmp_path / "single"))
        )
        assert alike.mean() > 0.999  # sums of another order


def test_pictures_that_do_not_fit_together_are_computed_singly(
    untrained: Path, photos: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(PicturePrediction, "batch_size", 3)
    original = Segmenter.predict

    def predict(self: Segmenter, images: Any, *others: Any) -> Any:
        if isinstance(images, list):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, images, *others)

    monkeypatch.setattr(Segmenter, "predict", predict)
    assert predict_files(untrained, [photos], tmp_path / "out").predicted == 7
