"""The command line: what works, and the one line that whatever does not work ends with."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import NAMES, TINY, UNTRAINED
from tests.forked import forked, picie

from picie import Segmenter, registry
from picie.cli.main import main
from picie.config import Config, all_sections, preset_names
from picie.models.catalogue import KNOWN
from picie.runtime import checkpoint
from picie.training.trainer import Trainer
from picie.version import __version__

Call = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]


def test_train_evaluate_predict(cli: Call, labelled_folder: Path, tmp_path: Path) -> None:
    run, scores, out = tmp_path / "run", tmp_path / "scores.json", tmp_path / "out"
    status, stdout, stderr = cli("train", labelled_folder, "--out", run, *TINY)
    assert (status, stdout) == (0, f"{run}\n")
    assert re.search(r"epoch 2/2 .*mIoU", stderr)

    status, stdout, _ = cli("evaluate", run, "--json", scores, "--baselines")
    assert status == 0
    result = json.loads(scores.read_text("utf-8"))
    assert {"accuracy", "miou", "per_class", "protocol", "n_images"} <= set(result)
    assert result["n_images"] == 2
    assert 1 < result["miou"] <= result["accuracy"] <= 100  # percent
    assert [row["name"] for row in result["per_class"]] == list(NAMES)
    assert set(result["per_class"][0]) == {"name", "iou", "accuracy", "pixels", "cluster", "clusters"}
    assert result["miou"] == pytest.approx(np.mean([row["iou"] for row in result["per_class"]]), abs=1e-3)
    assert result["protocol"].startswith("val; centre square of 32 px; K = 3, 3 classes; one-to-one Hungarian")
    assert result["baselines"]["k-means on colour"]["miou"] > 80  # the tiny pictures are told apart by colour
    for text in (*NAMES, "IoU %", f"mIoU {result['miou']:.1f}", "protocol: val;", "k-means on colour"):
        assert text in stdout

    status, stdout, _ = cli("predict", run, labelled_folder / "images", "--out", out)
    assert (status, stdout) == (0, f"8 images -> {out}\n")
    assert len(list(out.rglob("*_overlay.jpg"))) == 8


@pytest.mark.parametrize("classifier", ["linear", "centroids"])
def test_mdc_runs(cli: Call, labelled_folder: Path, tmp_path: Path, classifier: str) -> None:
    run = tmp_path / "run"
    status, _, _ = cli("train", labelled_folder, "--method", "mdc", "--out", run, *TINY, f"mdc.classifier={classifier}")
    assert status == 0
    assert np.load(run / "pseudo_labels.npy").shape[0] == 1
    assert cli("evaluate", run)[0] == 0
    assert cli("predict", run, labelled_folder / "images" / "val", "--out", tmp_path / "out")[0] == 0


def test_picie_with_an_over_clustering_head(cli: Call, labelled_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    status, _, stderr = cli("train", labelled_folder, "--out", run, *TINY, "cluster.over_k=12")
    assert status == 0, stderr
    assert all(name in stderr for name in (" within ", " cross ", " over_within ", " over_cross "))
    assert cli("evaluate", run, "--split", "val", "--json", tmp_path / "scores.json")[0] == 0
    assert cli("predict", run, labelled_folder / "images" / "val", "--out", tmp_path / "out")[0] == 0
    assert Segmenter.load(run).k == 3  # what predicts is the first head
    status, _, stderr = cli("train", "--resume", run, "train.epochs=3")
    assert status == 0, stderr


def test_flags_are_options(cli: Call, labelled_folder: Path, tmp_path: Path) -> None:
    rest = [o for o in TINY if not o.startswith(("cluster.k=", "train.", "views.size=", "model.backbone=", "run.device="))]
    flags = (
        "-k",
        4,
        "--epochs",
        0,
        "--seed",
        7,
        "--size",
        40,
        "--batch-size",
        3,
        "--backbone",
        "test_resnet",
        "--method",
        "mdc",
        "--lr",
        0.003,
        "--device",
        "cpu",
        "--workers",
        2,
    )
    assert cli("train", labelled_folder, "--out", tmp_path / "run", *flags, *rest)[0] == 0
    config = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["config"]
    assert (config["cluster"]["k"], config["train"]["epochs"], config["seed"]) == (4, 0, 7)
    assert (config["views"]["size"], config["views"]["crop"], config["train"]["batch_size"]) == (40, None, 3)
    assert (config["model"]["backbone"], config["method"]) == ("test_resnet", "mdc")
    assert (config["train"]["lr"], config["run"]["device"], config["run"]["workers"]) == (0.003, "cpu", 2)


def test_the_default_number_of_clusters_is_said(cli: Call, labelled_folder: Path, tmp_path: Path) -> None:
    rest = [option for option in UNTRAINED if not option.startswith("cluster.k=")]
    line = "K = 27 clusters, the default; to choose K, use -k or picie clusters suggest-k"
    _, _, err = cli("train", labelled_folder, *rest, "--out", tmp_path / "default")
    assert err.splitlines().count(line) == 1
    for number, options in enumerate((["-k", "3"], ["cluster.k=27"], ["--preset", "demo"])):
        _, _, err = cli("train", labelled_folder, *rest, *options, "--out", tmp_path / f"{number}")
        assert "the default" not in err


def test_the_default_folder_is_a_new_one(
    cli: Call, labelled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for expected in ("runs/tiny-picie-k3-s0", "runs/tiny-picie-k3-s0-2"):
        status, stdout, _ = cli("train", labelled_folder, *UNTRAINED)
        assert (status, stdout) == (0, f"{expected}\n")


def test_names_with_spaces_and_signs_are_taken_as_they_are(cli: Call, labelled_folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a b" / 'é漢😀 "x" \\ = 3'
    odd.mkdir(parents=True)
    Image.open(labelled_folder / "images/train/000.jpg").save(odd / "photo é 😀.JPG")
    status, _, stderr = cli("train", odd, "--out", tmp_path / "run", *UNTRAINED)
    assert status == 0, stderr
    assert cli("predict", tmp_path / "run", odd, "--out", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "photo é 😀.png").is_file()


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("--k=3", "write -k K or --clusters K"),
        ("--cluster.over_k=30", "write cluster.over_k=VALUE"),
        ("--temperature=1", "write loss.temperature=VALUE"),
        ("other/", "put several folders of images into one"),
    ],
)
def test_a_wrong_option_is_answered_by_the_right_one(cli: Call, labelled_folder: Path, given: str, advice: str) -> None:
    status, _, stderr = cli("train", labelled_folder, given)
    assert status == 2
    assert advice in stderr
    assert stderr.count("\n") == 1


def test_an_unreadable_image_is_skipped_with_a_warning(cli: Call, own_folder: Path, tmp_path: Path) -> None:
    (own_folder / "images" / "train" / "broken one.jpg").write_bytes(b"x")
    status, _, stderr = cli("train", own_folder, "--out", tmp_path / "run", *UNTRAINED)
    assert status == 0
    (warning,) = [line for line in stderr.splitlines() if "warning" in line]
    assert warning.startswith("picie: warning: skipped: ")
    assert "broken one.jpg" in warning
    assert json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))["skipped_images"] == 1


def test_quiet_says_nothing_but_the_result(cli: Call, labelled_folder: Path, tmp_path: Path) -> None:
    status, stdout, stderr = cli("--quiet", "train", labelled_folder, "--out", tmp_path / "run", *UNTRAINED)
    assert (status, stdout, stderr) == (0, f"{tmp_path / 'run'}\n", "")


def test_help_explains_every_option(cli: Call) -> None:
    status, stdout, _ = cli("train", "--help")
    assert status == 0
    sections = all_sections()
    options = {key: field for key, field in Config.model_fields.items() if key not in sections}
    options |= {f"{name}.{key}": field for name, section in sections.items() for key, field in section.model_fields.items()}
    assert "mdc.lr" in options
    for key, option in options.items():
        line = next((line for line in stdout.splitlines() if re.match(rf"\s+{re.escape(key)}\s", line)), None)
        assert line is not None, key
        assert str(option.description) in line
    for flag in ("--preset", "--config", "--out", "--clusters", "-k", "--epochs", "--seed", "--method", "--backbone", "--size"):
        assert flag in stdout
    for flag in ("--batch-size", "--resume"):
        assert flag in stdout


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((), ["train", "evaluate", "predict", "report", "demo", "list", "--version", "--quiet"]),
        (
            ("evaluate",),
            ["RUN", "--data", "--split", "--matching", "--json", "--baselines", "--probes", "--bootstrap", "--device"],
        ),
        (
            ("score",),
            ["PRED_DIR", "LABEL_DIR", "--classes", "--matching", "--label-suffix", "--unpredicted", "--json", "--bootstrap"],
        ),
        (("predict",), ["RUN", "PATH", "--out", "--device"]),
        (("report",), ["RUN", "--out", "--data", "--device"]),
        (("demo",), ["--out", "--seed"]),
        (("list",), ["datasets", "backbones", "transforms", "methods", "presets"]),
    ],
)
def test_help_of_each_command(cli: Call, command: tuple[str, ...], words: list[str]) -> None:
    for flag in ("--help", "-h"):
        status, stdout, stderr = cli(*command, flag)
        assert (status, stderr) == (0, "")
        for word in words:
            assert word.lower() in stdout.lower()


def test_version_and_no_command(cli: Call) -> None:
    assert cli("--version") == (0, f"picie {__version__}\n", "")
    status, stdout, _ = cli()
    assert status == 0
    assert "Usage: picie" in stdout


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("datasets", list(registry.DATASETS)),
        ("methods", list(registry.METHODS)),
        ("backbones", list(KNOWN)),
        ("transforms", [*registry.INVARIANCE, *registry.EQUIVARIANCE]),
        ("losses", list(registry.LOSSES)),
        ("presets", preset_names()),
    ],
)
def test_list_names_all(cli: Call, what: str, names: list[str]) -> None:
    status, stdout, _ = cli("list", what)
    assert status == 0
    first_words = {re.split(r"[\s(]", line)[0] for line in stdout.splitlines()}
    assert set(names) <= first_words


def test_python_m_picie_and_no_heavy_import_for_help() -> None:
    script = "import sys; from picie.cli.main import main; main(['train', '--help']); assert 'torch' not in sys.modules"
    for command in (["-m", "picie", "--version"], ["-c", script]):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "picie" in done.stdout


def test_a_process_ends_with_status_2_and_one_line(tmp_path: Path) -> None:
    with forked(tmp_path, picie, ["train", "nowhere/at/all", "--out", str(tmp_path / "run")]) as process:
        status, out, errors = process.wait()
    assert (status, out) == (2, "")
    assert re.fullmatch(r"picie: error: \S*nowhere/at/all: no such folder; [^\n]*\n", errors)
    assert not (tmp_path / "run").exists()


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m picie train --help | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


class Bomb:
    """Its pickle, when loaded as a pickle is, makes a folder."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.made),)


