"""The page of a run, complete and with parts missing."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.app.browser import PROGRAM, browser
from tests.conftest import UNTRAINED, checkpoint_of, picture
from tests.reference.published_network import file_content, random_network, write
from tests.report.conftest import Page

from picie import Config, ScoreOptions, Segmenter, evaluate, report
from picie.config import from_dict, load
from picie.display.colors import rgb_to_hex
from picie.errors import InputError, Stopped
from picie.inference.import_published import import_checkpoint
from picie.naming import changes as naming
from picie.naming.changes import Changes
from picie.runtime.run_record import RunRecord, read_metrics
from picie.training import api
from picie.training import trainer as trainer_module
from picie.training.trainer import Trainer

PageOf = Callable[..., Page]
Call = Callable[..., tuple[int, str, str]]
KEPT = Path(__file__).parents[2] / ".artifacts" / "report"
SECTIONS = {"examples", "scores", "confusion", "clusters", "curves", "views", "settings"}


def sections(page: Page) -> set[str]:
    return {name for name, text in page.text.items() if name and text.strip()}


def change(run: Path, **values: object) -> Path:
    """Change a run's checkpoint."""
    state = checkpoint_of(run)
    state.update(values)
    torch.save(state, run / "checkpoint.pt")
    return run


def at(run: Path, root: Path) -> Path:
    """Change the folder of a run's images to `root`."""
    config = checkpoint_of(run)["config"]
    return change(run, config=config | {"data": config["data"] | {"root": str(root)}})


def test_a_page_holds_every_section_and_leaves_nothing_out(page: Page) -> None:
    assert sections(page) == SECTIONS
    assert "Missing from this report" not in page.notes
    assert {src for src in page.references if src.startswith("#")} == {f"#{name}" for name in SECTIONS}


def test_a_page_needs_nothing_but_itself(page: Page) -> None:
    assert "script" not in page.tags
    assert all(reference.startswith(("#", "data:")) for reference in page.references)
    assert not re.search(r"@import|url\(|https?:", page.source)


def test_every_picture_can_be_decoded_and_has_words(page: Page) -> None:
    assert {where for where, *_ in page.images} == {"examples", "clusters", "views"}
    for section in ("examples", "clusters", "views"):
        assert all(min(image.size) > 0 for image in page.pictures(section))
    assert all(alt.strip() for _, _, alt, _ in page.images)


def test_the_numbers_are_those_of_the_evaluation(page: Page, trained: Path) -> None:
    result = evaluate(trained, options=ScoreOptions(progress=False))
    summary = result.to_dict()

    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:.1f}"

    total = sum(row["pixels"] for row in summary["per_class"])
    expected = [
        [row["name"], shown(row["iou"]), shown(row["accuracy"]), shown(100 * row["pixels"] / total), str(row["cluster"])]
        for row in summary["per_class"]
    ]
    assert page.tables["classes"] == expected
    assert f"{summary['accuracy']:.1f} %" in page.notes
    assert f"{summary['miou']:.1f} %" in page.notes
    assert result.protocol in page.text["scores"]
    shares = 100 * result.confusion / result.confusion.sum(1, keepdims=True)
    before = page.tables["matrix"][: len(shares)]
    for name, numbers, row in zip(result.classes.names, shares, before, strict=True):
        assert row == [name, *(f"{number:.0f}" if number >= 0.5 else "" for number in numbers)]


def test_the_numbers_of_every_epoch_stand_below_the_curves(page: Page, trained: Path) -> None:
    rows = page.tables["numbers"]
    assert [row[0] for row in rows] == ["1", "2"]
    assert [row[1] for row in rows] == [f"{line['loss']:.4g}" for line in read_metrics(trained)]
    assert page.source.count("<svg") == 4  # loss, inertia, imbalance, scores
    assert re.findall(r">(within|cross|view 1|view 2|pixel accuracy|mIoU)</text>", page.source) == [
        *("within", "cross"),
        *2 * ("view 1", "view 2"),
        *("pixel accuracy", "mIoU"),
    ]


