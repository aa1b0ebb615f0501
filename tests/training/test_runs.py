"""Training from Python: the options, the run that is returned, and what is left alone."""

from __future__ import annotations

import json
import logging
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.equal_runs import assert_equal_runs

import picie
from picie import Config, Run, Segmenter, registry
from picie.config import load
from picie.errors import InputError
from picie.runtime import progress
from picie.training.keywords import config_of, default_folder

TINY: dict[str, Any] = {
    "clusters": 3,
    "epochs": 2,
    "backbone": "test_efficientnet",
    "size": 32,
    "batch_size": 2,
    "lr": 1e-4,
    "device": "cpu",
    "model": {"pretrained": False, "dim": 8},
    "cluster": {"batch_size": 4, "smooth": 0.0, "warm_start": False},
    "evaluate": {"scale": 1.0},
    "run": {"report": False},
}


def global_state() -> tuple[Any, ...]:
    numpy = np.random.get_state()  # noqa: NPY002
    return (
        random.getstate(),
        (numpy[0], numpy[1].tolist(), *numpy[2:]),
        torch.random.get_rng_state().tolist(),
        torch.get_num_threads(),
        torch.get_num_interop_threads(),
        {thread.name for thread in threading.enumerate()},
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
    )


@pytest.fixture(scope="module")
def trained_here(labelled_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[Any]]:
    """A run, and the global state before and after it."""
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(3)
    before = global_state()
    run = picie.train(labelled_folder, out=tmp_path_factory.mktemp("python") / "run", **TINY)
    return run, [before, global_state()]


def test_train_is_the_command(trained_here: tuple[Run, list[Any]], trained: Path) -> None:
    run, _ = trained_here
    assert_equal_runs(run.path, trained)


def test_training_leaves_random_state_and_threads_alone(trained_here: tuple[Run, list[Any]]) -> None:
    before, after = trained_here[1]
    assert before == after


def test_so_do_loading_and_predicting(trained_here: tuple[Run, list[Any]], labelled_folder: Path) -> None:
    before = global_state()
    segmenter = Segmenter.load(trained_here[0])
    segmenter.predict(labelled_folder / "images/val/100.jpg")
    picie.evaluate(trained_here[0])
    assert global_state() == before


def test_a_run_gives_its_parts(trained_here: tuple[Run, list[Any]]) -> None:
    run, _ = trained_here
    assert (run.path / "checkpoint.pt").is_file()
    assert run.segmenter.names[:3] == ("red", "green", "blue")
    assert run.segmenter is run.segmenter
    assert [line["epoch"] for line in run.metrics] == [1, 2]
    assert repr(run).startswith(f"Run('{run.path}'; epochs 2; loss ")
    assert "mIoU" in repr(run)
    assert "<td>2</td>" in run._repr_html_()
    assert "red" in run._repr_html_()
    assert picie.evaluate(run).n_images == 2
    assert Run(run).path == run.path


def test_changed_names_reach_the_segmenter(own_run: Path) -> None:
    from picie.naming import changes

    run = Run(own_run)
    before = run.segmenter
    changes.change(own_run, changes.Changes(names={0: ("lawn", "")}))
    assert "lawn" not in before.names
    assert "lawn" in run.segmenter.names


def test_the_report_is_written_when_it_is_asked_for(own_run: Path) -> None:
    run = Run(own_run)
    assert not (own_run / "report.html").exists()
    assert run.report == own_run / "report.html"
    assert run.report.stat().st_size > 10_000


def test_resume_trains_for_more_epochs(own_run: Path) -> None:
    assert [line["epoch"] for line in picie.resume(Run(own_run), epochs=3).metrics] == [1, 2, 3]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run"):
        Run(tmp_path / "nothing")
    with pytest.raises(InputError, match="holds no run"):
        picie.resume(tmp_path)


