"""The shipped recipes: each is what it says, and can be run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import TINY

from picie.comparing.ablation_plan import Grid, plan, variants
from picie.comparing.recipes import read_recipe, recipe_names, recipe_text
from picie.config import Config, load
from picie.errors import InputError
from picie.training import api
from picie.views.two_views import TwoViews


@pytest.mark.parametrize("name", recipe_names())
def test_every_setting_can_be_trained(name: str) -> None:
    jobs = plan(Grid(variants(name, []), 3), Path("out"), ["cluster.k=3"])
    assert len(jobs) == 3 * len(read_recipe(name)) > 3
    for job in jobs[: len(jobs) // 3]:
        TwoViews(job.config.views.invariance, job.config.views.equivariance, 0)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_opens_with_what_it_is_and_its_command(name: str) -> None:
    first, *rest = recipe_text(name).splitlines()
    assert first.startswith("# ")
    assert first.endswith(".")
    assert any(line.startswith("# command") and f"--recipe {name}" in line for line in rest)
    settings = next(line for line in rest if line.startswith("# runs"))
    assert f" {len(read_recipe(name))} settings" in settings


def test_the_halves_of_the_views() -> None:
    views = [job.config.views for job in plan(Grid(variants("invariance-equivariance", []), 1), Path("out"))]
    assert [(bool(v.invariance), bool(v.equivariance)) for v in views] == [
        (False, False),
        (True, False),
        (False, True),
        (True, True),
    ]


def test_one_colour_and_one_geometric_transform() -> None:
    full, *others = (job.config.views for job in plan(Grid(variants("one-colour-one-geometry", []), 1), Path("out")))
    assert full == Config().views
    assert [(len(v.invariance), len(v.equivariance)) for v in others] == [(1, 1)] * 4


def test_the_results_are_those_that_the_readme_tells_of() -> None:
    """The settings whose scores docs/research/reproduction.md gives, written out as they were then given to `picie train`."""
    rest = ["cluster.k=11", "train.epochs=10"]
    told = {
        "not trained": load(None, None, ["cluster.k=11", "train.epochs=0"]),
        "not trained, one start": load(None, None, ["cluster.k=11", "train.epochs=0", "cluster.refit=0"]),
        "preset reference": load("reference", None, rest),
        "preset default": load(None, None, rest),
        "mdc, default": load(None, None, [*rest, "method=mdc"]),
    }
    assert {job.setting: job.config for job in plan(Grid(variants("results", []), 1), Path("out"), rest)} == told


def test_hyperparameters_vary_one_at_a_time_around_the_default() -> None:
    default, *others = (job.config for job in plan(Grid(variants("hyperparameters", []), 1), Path("out")))
    assert default == Config()
    for config in others:
        assert (config.loss != default.loss) + (config.train != default.train) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", "it is empty"), ("seed = 3\n[a]\n", "'seed' is not in a table"), ("[a\n", "not valid TOML")],
)
def test_a_file_that_is_no_recipe_is_told(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "own.toml").write_text(text, "utf-8")
    with pytest.raises(InputError, match=expected):
        read_recipe(str(tmp_path / "own.toml"))


def test_recipes_are_listed(cli: Callable[..., tuple[int, str, str]]) -> None:
    status, out, _ = cli("list", "recipes")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == recipe_names()


def test_a_recipe_runs(labelled_folder: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    plain = [option for option in TINY if not option.startswith("train.epochs=")]
    status, out, _ = cli(
        "ablate", labelled_folder, *plain, "--epochs", 1, "--recipe", "results", "--seeds", 1, "--out", tmp_path / "out"
    )
    assert status == 0
    for name in read_recipe("results"):
        assert name in out
    assert (tmp_path / "out/not-trained-one-start/seed-0/checkpoint.pt").is_file()


def test_the_check_before_training_writes_nothing(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    api.check(tiny())
    assert list(tmp_path.iterdir()) == []