def test_pictures_and_legend_have_the_colors_of_the_segmenter(page: Page, trained: Path, labelled_folder: Path) -> None:
    segmenter = Segmenter.load(trained, "cpu")
    legend = [(name, rgb_to_hex(color)) for name, color in zip(segmenter.names, segmenter.colors, strict=True)]
    assert page.legends["Colours of the segments"] == legend
    assert page.legends["Colours of the labels"] == [("not labelled", "#000000")]
    val = sorted((labelled_folder / "images/val").iterdir())
    shown = page.pictures("examples")
    assert len(shown) == 5 * len(val)  # image, prediction, overlay, confidence, label
    for path, (image, prediction, _, _, label) in zip(val, zip(*[iter(shown)] * 5, strict=True), strict=True):
        assert image.size == (64, 48)
        values = segmenter.predict(path)
        assert np.array_equal(np.asarray(prediction.convert("RGB")), np.array(segmenter.colors, dtype=np.uint8)[values])
        truth = np.asarray(Image.open(labelled_folder / "labels/val" / f"{path.stem}.png")).astype(int)
        table = np.array([*segmenter.colors[:3], (0, 0, 0)], dtype=np.uint8)
        assert np.array_equal(np.asarray(label.convert("RGB")), table[np.where(truth == 255, 3, truth)])


def test_what_users_name_is_shown_and_not_obeyed(own_run: Path, own_folder: Path, page_of: PageOf) -> None:
    classes = own_folder / "classes.toml"
    classes.write_text(classes.read_text("utf-8").replace('"red"', '"<script>alert(1)</script>"'), "utf-8")
    for kind, suffix in (("images", "jpg"), ("labels", "png")):
        (own_folder / kind / "val" / f"100.{suffix}").rename(own_folder / kind / "val" / f"<b>&\"x'.{suffix}")
    page = page_of(own_run, own_folder)
    assert page.tables["classes"][0][0] == "<script>alert(1)</script>"
    assert "<b>&\"x'.jpg" in page.text["examples"]
    assert "script" not in page.tags
    assert ("<script>alert(1)</script>", "#dc2828") in page.legends["Colours of the labels"]


def test_without_labels_there_are_no_scores(own_run: Path, own_folder: Path, page_of: PageOf) -> None:
    change(own_run, matching=None)
    page = page_of(own_run, own_folder / "images" / "train")
    assert sections(page) == SECTIONS - {"scores", "confusion"}
    assert "Missing from this report" not in page.notes  # there is nothing to mend
    assert [name for name, _ in page.legends["Colours of the segments"]] == ["cluster 0", "cluster 1", "cluster 2"]
    assert len(page.pictures("examples")) == 4 * 6


def test_labels_that_should_be_there_are_missed(own_run: Path, own_folder: Path, page_of: PageOf) -> None:
    shutil.rmtree(own_folder / "labels")
    page = page_of(change(own_run, matching=None), own_folder)
    assert "No scores: " in page.notes


def test_each_card_shows_the_command_that_names_it(own_run: Path, page_of: PageOf, cli: Call) -> None:
    page = page_of(change(own_run, matching=None))
    commands = re.findall(r"picie (name \S+ (\d+)=)NAME", page.text["clusters"])
    assert len(commands) == sum(where == "clusters" for where, _ in page.headings)
    for command, number in commands:
        assert cli(*f"{command}name-{number}".split())[0] == 0
    segments = Segmenter.load(own_run, "cpu").segments
    assert all(segments.names[segments.assignment[int(number)]] == f"name-{number}" for _, number in commands)


def test_clusters_without_names_take_those_of_the_scores(own_run: Path, page: Page, page_of: PageOf) -> None:
    assert page_of(change(own_run, matching=None)).legends == page.legends