def test_short_names_and_sections_are_options(labelled_folder: Path) -> None:
    root = json.dumps(str(labelled_folder))
    expected = load("demo", None, ["cluster.k=5", f"data.root={root}", "views.crop=200", "seed=4", "data.include=*.jpg"])
    given = {"preset": "demo", "clusters": 5, "views": {"crop": 200}, "seed": 4, "include": "*.jpg", "epochs": None}
    assert config_of(labelled_folder, given) == expected
    assert config_of("scenes", {"cluster": {"k": 5}}) == load(None, None, ["data.name=scenes", "cluster.k=5"])


def test_a_file_of_settings_is_an_option(labelled_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[cluster]\nk = 7\n[train]\nepochs = 3\n", "utf-8")
    config = config_of(labelled_folder, {"config": tmp_path / "mine.toml", "epochs": 4})
    assert (config.cluster.k, config.train.epochs) == (7, 4)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"cluters": 3}, "cluters = 3: no such option; did you mean 'clusters'"),
        ({"clusters": 3, "cluster": {"k": 4}}, "cluster.k is given twice, as 4 and as 3"),
        ({"cluster": {"kk": 4}}, "unknown key 'cluster.kk'"),
        ({"clusters": 1}, "cluster.k = 1: "),
        ({"preset": "nope"}, "unknown preset 'nope'"),
        ({"teacher": {"momentum": 1}}, "unknown key 'teacher'"),
    ],
)
def test_wrong_options_are_refused(labelled_folder: Path, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        config_of(labelled_folder, keywords)
    assert message in str(caught.value)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder, and no dataset of that name"):
        picie.train("nowhere", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_code_that_the_caller_names_is_trusted(labelled_folder: Path) -> None:
    with registry.trust_scope():
        config_of(labelled_folder, {"backbone": "my_models:Toy", "views": {"invariance": [{"name": "my_views:Invert"}]}})
        assert registry._trusted == {"my_models:Toy", "my_views:Invert"}


def test_a_config_takes_no_other_option(tiny: Callable[..., Config], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes no other option"):
        picie.train(tiny(), out=tmp_path / "run", clusters=4)
    assert picie.train(tiny("train.epochs=0"), out=tmp_path / "run").metrics[0]["epoch"] == 0


def test_runs_get_a_folder_of_their_own(tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_folder(tiny()) == Path("runs/tiny-picie-k3-s0")
    Path("runs/tiny-picie-k3-s0").mkdir(parents=True)
    assert default_folder(tiny()) == Path("runs/tiny-picie-k3-s0-2")


@pytest.fixture
def fresh_log() -> Iterator[logging.Logger]:
    """The package's logger as in a program that has not set up logging."""
    log = logging.getLogger("picie")
    before = log.handlers[:], log.level, log.propagate
    log.handlers[:], log.propagate = [], True
    log.setLevel(logging.NOTSET)
    yield log
    log.handlers[:], log.propagate = before[0], before[2]
    log.setLevel(before[1])


def test_log_lines_are_shown(fresh_log: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown_logs():
        fresh_log.info("one")
    fresh_log.info("two")
    assert capsys.readouterr() == ("", "one\n")
    assert (fresh_log.handlers, fresh_log.level, fresh_log.propagate) == ([], logging.NOTSET, True)


def test_the_level_of_the_logger_of_tifffile_is_put_back(fresh_log: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile = logging.getLogger("tifffile")
    monkeypatch.setattr(tifffile, "level", logging.WARNING)
    with progress.shown_logs():
        assert tifffile.level == logging.CRITICAL
    assert tifffile.level == logging.WARNING


def test_a_program_may_hide_or_take_them(
    fresh_log: logging.Logger, capsys: pytest.CaptureFixture[str], told: list[str]
) -> None:
    with progress.shown_logs():  # `told` listens at INFO
        fresh_log.info("one")
    fresh_log.setLevel(logging.WARNING)
    with progress.shown_logs():
        fresh_log.info("two")
    assert told == ["one"]
    assert capsys.readouterr() == ("", "")


def test_a_notebook_shows_them_as_output(
    fresh_log: logging.Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress.console, "is_jupyter", True)
    assert not progress.console.is_terminal  # so no bars are drawn
    with progress.shown_logs():
        fresh_log.info("one")
    assert capsys.readouterr() == ("one\n", "")
