"""The page in a headless Chromium, from a dropped picture to the saved mask.

It leaves screenshots in .artifacts/app/.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.app.browser import PROGRAM, Browser, browser
from tests.app.conftest import serving

from picie import Segmenter
from picie.app.studio import Studio
from picie.data.images import open_image
from picie.display.colors import hex_to_rgb
from picie.naming.overview import segments_of

MISSING = "no Chromium on this machine: apt-get install chromium"
pytestmark = pytest.mark.skipif(PROGRAM is None and not os.environ.get("CI"), reason=MISSING)  # where CI runs, it must be there

KEPT = Path(__file__).parents[2] / ".artifacts" / "app"


def shows(name: str) -> str:
    """A JavaScript expression: the page shows this picture."""
    return f"document.querySelector('#caption').textContent.startsWith('{name} · ') && document.querySelector('#busy').hidden"


@pytest.fixture(scope="module")
def _browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None, MISSING
    with browser(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture
def page(_browser: Browser, served: str) -> Browser:
    """The page, on the first picture."""
    _browser.leave()
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


def downloaded(folder: Path, name: str) -> Path:
    end = time.monotonic() + 30
    while not (folder / name).is_file():
        assert time.monotonic() < end, f"{name} was not saved: {list(folder.iterdir())}"
        time.sleep(0.02)
    return folder / name


def saved(folder: Path, name: str) -> Image.Image:
    return Image.open(downloaded(folder, name))


def test_from_a_dropped_picture_to_the_saved_mask(page: Browser, photo: Path, own_run: Path, tmp_path: Path) -> None:
    segmenter = Segmenter.load(own_run, "cpu")
    labels = segmenter.predict(photo)
    assert len(np.unique(labels)) > 1

    page.drop("#drop", photo)
    page.wait(shows(photo.name))
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
    page.run("document.querySelector('#legend form input[type=color]').value = '#123456'")
    page.click("#legend form .primary")
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
    page.click("#names")
    page.click("#overlay")
    np.testing.assert_array_equal(np.asarray(saved(tmp_path, "100_overlay.png").convert("RGB")), canvas(page))
    page.click("#names")

    page.run("document.querySelector('#opacity').focus(), document.querySelector('#opacity').value = 55, 0")
    page.press("ArrowRight")
    page.screenshot(KEPT / "wide-light.png")
    page.shape(420, 900, dark=True)
    page.screenshot(KEPT / "narrow-dark.png")
    assert page.run("document.documentElement.scrollWidth") == 420
    assert page.complaints == []


def test_a_taken_name_offers_a_merge_and_undo_takes_it_back(page: Browser, own_run: Path) -> None:
    before = segments_of(own_run)
    assert page.run("document.querySelector('#undo').disabled")
    page.click("#legend li[data-value='1'] .edit")
    page.type(before.names[0])
    page.press("Enter")
    page.wait("!document.querySelector('#legend form .wrong').hidden")
    assert texts(page, "#legend form .wrong")[0].startswith(f"Another segment has the name {before.names[0]}. ")
    assert segments_of(own_run) == before
    page.press("Enter")  # the offered button has the focus
    page.wait(f"document.querySelectorAll('#legend li, #absent li').length === {len(before) - 1}")
    assert segments_of(own_run).names == tuple(name for value, name in enumerate(before.names) if value != 1)
    page.click("#undo")
    page.wait("document.querySelector('#undo').disabled && document.querySelector('#busy').hidden")
    assert segments_of(own_run) == before


def test_ticked_segments_are_merged_and_a_segment_is_split(page: Browser, own_run: Path, images: Path) -> None:
    before = segments_of(own_run)
    pair = [value for value, clusters in enumerate(before.members()) if clusters][:2]
    for value in pair:
        page.run(f"document.querySelector('li[data-value=\"{value}\"] .tick').click()")
    page.click("#merged")
    page.run("document.querySelector('#merged').value = ''")
    page.type("thing")
    page.click("#merge .primary")
    page.wait("document.querySelector('#merge').hidden && document.querySelector('#busy').hidden")
    merged = before.merged([(pair, "thing", "")])
    assert segments_of(own_run) == merged
    page.run(f"document.querySelector('li[data-value=\"{min(pair)}\"] .edit').click()")
    page.run("document.querySelector('aside li form .split').click()")
    page.wait("[...document.querySelectorAll('aside .name')].some(e => e.textContent === 'thing.2')")
    page.wait("document.querySelector('#busy').hidden")
    segmenter = Segmenter.load(own_run, "cpu")
    assert segmenter.names == (*["thing.1" if name == "thing" else name for name in merged.names], "thing.2")
    page.click("#outlines")
    np.testing.assert_allclose(canvas(page), blended(segmenter, images / "000.jpg", 0.55), atol=1)
    page.wait("document.querySelectorAll('#legend .crops img').length >= 3")
    assert page.run("Promise.all([...document.querySelectorAll('.crops img')].map(i => i.decode())).then(() => true)")
    page.click("#recluster")
    page.run("document.querySelector('#k').value = 5")
    page.click("#clusters .primary")
    page.wait("document.querySelector('#clusters').hidden && document.querySelector('#busy').hidden")
    assert segments_of(own_run).names == tuple(f"cluster {i}" for i in range(5))


def test_keys_choose_pictures_and_show_them_closer(page: Browser, studio: Studio, images: Path) -> None:
    assert texts(page, "#caption")[0].startswith("000.jpg · ")
    page.key("n")
    page.wait(shows("001.jpg"))
    page.key("p")
    page.wait(shows("000.jpg"))
    width = page.run("document.querySelector('#canvas').getBoundingClientRect().width")
    page.key("+")
    assert page.run("document.querySelector('#canvas').getBoundingClientRect().width") == pytest.approx(1.5 * width, rel=0.01)
    assert texts(page, "#fit") == ["150 %"]
    page.key("0")
    page.key("b")
    page.key("c")
    page.wait("!document.querySelector('#scale').hidden && !document.querySelector('#photo').hidden")
    shown = canvas(page)
    page.run("document.querySelector('#outlines').click()")
    path = "document.querySelector('#mask').href.replace('mask.png', 'confidence')"
    margins = page.run(f"fetch({path}).then(a => a.arrayBuffer()).then(b => [...new Uint8Array(b)])")
    darkest, lightest = (np.unravel_index(f(margins), (48, 64)) for f in (np.argmin, np.argmax))
    scale = canvas(page).astype(int) - 0.45 * np.asarray(open_image(images / "000.jpg"))
    assert scale[lightest][:2].sum() > scale[darkest][:2].sum()
    assert (shown != canvas(page)).any()
    assert studio.gallery is not None
    studio.gallery._thread.join()
    value = studio.segments()[0]["name"]
    page.run("document.querySelector('#filter').value = '0', document.querySelector('#filter').onchange()")
    expected = [studio.gallery.images.name(index) for index, _ in studio.pictures_with(0)]
    assert expected
    page.wait(f"document.querySelectorAll('#gallery [data-index]').length === {len(expected)}")
    titles = page.run("[...document.querySelectorAll('#gallery [data-index]')].map(e => e.title)")
    assert [title.split(":")[0] for title in titles] == expected
    assert f"with {value}" in texts(page, "#filter option")
    assert page.complaints == []


def test_the_page_leaves_out_broken_files(_browser: Browser, own_run: Path, images: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(images, tmp_path / "pictures"))
    (folder / "000.jpg").write_bytes(b"broken")
    (folder / "003.jpg").write_bytes(b"broken")
    studio = Studio(own_run, folder, "cpu")
    with serving(studio) as url:
        _browser.shape(1280, 900)
        _browser.open(url)
        _browser.wait(shows("001.jpg"))
        _browser.wait("document.querySelectorAll('#gallery [data-index]').length === 4")
        _browser.wait("document.querySelector('#unreadable').textContent === '2 files cannot be read'")
        assert _browser.run("document.querySelector('#problem').hidden")


def test_an_error_is_shown_and_the_last_picture_stays(page: Browser, photo: Path, tmp_path: Path) -> None:
    page.drop("#drop", photo)
    page.wait(shows(photo.name))
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
    page.wait(shows("003.jpg"))
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


def test_failed_features_are_reported_below_the_pixel(_browser: Browser, studio: Studio, served: str) -> None:
    assert studio.gallery is not None
    studio.gallery._features = lambda _: 1 / 0  # type: ignore[assignment, return-value]
    _browser.open(served)
    studio.gallery._thread.join()
    _browser.click("#canvas")
    _browser.wait(
        "document.querySelector('#among').textContent"
        ".endsWith('picie failed at the next one; see its terminal for the reason.')"
    )
    assert texts(_browser, "#among")[0].startswith("Among 0 of 6 pictures in ")


def test_clicks_teach_classes_and_all_pictures_are_exported(
    page: Browser, own_run: Path, studio: Studio, tmp_path: Path
) -> None:
    assert studio.gallery is not None
    before = segments_of(own_run)
    studio.gallery._thread.join()
    for name, down in (("above", 0.05), ("below", 0.9)):
        page.click("#canvas", 0.9, down)
        page.wait("!document.querySelector('#pixel').hidden && document.querySelector('#facts').textContent")
        page.click("#class")
        page.run("document.querySelector('#class').value = ''")
        page.type(name)
        page.press("Enter")
        page.wait(f"document.querySelector('#clicks').textContent.includes('{name}: 1 click')")
    page.click("#apply")
    page.wait("document.querySelector('#busy').hidden && !document.querySelector('#undo').disabled")
    assert segments_of(own_run).names == ("above", "below")
    assert texts(page, "#unteachable") == [""]
    page.save_downloads(tmp_path)
    page.click("#export button")
    with zipfile.ZipFile(downloaded(tmp_path, "masks.zip")) as archive:
        assert {"000.png", "005.png", "predictions.json"} <= set(archive.namelist())
    page.click("#undo")
    page.wait("document.querySelector('#undo').disabled && document.querySelector('#busy').hidden")
    assert segments_of(own_run) == before
    assert page.complaints == []


def test_more_pictures_are_listed_as_they_are_needed(
    _browser: Browser, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("picie.app.server._MAX_LISTED", 2)
    with serving(studio) as url:
        _browser.open(url)
        _browser.wait(shows("000.jpg"))
        for name, listed in (("001.jpg", 2), ("002.jpg", 4)):
            _browser.key("n")
            _browser.wait(shows(name))
            assert _browser.run("document.querySelectorAll('#gallery [data-index]').length") == listed
        _browser.click("#gallery .more")
        _browser.wait("document.querySelectorAll('#gallery [data-index]').length === 6")
        assert _browser.run("document.querySelectorAll('#gallery li').length") == 6  # nothing is left to list
