"""The documentation as a site: it builds without a warning, and its reference agrees with the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from picie import registry
from picie.config import all_sections, preset_names

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_every_page_is_in_the_navigation(site: Path) -> None:
    start = (site / "index.html").read_text("utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix(".html")
        assert f'href="{name}"' in start or name == Path("index.html"), name


def test_the_reference_names_every_command_and_option(site: Path) -> None:
    commands, options = ((site / f"reference/{name}.html").read_text("utf-8") for name in ("commands", "options"))
    for command in ("train", "evaluate", "predict", "data download", "clusters suggest-k"):
        assert f"Usage: picie {command}" in commands, command
    for name, section in all_sections().items():
        for key in section.model_fields:
            assert f"<code>{name}.{key}</code>" in options
    for name in (*registry.INVARIANCE, *registry.EQUIVARIANCE):
        assert f"<code>{name}</code>" in options
    for name in preset_names():
        assert f'id="{name}"' in options


def test_the_api_page_holds_the_public_names_and_their_text(site: Path) -> None:
    import picie

    page = (site / "reference/api.html").read_text("utf-8")
    for name in set(picie.__all__) - {"__version__"}:
        assert re.search(rf'id="picie\.[\w.]*\b{name}"', page), name
    assert "Args:" not in page  # docstrings are parsed, not printed


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img)\b[^>]*>", page.read_text("utf-8")):
            if "canonical" not in tag:
                assert not re.search(r'(?:src|href)="(?:https?:)?//', tag), tag
