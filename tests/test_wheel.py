"""The wheel: the package, all of it, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_the_package_alone() -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is part of picie[dev]")
    builder = wheel.WheelBuilder(str(ROOT))
    found = {file.distribution_path.replace("\\", "/") for file in builder.recurse_included_files()}
    tracked = subprocess.run(["git", "ls-files", "src/picie"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    expected = {name.removeprefix("src/") for name in tracked.splitlines()}
    assert expected <= found
    assert all(name.startswith("picie/") and "__pycache__" not in name for name in found)
    assert {"picie/py.typed", "picie/presets/default.toml"} <= found
    assert sum((ROOT / "src" / name).stat().st_size for name in expected) < 5e6