@pytest.mark.parametrize(
    "kind", ["dict", "tensor", "text", "empty", "pickle", "bomb", "bomb_plain", "image", "folder", "missing"]
)
@pytest.mark.parametrize("command", ["evaluate", "predict", "resume"])
def test_a_checkpoint_of_something_else_is_refused_and_not_run(
    refused: Refused, tmp_path: Path, labelled_folder: Path, own_run: Path, kind: str, command: str
) -> None:
    file, made = own_run / "checkpoint.pt", tmp_path / "made by the pickle"
    file.unlink()
    if kind == "dict":
        torch.save({"state_dict": {"a": torch.zeros(2)}, "epoch": 3}, file)
    elif kind == "tensor":
        torch.save(torch.zeros(3), file)
    elif kind == "pickle":
        file.write_bytes(pickle.dumps({"format": "picie"}))
    elif kind == "bomb":
        torch.save({"format": "picie", "x": Bomb(made)}, file)
    elif kind == "bomb_plain":
        file.write_bytes(pickle.dumps(Bomb(made)))
    elif kind == "image":
        Image.new("RGB", (9, 9)).save(file, "png")
    elif kind == "folder":
        file.mkdir()
    elif kind != "missing":
        file.write_text({"text": "hello\n", "empty": ""}[kind])
    arguments = {
        "evaluate": ("evaluate", own_run),
        "predict": ("predict", own_run, labelled_folder, "--out", tmp_path / "out"),
        "resume": ("train", "--resume", own_run),
    }[command]
    if command == "resume" and kind in {"missing", "folder"}:
        return  # a run that was stopped before its first checkpoint starts over
    message = refused(*arguments)
    assert str(own_run) in message
    if kind in {"dict", "tensor"}:
        assert "is not a checkpoint of picie; give a folder that `picie train` made" in message
    elif kind in {"folder", "missing"}:
        assert "holds no checkpoint.pt; give a folder that `picie train` made" in message
    else:
        unreadable = "is not a PyTorch file, is damaged, or holds more than tensors and plain values (nothing was run)"
        assert message == f"{file}: {unreadable}; compare its size with the source's, or fetch it again"
    assert not made.exists()
    assert not (tmp_path / "out").exists()