def test_the_clusters_in_use_are_told_beside_the_trained_ones(own_run: Path, page: Page, page_of: PageOf) -> None:
    assert "clusters3epochs" in page.notes
    naming.change(own_run, Changes(k=5), device="cpu")
    changed = page_of(own_run)
    assert "clusters5, trained with 3epochs" in changed.notes
    assert "The curves show the 3 trained ones" in changed.notes


def test_images_that_are_gone_leave_curves_and_settings(own_run: Path, labelled_folder: Path, page_of: PageOf) -> None:
    at(own_run, labelled_folder.parent / "gone")
    page = page_of(own_run)
    assert sections(page) == {"curves", "settings"}
    assert "No crops and no views: " in page.notes
    assert f"{read_metrics(own_run)[-1]['miou']:.1f} %" in page.notes  # as it was while training
    assert "--data DIR" in page.notes
    assert sections(page_of(own_run, labelled_folder)) == SECTIONS


def test_images_that_cannot_be_read_are_passed_over(own_run: Path, own_folder: Path, page_of: PageOf) -> None:
    for path in sorted((own_folder / "images").rglob("*.jpg"))[:-1]:
        path.write_bytes(b"no picture")
    page = page_of(own_run, own_folder)
    assert len(page.pictures("examples")) == 5
    assert "None of" not in page.notes
    assert "No crops: none of the training images can be read." in page.notes
    assert sections(page) == SECTIONS - {"clusters", "views"}


@pytest.mark.parametrize("damage", ["gone", "cut", "unknown epoch", "values", "floats", "no cells", "more images"])
def test_pseudo_labels_that_belong_to_nothing_are_not_shown(
    own_run: Path, own_folder: Path, page: Page, page_of: PageOf, damage: str
) -> None:
    file = own_run / "pseudo_labels.npy"
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-5])
    elif damage == "unknown epoch":
        RunRecord(own_run).update(labelled_epoch=None)
    elif damage in {"values", "floats", "no cells"}:
        labels = np.load(file)
        np.save(file, {"values": labels + 3, "floats": labels / 2, "no cells": labels[:, :, :0]}[damage])
    else:
        Image.fromarray(picture(7)[0]).save(own_folder / "images/train/more.jpg")
    without = page_of(own_run, own_folder)
    assert "Views without pseudo-labels: " in without.notes
    assert "agree" not in without.text["views"]
    assert len(page.pictures("views")) == 4 * 5
    assert len(without.pictures("views")) == 4 * 3


def test_without_metrics_there_are_no_curves(own_run: Path, page_of: PageOf) -> None:
    (own_run / "metrics.jsonl").unlink()
    (own_run / "run.json").unlink()
    page = page_of(own_run)
    assert "curves" not in sections(page)
    assert "No curves: " in page.notes


def test_a_run_that_was_stopped_before_its_first_clusters(own_run: Path, page_of: PageOf) -> None:
    RunRecord(own_run).update(labelled_epoch=None)
    page = page_of(change(own_run, epoch=0, step=0, finished=False, matching=None))
    assert sections(page) == {"curves", "views", "settings"}
    assert "stopped before its first clusters" in page.notes


