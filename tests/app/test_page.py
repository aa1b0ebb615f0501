"""The page in a headless Chromium, from a dropped picture to the saved mask.

It leaves screenshots in .artifacts/app/.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.app.browser import PROGRAM, Browser, browser

from picie import Segmenter
from picie.app.studio import Studio
from picie.data.images import open_image
from picie.display.colors import hex_to_rgb
from picie.naming.overview import segments_of

MISSING = "no Chromium on this machine: apt-get install chromium"
pytestmark = pytest.mark.skipif(PROGRAM is None and not os.environ.get("CI"), reason=MISSING)  # where CI runs, it must be there

KEPT = Path(__file__).parents[2] / ".artifacts" / "app"
FRAME = "!document.querySelector('#frame').hidden && document.querySelector('#busy').hidden"


@pytest.fixture(scope="module")
def _browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None, MISSING
    with browser(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture
def page(_browser: Browser, served: str) -> Browser:
    """The page, without a picture."""
    _browser.complaints.clear()
    _browser.shape(1280, 900)
    _browser.open(served)
    return _browser


@pytest.fixture
def photo(labelled_folder: Path) -> Path:
    return labelled_folder / "images" / "val" / "100.jpg"


def canvas(page: Browser) -> np.ndarray:
    """(H, W, 3) of what the canvas shows, after it was drawn."""
    drawn = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    read = "(c => [c.width, c.height, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data])"
    page.run(f"{drawn}.then(() => true)")
    width, height, *data = page.run(f"{read}(document.querySelector('#canvas'))")
    return np.array(data).reshape(height, width, 4)[:, :, :3]


def blended(segmenter: Segmenter, photo: Path, opacity: float) -> np.ndarray:
    """(H, W, 3): what it should show, without outlines."""
    colors = np.array(segmenter.colors)[segmenter.predict(photo)]
    own = np.asarray(open_image(photo)).astype(float)
    return own + opacity * (colors - own)


def texts(page: Browser, selector: str) -> list[str]:
    found: list[str] = page.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)")
    return found


def saved(folder: Path, name: str) -> Image.Image:
    end = time.monotonic() + 30
    while not (folder / name).is_file():
        assert time.monotonic() < end, f"{name} was not saved: {list(folder.iterdir())}"
        time.sleep(0.02)
    return Image.open(folder / name)


def test_from_a_dropped_picture_to_the_saved_mask(page: Browser, photo: Path, own_run: Path, tmp_path: Path) -> None:
    segmenter = Segmenter.load(own_run, "cpu")
    labels = segmenter.predict(photo)
    assert len(np.unique(labels)) > 1

    page.drop("#drop", photo)
    page.wait(FRAME)
    page.click("#outlines")
    np.testing.assert_allclose(canvas(page), blended(segmenter, photo, 0.55), atol=1)

    order = np.argsort(-np.bincount(labels.ravel(), minlength=3), kind="stable")
    there = [int(value) for value in order if (labels == value).any()]
    assert texts(page, "#legend .name") == [segmenter.names[value] for value in there]
    shares = [100 * (labels == value).mean() for value in there]
    assert texts(page, "#legend .share") == [f"{share:.1f} %" if share >= 0.1 else "< 0.1 %" for share in shares]
    styles = page.run("[...document.querySelectorAll('#legend .swatch')].map(e => e.style.backgroundColor)")
    assert styles == [f"rgb({r}, {g}, {b})" for r, g, b in (segmenter.colors[value] for value in there)]

    page.run("document.querySelector('#opacity').focus()")
    page.press("End")
    assert texts(page, ".slider output") == ["100 %"]
    np.testing.assert_array_equal(canvas(page), np.array(segmenter.colors)[labels])
    page.click("#legend li:first-child .toggle")
    hidden = blended(segmenter, photo, 1.0)
    hidden[labels == there[0]] = np.asarray(open_image(photo))[labels == there[0]]
    np.testing.assert_array_equal(canvas(page), hidden)
    page.click("#all")

    page.click("#canvas", 30.5 / 64, 20.5 / 48)
    page.wait("document.querySelectorAll('#neighbors li').length === 6")
    name = segmenter.names[labels[20, 30]]
    assert texts(page, "#facts strong") == [name]
    assert f"cluster {segmenter.predict_clusters(open_image(photo))[20, 30]} ·" in texts(page, "#facts")[0]
    assert "column 30, row 20" in texts(page, "#facts")[0]
    page.run("document.querySelectorAll('#neighbors img').forEach(image => image.loading = 'eager')")
    assert page.run("Promise.all([...document.querySelectorAll('#neighbors img')].map(i => i.decode())).then(() => true)")

    value = segmenter.names.index(name)
    page.click(f"#legend li[data-value='{value}'] .edit")
    page.type("<i>lake</i>")
    page.run("document.querySelector('form input[type=color]').value = '#123456'")
    page.click("form .primary")
    page.wait("document.querySelector('#facts strong').textContent === '<i>lake</i>'")
    now = segments_of(own_run)
    assert (now.names[value], now.colors[value]) == ("<i>lake</i>", "#123456")
    assert "<i>lake</i>" in texts(page, "#legend .name")
    assert (canvas(page)[labels == value] == hex_to_rgb("#123456")).all()

    page.save_downloads(tmp_path)
    page.click("#mask")
    mask = saved(tmp_path, "100_mask.png")
    np.testing.assert_array_equal(np.asarray(mask), labels)
    colors = [c for color in Segmenter.load(own_run, "cpu").colors for c in color]
    assert mask.getpalette()[: len(colors)] == colors
    page.click("#overlay")
    np.testing.assert_array_equal(np.asarray(saved(tmp_path, "100_overlay.png").convert("RGB")), canvas(page))

    page.run("document.querySelector('#opacity').focus(), document.querySelector('#opacity').value = 55, 0")
    page.press("ArrowRight")
    page.screenshot(KEPT / "wide-light.png")
    page.shape(420, 900, dark=True)
    page.screenshot(KEPT / "narrow-dark.png")
    assert page.run("document.documentElement.scrollWidth") == 420
    assert page.complaints == []


def test_a_taken_name_is_refused_beside_its_field(page: Browser, own_run: Path) -> None:
    before = segments_of(own_run)
    page.click("#legend li:nth-child(2) .edit")
    page.type(before.names[0])
    page.press("Enter")
    page.wait("!document.querySelector('form p').hidden")
    assert texts(page, "form p") == [f"'{before.names[0]}': another segment has this name; give a different one"]
    page.press("Escape")
    assert texts(page, "form") == []
    assert segments_of(own_run) == before


def test_an_error_is_shown_and_the_last_picture_stays(page: Browser, photo: Path, tmp_path: Path) -> None:
    page.drop("#drop", photo)
    page.wait(FRAME)
    shown = canvas(page)
    for name, content, message in (
        ("broken.png", b"\x89PNG broken", "broken.png: this cannot be read as an image (no known image format); give another"),
        ("large.png", b"x" * 1_000_001, "large.png: the file is too large; the maximum is 1 MB"),
    ):
        (tmp_path / name).write_bytes(content)
        page.drop("#drop", tmp_path / name)
        page.wait(f"document.querySelector('#problem span').textContent === {json.dumps(message)}")
        np.testing.assert_array_equal(canvas(page), shown)
    page.click("#problem button")
    assert page.run("document.querySelector('#problem').hidden")


def test_a_picture_of_the_strip_and_its_pixels_are_reached_by_keys(page: Browser, studio: Studio, images: Path) -> None:
    page.run("document.querySelector('#gallery [data-index=\"3\"]').focus()")
    page.press("Enter")
    page.wait(FRAME)
    assert texts(page, "#caption")[0].startswith("003.jpg · 64 × 48 pixels")
    assert page.run("document.querySelector('#gallery [aria-current=true]').dataset.index") == "3"
    page.run("document.querySelector('#canvas').focus()")
    page.press("ArrowRight")
    page.press("ArrowLeft")
    page.press("Enter")
    page.wait("document.querySelectorAll('#neighbors li').length === 5")
    labels = studio.segmenter.predict(images / "003.jpg")
    assert texts(page, "#facts strong") == [studio.segmenter.names[labels[24, 32]]]
    assert "column 32, row 24" in texts(page, "#facts")[0]


def test_failed_features_are_reported_below_the_pixel(page: Browser, photo: Path, studio: Studio) -> None:
    assert studio.gallery is not None
    studio.gallery._features = lambda _: 1 / 0  # type: ignore[assignment, return-value]
    page.drop("#drop", photo)
    page.wait(FRAME)
    studio.gallery._thread.join()
    page.click("#canvas")
    page.wait(
        "document.querySelector('#among').textContent"
        ".endsWith('picie failed at the next one; see its terminal for the reason.')"
    )
    assert texts(page, "#among")[0].startswith("Among the first 0 of 6 pictures in ")
