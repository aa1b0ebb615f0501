"""`picie compare`, on runs' records written by hand."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scipy import stats

from picie.comparing.comparison import Comparison, compare
from picie.comparing.comparison_view import _line_colors, save_plot
from picie.config import load, to_toml
from picie.errors import InputError
from picie.training import api

Write = Callable[..., Path]
PROTOCOL = "val; centre square of 160 px"
LOW, HIGH = (60.0, 61.0, 62.5), (70.0, 71.5, 69.0)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write("name", "section.key=value", ..., seed=0, accuracy=60.0): the folder of a run's records."""

    def make(
        name: str,
        *options: str,
        seed: int = 0,
        accuracy: float | None = None,
        protocol: str = PROTOCOL,
        status: str = "finished",
        epochs: int = 2,
        digest: str | None = None,
        version: str = "1",
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        config = load(None, None, [f"train.epochs={epochs}", 'data.root="/data"', *options, f"seed={seed}"])
        (folder / "config.toml").write_text(to_toml(config), "utf-8")
        record = {"status": status, "versions": {"picie": version}} | ({"digest": digest} if digest else {})
        (folder / "run.json").write_text(json.dumps(record), "utf-8")
        scored = {} if accuracy is None else {"accuracy": accuracy, "miou": accuracy / 2, "protocol": protocol}
        lines = [
            {
                "epoch": n,
                "loss": 1 / n,
                "inertia": [0.2, 0.4],
                "imbalance": [2.0, 3.0],
                **scored,
                "seconds": {"train": 2.0 * n},
            }
            for n in range(1, epochs + 1)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        return folder

    return make


@pytest.fixture
def seeds(write: Write) -> Callable[..., list[Path]]:
    """seeds("name", values, ...): a run of each value, in name/seed-N."""

    def make(name: str, values: Sequence[float | None], *options: str, **more: Any) -> list[Path]:
        return [write(f"{name}/seed-{s}", *options, seed=s, accuracy=value, **more) for s, value in enumerate(values)]

    return make


def words(found: Comparison) -> list[str]:
    return [verdict.words for verdict in found.verdicts]


def test_runs_that_differ_in_seed_and_machine_are_one_setting(write: Write) -> None:
    runs = [
        write("run-s0", seed=0, accuracy=60.0, digest="a"),
        write("run-s1", "run.workers=3", "evaluate.every=0", seed=1, accuracy=62.0, digest="a"),
        write("run-s2", 'data.root="/moved"', seed=2, accuracy=64.0, digest="a"),
    ]
    found = compare(runs)
    (group,) = found.groups
    assert (group.name, len(group.runs), found.differs) == ("run", 3, {})
    spread = group.spread("accuracy")
    assert (spread.values, spread.mean, spread.deviation) == ((60.0, 62.0, 64.0), 62.0, 2.0)
    assert group.spread("inertia").mean == pytest.approx(0.3)
    assert group.seconds == 3.0
    assert found.notes == ["there is only one setting, so nothing is compared"]


def test_what_differs_is_told_by_option_and_setting(seeds: Callable[..., list[Path]]) -> None:
    runs = seeds("plain", LOW) + seeds("hot", HIGH, "loss.temperature=1.0", "views.invariance=blur")
    found = compare(runs)
    assert [g.name for g in found.groups] == ["plain", "hot"]
    assert list(found.differs) == ["views.invariance", "loss.temperature"]
    assert found.differs["loss.temperature"] == [0.3, 1.0]
    assert found.differs["views.invariance"][1] == [{"name": "blur"}]


def test_the_verdict_is_welchs(seeds: Callable[..., list[Path]]) -> None:
    found = compare(seeds("low", LOW) + seeds("high", HIGH, "train.lr=1e-3"))
    accuracy, miou = found.verdicts
    expected = stats.ttest_ind(HIGH, LOW, equal_var=False)
    assert accuracy.difference is not None
    assert accuracy.difference.p == pytest.approx(expected.pvalue)
    assert accuracy.difference.mean == pytest.approx(statistics.mean(HIGH) - statistics.mean(LOW))
    assert (accuracy.score, accuracy.first, accuracy.second, accuracy.words) == ("accuracy", "low", "high", "significant")
    assert miou.difference is not None
    assert miou.difference.mean == pytest.approx(accuracy.difference.mean / 2)


def test_a_difference_within_the_spread_of_seeds_is_not_significant(seeds: Callable[..., list[Path]]) -> None:
    found = compare(seeds("a", LOW) + seeds("b", (61.0, 62.0, 63.0), "train.lr=1e-3"))
    assert words(found) == ["not significant", "not significant"]


def test_more_pairs_ask_for_more_unless_one_is_the_reference(seeds: Callable[..., list[Path]]) -> None:
    runs = [r for i, v in enumerate((LOW, HIGH, LOW, LOW)) for r in seeds(f"set{i}", v, f"train.lr={i + 1}e-4")]
    every, against = compare(runs), compare(runs, against="set1")
    assert len(every.verdicts) == 2 * 6
    assert [(v.first, v.second) for v in against.verdicts[:3]] == [("set1", "set0"), ("set1", "set2"), ("set1", "set3")]
    same = next(v for v in every.verdicts if {v.first, v.second} == {"set0", "set1"}).difference
    fewer = against.verdicts[0].difference
    assert same is not None
    assert fewer is not None
    assert same.p == pytest.approx(fewer.p)
    assert same.corrected == pytest.approx(6 * same.p)
    assert fewer.corrected == pytest.approx(3 * fewer.p)
    with pytest.raises(InputError, match="--against: no setting 'set9'"):
        compare(runs, against="set9")


def test_one_seed_each_gives_no_verdict(write: Write) -> None:
    found = compare([write("a", accuracy=50.0), write("b", "train.lr=1e-3", accuracy=70.0)])
    assert words(found) == ["not tested: each setting has only one seed, and seeds differ by 1-3 points of accuracy"] * 2
    assert all(verdict.difference is None for verdict in found.verdicts)


def test_scores_under_different_protocols_get_no_verdict(seeds: Callable[..., list[Path]]) -> None:
    found = compare(seeds("a", LOW) + seeds("b", HIGH, "evaluate.size=320", protocol="val; centre square of 320 px"))
    assert words(found) == ["not comparable: different protocols"] * 2
    assert any("different protocols are not comparable" in note and "320 px" in note for note in found.notes)


@pytest.mark.parametrize(("ours", "theirs"), [({"digest": "x"}, {"digest": "y"}), ({}, {})])
def test_scores_of_other_images_get_no_verdict(seeds: Callable[..., list[Path]], ours: Any, theirs: Any) -> None:
    found = compare(seeds("a", LOW, **ours) + seeds("b", HIGH, 'data.root="/other"', **theirs))
    assert words(found) == ["not comparable: different images"] * 2
    assert "the runs were not all trained on the same images: their scores are not comparable" in found.notes


def test_the_same_images_elsewhere_are_the_same(seeds: Callable[..., list[Path]]) -> None:
    found = compare(seeds("a", LOW, digest="x") + seeds("b", HIGH, 'data.root="/b"', "train.lr=1e-3", digest="x"))
    assert words(found)[0] == "significant"
    frames = compare(seeds("c", LOW, digest="x") + seeds("d", HIGH, "views.crop=400", digest="y"))
    assert words(frames)[0] == "significant"  # other frames of one folder have another digest


def test_unfinished_runs_and_repeated_seeds_do_not_count(seeds: Callable[..., list[Path]], write: Write) -> None:
    runs = seeds("a", LOW)
    stopped = write("a/seed-7", seed=7, accuracy=10.0, status="stopped")
    again = write("again", seed=1, accuracy=99.0)
    (group,) = compare([*runs, stopped, again]).groups
    assert group.spread("accuracy").values == LOW
    notes = compare([*runs, stopped, again]).notes
    assert f"not counted, unfinished: {stopped} (stopped, 2 of 2 epochs)" in notes
    assert f"not counted, another run has seed 1: {again}" in notes


def test_epochs_are_those_that_a_run_has(write: Write) -> None:
    short, longer = write("short", accuracy=60.0), write("longer", accuracy=65.0, epochs=3)
    text = (longer / "config.toml").read_text("utf-8")
    (longer / "config.toml").write_text(text.replace("epochs = 3", "epochs = 2"), "utf-8")  # gone on with by --epochs 3
    found = compare([short, longer])
    assert found.differs == {"train.epochs": [2, 3]}
    assert "different numbers of epochs: short 2, longer 3" in found.notes


def test_versions_that_differ_are_told(write: Write) -> None:
    runs = [write("a", accuracy=1.0), write("b", "train.lr=1", accuracy=2.0, version="2")]
    assert "trained by different versions of picie: 1, 2" in compare(runs).notes


def test_runs_without_labels_have_losses_and_no_verdict(
    seeds: Callable[..., list[Path]], cli: Callable[..., tuple[int, str, str]]
) -> None:
    runs = seeds("a", (None, None)) + seeds("b", (None, None), "train.lr=1e-3")
    found = compare(runs)
    assert found.verdicts == []
    assert found.notes[-1].startswith("no scores, because the runs have no labels")
    status, out, _ = cli("compare", *runs)
    assert status == 0
    for text in ("loss", "inertia", "imbalance", "0.3000 ± 0.0000", "2.5000", "no scores"):
        assert text in out
    assert "accuracy" not in out


def test_the_command_shows_and_writes_it_all(
    seeds: Callable[..., list[Path]], tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    seeds("all/low", LOW)
    seeds("all/high", HIGH, "train.lr=1e-3")
    plot, file = tmp_path / "plot.png", tmp_path / "all.json"
    status, out, _ = cli("compare", tmp_path / "all", "--out", plot, "--json", file)
    assert status == 0
    told = (
        "train.lr",
        "3e-05",
        "0.001",
        "61.2 ± 1.3 (60.0, 61.0, 62.5)",
        "low minus high",
        "significant",
        PROTOCOL,
        str(plot),
    )
    for text in told:
        assert text in out
    content = json.loads(file.read_text("utf-8"))
    low = next(group for group in content["groups"] if group["name"] == "low")
    assert low["accuracy"] == {"mean": pytest.approx(61.1667, abs=1e-4), "deviation": pytest.approx(1.2583, abs=1e-4)} | {
        "values": list(LOW)
    }
    assert (low["seeds"], low["protocols"]) == ([0, 1, 2], [PROTOCOL])
    assert content["verdicts"][0]["significant"] is True
    assert 0 < content["verdicts"][0]["p"] < 0.05
    assert Image.open(plot).size[0] >= 1000


@pytest.mark.parametrize("labelled", [True, False])
def test_the_plot_draws_every_setting(seeds: Callable[..., list[Path]], write: Write, tmp_path: Path, labelled: bool) -> None:
    values = LOW if labelled else (None, None, None)
    runs = [*seeds("trained", values), write("start", accuracy=40.0 if labelled else None, epochs=1)]
    line = json.loads((runs[-1] / "metrics.jsonl").read_text("utf-8"))
    (runs[-1] / "metrics.jsonl").write_text(json.dumps(line | {"epoch": 0}) + "\n", "utf-8")
    save_plot(compare(runs), tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text("utf-8")
    for text in ("trained (n = 3)", "start (n = 1), 0 epochs", "mIoU %" if labelled else "inertia"):
        assert f"<!-- {text} -->" in drawn


def test_lines_have_colours_of_their_own() -> None:
    for n in (1, 8, 30):
        assert len(set(_line_colors(n))) == n


def test_a_run_of_the_trainer_can_be_compared(trained: Path, tiny: Callable[..., Any], tmp_path: Path) -> None:
    other = api.train(tiny("seed=1", "train.epochs=1"), tmp_path / "other")
    found = compare([trained, other])
    assert found.differs == {"train.epochs": [2, 1]}
    assert [math.isfinite(g.spread("miou").values[0]) for g in found.groups] == [True, True]
    assert not any("images" in note for note in found.notes)


def test_mistakes_are_one_line(write: Write, tmp_path: Path, refused: Callable[..., str]) -> None:
    run = write("run", accuracy=1.0)
    (tmp_path / "empty").mkdir()
    for arguments, expected in (
        ([tmp_path / "empty"], "contains no run"),
        ([tmp_path / "nowhere"], "contains no run"),
        ([run, "--out", tmp_path / "plot.html"], ".svg"),
        ([run, "--out", tmp_path / "no" / "plot.png"], "no such folder"),
        ([run, "--json", tmp_path / "no" / "all.json"], "no such folder"),
        ([run, "--against", "rum"], "did you mean 'run'?"),
    ):
        assert expected in refused("compare", *arguments)
    (run / "run.json").write_text("{", "utf-8")
    assert "run.json: is damaged" in refused("compare", run)
    (run / "config.toml").write_text("[clustr]\n", "utf-8")
    assert str(run / "config.toml") in refused("compare", run)