def test_a_missing_score_does_not_break_a_page_and_a_number_that_is_none_is_refused(own_run: Path, page_of: PageOf) -> None:
    lines = read_metrics(own_run)
    for change in ({"accuracy": None}, {"inertia": [float("nan"), 1.0]}):
        lines[0] |= change
        (own_run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        if "accuracy" in change:
            assert page_of(own_run).source.count("<svg") == 4
    with pytest.raises(InputError, match=r"line 1 is damaged: inertia\.0 = nan: must be a finite number"):
        page_of(own_run)


def test_a_page_of_mdc_without_training_and_without_labels(labelled_folder: Path, tmp_path: Path, page_of: PageOf) -> None:
    options = [*UNTRAINED, "method=mdc", "views.equivariance=crop,hflip,rot90", f"data.root={labelled_folder / 'images/val'}"]
    page = page_of(api.train(load(None, None, options), tmp_path / "run"))
    assert sections(page) == SECTIONS - {"scores", "confusion"}
    assert "none: not trained" in page.notes
    assert "<svg" not in page.source  # one epoch makes no curve
    assert [row[0] for row in page.tables["numbers"]] == ["0"]
    assert len(page.pictures("views")) == 2 * 3  # frame, view, pseudo-labels


def test_strips_and_many_clusters(tmp_path: Path, page_of: PageOf) -> None:
    (tmp_path / "strips").mkdir()
    for i, size in enumerate([(400, 9), (9, 400), (300, 200), (5, 5)]):
        Image.fromarray(picture(i, size)[0] if min(size) > 9 else np.full((*size[::-1], 3), 90, np.uint8)).save(
            tmp_path / "strips" / f"{i}.png"
        )
    options = [*UNTRAINED, "cluster.k=90", f"data.root={tmp_path / 'strips'}"]
    page = page_of(api.train(load(None, None, options), tmp_path / "run"))
    assert len(page.legends["Colours of the segments"]) == 90
    assert max(max(image.size) for image in page.pictures("examples")) == 400
    assert {image.size for image in page.pictures("clusters")} == {(112, 112)}


def test_the_record_says_to_which_epoch_the_pseudo_labels_belong(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    plain = Trainer._step

    def step(trainer: Trainer, *batch: object) -> None:
        seen.append(trainer.folder.record.read()["labelled_epoch"])
        plain(trainer, *batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_step", step)
    monkeypatch.setattr(
        trainer_module, "generate_pseudo_labels", _spied(trainer_module.generate_pseudo_labels, tmp_path / "run", seen)
    )
    run = api.train(tiny(), tmp_path / "run")
    assert seen == [None, 1, 1, 1, None, 2, 2, 2]
    assert RunRecord(run).read()["labelled_epoch"] == 2


def _spied(generate: Callable[..., object], run: Path, seen: list[object]) -> Callable[..., object]:
    def spied(*arguments: object) -> object:
        seen.append(RunRecord(run).read()["labelled_epoch"])
        return generate(*arguments)

    return spied


def test_a_run_stopped_within_an_epoch_shows_that_epochs_views(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page_of: PageOf
) -> None:
    plain = Trainer._step

    def step(trainer: Trainer, *batch: object) -> None:
        plain(trainer, *batch)  # type: ignore[arg-type]
        if (trainer.state.epoch, trainer.state.step) == (1, 1):
            trainer.folder.stop.signum = signal.SIGINT

    monkeypatch.setattr(Trainer, "_step", step)
    with pytest.raises(Stopped):
        api.train(tiny("run.report=true"), tmp_path / "run")
    assert not (tmp_path / "run" / report.FILE_NAME).exists()
    page = page_of(tmp_path / "run")
    assert sections(page) == SECTIONS
    assert "1 of 2" in page.notes
    assert "in epoch 2, " in page.text["views"]
    assert [row[0] for row in page.tables["numbers"]] == ["1"]
    assert "stopped" in page.text["settings"]


@pytest.mark.parametrize(
    "options", [("cluster.metric=euclidean", "cluster.over_k=5"), ("method=mdc",), ("views.aspect=2.0", "cluster.refit=0")]
)
def test_other_runs_have_pages_too(
    tiny: Callable[..., Config], tmp_path: Path, page_of: PageOf, options: tuple[str, ...]
) -> None:
    page = page_of(api.train(tiny("train.epochs=1", *options), tmp_path / "run"))
    assert sections(page) == SECTIONS
    assert "Missing from this report" not in page.notes


def test_a_page_of_an_imported_run_says_what_it_cannot_show(labelled_folder: Path, tmp_path: Path, page_of: PageOf) -> None:
    content = file_content(random_network("resnet18", 16), 5, arch="resnet18", in_dim=16, K_train=5)
    run = import_checkpoint(write(tmp_path / "published.pth.tar", content), tmp_path / "run", "folder")
    page = page_of(run)
    assert sections(page) == {"settings"}
    for missing in ("No crops and no views: ", "No scores: ", "No curves: "):
        assert missing in page.notes
    page = page_of(run, labelled_folder)
    assert sections(page) == SECTIONS - {"curves"}
    assert "Views without pseudo-labels: " in page.notes


def test_training_ends_with_a_report(tiny: Callable[..., Config], tmp_path: Path) -> None:
    run = api.train(tiny("run.report=true"), tmp_path / "run")
    page = Page(run / report.FILE_NAME)
    assert sections(page) == SECTIONS
    assert "finished" in page.text["settings"]
    (run / report.FILE_NAME).unlink()
    api.resume(run)
    assert not (run / report.FILE_NAME).exists()  # nothing was trained
    assert not (api.train(tiny("train.epochs=0"), tmp_path / "other") / report.FILE_NAME).exists()


def test_a_report_that_fails_does_not_fail_the_run(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no paper\nleft")

    monkeypatch.setattr(report, "write_report", fail)
    run = api.train(tiny("train.epochs=0", "run.report=true"), tmp_path / "run")
    assert RunRecord(run).read()["status"] == "finished"
    (warning,) = [line for line in told if line.startswith("no report")]
    assert warning == f"no report was written (RuntimeError: no paper); picie report {run} tries again"


def test_the_command_writes_into_the_run(cli: Call, own_run: Path, labelled_folder: Path, tmp_path: Path) -> None:
    before = (own_run / "checkpoint.pt").read_bytes()
    assert cli("report", own_run, "--device", "cpu") == (0, f"{own_run / 'report.html'}\n", "")
    assert sections(Page(own_run / "report.html")) == SECTIONS
    assert (own_run / "checkpoint.pt").read_bytes() == before
    other = tmp_path / "other.html"
    assert cli("report", own_run / "checkpoint.pt", "--out", other, "--data", labelled_folder)[:2] == (0, f"{other}\n")
    assert sections(Page(other)) == SECTIONS


def test_what_cannot_be_reported_is_refused(refused: Callable[..., str], own_run: Path, tmp_path: Path) -> None:
    assert "no such run" in refused("report", tmp_path / "nothing")
    assert "is a folder; give a file in it" in refused("report", own_run, "--out", tmp_path)
    assert "no such folder; make it first" in refused("report", own_run, "--out", tmp_path / "no" / "page.html")
    assert "--data" in refused("report", own_run, "--data", tmp_path / "nothing")
    assert not (own_run / report.FILE_NAME).exists()


def test_settings_that_differ_from_the_defaults_are_told(page: Page, trained: Path) -> None:
    config = from_dict(checkpoint_of(trained)["config"])
    rows = {row[0]: row[1:] for row in page.tables["settings"]}
    assert rows["train.epochs"] == [str(config.train.epochs), str(Config().train.epochs)]
    assert rows["data.root"] == [str(config.data.root), "not set"]
    assert not {name for name in rows if name.startswith("loss.")}
    assert "temperature = 0.3" in page.text["settings"]
    assert torch.__version__.split("+")[0] in page.text["settings"]


@pytest.mark.skipif(PROGRAM is None, reason="needs Chromium")
@pytest.mark.slow
def test_a_browser_shows_a_page_that_fits_its_window(page: Page, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page.source, "utf-8")
    (tmp_path / "profile").mkdir()
    with browser(tmp_path / "profile") as chromium:
        for width in (420, 1280):
            chromium.shape(width, 900)
            chromium.call("Page.navigate", url=f"file://{tmp_path}/page.html")
            chromium.wait("document.readyState === 'complete' && document.images.length > 0")
            assert chromium.run("document.documentElement.scrollWidth") == width
            assert chromium.run("[...document.images].every(image => image.naturalWidth)")
            chromium.screenshot(KEPT / f"report-{width}.png")
        assert chromium.complaints == []
