"""Pillow as picie uses it: any number of pixels, and no setting of Pillow or Python that stays changed."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from picie.data.formats import open_with_pillow

STATE = """
import logging, warnings
import numpy  # sets filters of its own
from PIL import Image
def state():
    loggers = logging.getLogger("tifffile").level, logging.root.level, len(logging.root.handlers)
    return Image.MAX_IMAGE_PIXELS, [entry[:4] for entry in warnings.filters], loggers
before = state()
import picie.data.images
assert state() == before, (before, state())
"""


def test_importing_the_package_changes_no_global_state() -> None:
    done = subprocess.run([sys.executable, "-W", "default", "-c", STATE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_limit_of_pillow_is_suspended_for_picie_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)

    def size(source: Path | None) -> tuple[int, int]:
        with open_with_pillow(source or io.BytesIO(data)) as image:
            return image.size

    with ThreadPoolExecutor(4) as pool, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(pool.map(size, [tmp_path / "x.png", None] * 100)) == {(30, 30)}
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "x.png")
    with pytest.raises(OSError, match="identify"):
        open_with_pillow(io.BytesIO(b"x"))
    assert Image.MAX_IMAGE_PIXELS == 100