def test_main_takes_the_process_arguments(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["picie", "--version"])
    assert main() == 0
    assert __version__ in capsys.readouterr().out


def test_a_run_that_is_being_trained_is_scored_but_not_renamed(cli: Call, own_run: Path, tmp_path: Path) -> None:
    file, scores = own_run / "checkpoint.pt", [tmp_path / "held.json", tmp_path / "free.json"]
    content = file.read_bytes()
    with checkpoint.exclusive(own_run):
        status, stdout, stderr = cli("evaluate", own_run, "--split", "train", "--name-clusters", "--json", scores[0])
    assert status == 0
    assert "mIoU" in stdout
    (warning,) = [line for line in stderr.splitlines() if "warning" in line]
    assert warning.startswith("picie: warning: another picie process is using this run, so its clusters were not named")
    assert file.read_bytes() == content
    status, _, stderr = cli("evaluate", own_run, "--split", "train", "--name-clusters", "--json", scores[1])
    assert (status, "warning" in stderr) == (0, False)
    assert re.search(r"named \d of 3 clusters.*; predict again to use the names", stderr)
    assert scores[0].read_bytes() == scores[1].read_bytes()
    assert torch.load(file, weights_only=True)["matching"]["protocol"].startswith("train; ")


def test_memory_that_runs_out_is_one_line_with_advice(
    cli: Call, labelled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore lines")

    monkeypatch.setattr(Trainer, "_step", full)
    status, stdout, stderr = cli("--quiet", "train", labelled_folder, "--out", tmp_path / "run", *TINY)
    assert (status, stdout) == (1, "")
    assert stderr.startswith(f"picie: error: {tmp_path / 'run'}: out of memory on cpu; lower run.keep_gb, train.batch_size")
    assert stderr.count("\n") == 1


def test_an_option_with_nothing_is_the_default(cli: Call, labelled_folder: Path, tmp_path: Path) -> None:
    run, preset = tmp_path / "run", ("--preset", "reference")
    assert cli("train", labelled_folder, "--out", run, *preset, *UNTRAINED, "views.invariance=", "loss.temperature=")[0] == 0
    config = torch.load(run / "checkpoint.pt", weights_only=True)["config"]
    plain = Config().model_dump(mode="json")
    assert config["views"]["invariance"] == plain["views"]["invariance"]
    assert config["loss"]["temperature"] == plain["loss"]["temperature"]
    assert config["cluster"]["metric"] == "mixed"  # the preset's, still


def test_evaluate_takes_another_matching_size_and_part(cli: Call, refused: Refused, own_run: Path, tmp_path: Path) -> None:
    scores = tmp_path / "scores.json"
    options = (
        "--matching",
        "many-to-one",
        "evaluate.size=24",
        "evaluate.crop=false",
        "--bootstrap",
        30,
        "--baselines",
        "--name-clusters",
    )
    status, stdout, stderr = cli("evaluate", own_run, *options, "--json", scores)
    assert status == 0, stderr
    told = json.loads(scores.read_text("utf-8"))
    assert told["protocol"].startswith(
        "val; whole images, short side 24 px, predicted at 32 px; K = 3, 3 classes; many-to-one by majority of pixels"
    )
    assert (told["matching"], told["intervals"]["resamples"]) == ("many-to-one", 30)
    assert list(told["matchings"]) == ["one-to-one", "one-to-one-iou", "many-to-one"]
    assert told["baselines"]["constant prediction"]["accuracy"] > 10
    assert "in brackets: 95 % confidence intervals" in stdout
    assert "matched one-to-one" in stdout
    assert checkpoint.load(own_run)["matching"]["protocol"] == told["protocol"]
    assert "'train.lr' cannot be changed when scoring" in refused("evaluate", own_run, "train.lr=1")
    assert "'nonsense' is not an option" in refused("evaluate", own_run, "nonsense")
    assert "evaluate.matching is given twice" in refused(
        "evaluate", own_run, "--matching", "many-to-one", "evaluate.matching=one-to-one"
    )
    assert "evaluate.matching = 'identity'" in refused("evaluate", own_run, "--matching", "identity")
    assert "no split 'trian'; did you mean 'train'" in refused("evaluate", own_run, "--split", "trian")


def test_an_interrupt_that_no_run_takes_is_said(cli: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(what: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("picie.cli.tables.show_list", interrupted)
    assert cli("list", "methods") == (130, "", "picie: stopped\n")
