"""The Python examples of the guide run as written."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import picture

import picie
from picie.training import runs

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs/guides/python.md"
# Options of a network of a second; the guide uses the defaults.
TINY = {"backbone": "test_efficientnet", "model": {"pretrained": False}, "device": "cpu", "run": {"report": False}}


def blocks(page: Path = GUIDE) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def write_photos(folder: Path, size: tuple[int, int] = (160, 128)) -> None:
    folder.mkdir()
    for seed, name in enumerate(("a", "b", "c")):
        Image.fromarray(picture(seed, size)[0]).save(folder / f"{name}.jpg")


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos")
    train = runs.train
    monkeypatch.setattr(runs, "train", lambda data, **options: train(data, **{**TINY, **options}))
    names: dict[str, object] = {}
    executed = [block for block in blocks() if not block.startswith("# not run here")]
    for block in executed:
        exec(compile(block, str(GUIDE), "exec"), names)
    assert len(executed) == len(blocks()) - 2
    labels, probabilities = names["labels"], names["probabilities"]
    assert isinstance(labels, np.ndarray)
    assert isinstance(probabilities, np.ndarray)
    assert labels.shape == (128, 160)
    assert probabilities.shape == (6, 128, 160)
    assert len(names["maps"]) == 3  # type: ignore[arg-type]
    assert Image.open("a_overlay.jpg").size == (160, 128)
    assert np.array_equal(names["same"].predict("photos/a.jpg"), labels)  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", ["README.md", "docs/getting-started.md"])
def test_the_first_lines_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos")
    shutil.copy("photos/a.jpg", "photo.jpg")
    train = runs.train
    monkeypatch.setattr(runs, "train", lambda data, **options: train(data, **{**options, **TINY, "epochs": 0}))
    (block,) = blocks(ROOT / page)
    names: dict[str, object] = {}
    exec(compile(block, page, "exec"), names)
    assert names["labels"].shape == (128, 160)  # type: ignore[attr-defined]


def test_what_is_not_run_uses_what_exists() -> None:
    for block in blocks():
        compile(block, str(GUIDE), "exec")
        for name in re.findall(r"picie\.(\w+)", block):
            assert name in picie.__all__, name
        for name in re.findall(r"segmenter\.(\w+)", block):
            assert hasattr(picie.Segmenter, name) or name == "names", name


def test_the_headline_runs_at_the_default_size(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", (640, 480))
    run = picie.train(tmp_path / "photos", clusters=6, epochs=1, out=tmp_path / "run", run={"report": False})
    assert run.segmenter.predict(tmp_path / "photos/a.jpg").shape == (480, 640)
