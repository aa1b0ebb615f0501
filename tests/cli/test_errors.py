"""Bad input: one line on stderr that says what, where and what to do; status 2; nothing done, nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import TINY

from picie import ScoreOptions, evaluate
from picie.runtime import checkpoint

Refused = Callable[..., str]


@pytest.fixture
def not_trained(refused: Refused, tmp_path: Path) -> Refused:
    """not_trained(DATA, options...): the message of a `picie train` that is refused and leaves nothing behind."""

    def call(data: object, *arguments: object) -> str:
        message = refused("train", data, "--out", tmp_path / "new" / "run", *arguments)
        assert not (tmp_path / "new" / "run").exists()
        return message

    return call


def test_data_that_is_not_there(not_trained: Refused, tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    file.write_text("x")
    (tmp_path / "empty").mkdir()
    assert "no such folder" in not_trained(tmp_path / "nowhere")
    assert "did you mean 'scenes'" in not_trained("scene")
    assert f"{file}: is a file" in not_trained(file)
    assert "no image file in it or below it" in not_trained(tmp_path / "empty", *TINY)


@pytest.mark.parametrize("options", [["train.batch_size=1"], ["cluster.batch_size=1", "cluster.batchnorm=train"]])
def test_a_step_on_a_single_value_a_channel(not_trained: Refused, labelled_folder: Path, options: list[str]) -> None:
    given = {option.partition("=")[0] for option in options}
    tiny = [option for option in TINY if option.partition("=")[0] not in given]
    assert "BatchNorm needs two" in not_trained(labelled_folder, *tiny, *options)


def test_one_picture_of_a_single_coarsest_cell(not_trained: Refused, labelled_folder: Path, tmp_path: Path) -> None:
    first = next((labelled_folder / "images" / "train").iterdir())
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / first.name).write_bytes(first.read_bytes())
    assert "views.size = 32: a step on one image" in not_trained(tmp_path / "one", *TINY)


def test_only_unreadable_images(not_trained: Refused, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(3):
        (tmp_path / "photos" / f"{i}.jpg").write_bytes(b"no picture")
    message = not_trained(tmp_path / "photos", *TINY)
    assert "none of the 3 images can be read; the first:" in message
    assert "0.jpg" in message


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["cluster.kk=3"], ["unknown key 'cluster.kk'", "did you mean 'cluster.k'"]),
        (["--preset", "refrence"], ["unknown preset 'refrence'", "did you mean 'reference'"]),
        (["--config", "nowhere.toml"], ["nowhere.toml: cannot be read", "No such file"]),
        (["model.backbone=resnet81"], ["model.backbone", "'resnet81'", "did you mean 'resnet18'"]),
        (["--method", "pice"], ["method: unknown name 'pice'", "did you mean 'picie'"]),
        (["data.name=foldr"], ["data.name: unknown name 'foldr'", "did you mean 'folder'"]),
        (["data.name=scenes"], ["dataset 'scenes' takes no folder"]),
        (["views.invariance=blurr"], ["views.invariance: unknown name 'blurr'", "did you mean 'blur'"]),
        (["views.invariance=gray"], ["views.invariance: unknown name 'gray'", "greyscale"]),
        (["views.invariance=crop"], ["'crop' belongs in views.equivariance"]),
        (["views.equivariance=crop,blur"], ["'blur' belongs in views.invariance"]),
        (['views.invariance=[{name="blur", sigmas=[1, 2]}]'], ["blur has no parameter 'sigmas'", "did you mean 'sigma'"]),
        (['views.equivariance=[{name="crop", scale=[0.5, 2.0]}]'], ["crop: scale"]),
        (["views.invariance=no.such.module:Thing"], ["cannot import 'no.such.module'"]),
        (["method=picie.cli.main:Nothing"], ["picie.cli.main has no 'Nothing'"]),
        (["--clusters", "1"], ["-k (cluster.k) = 1", "greater than or equal to 2"]),
        (["-k", "385"], ["-k (cluster.k) = 385", "384 points"]),
        (["--lr", "-1"], ["--lr (train.lr) = -1.0", "greater than 0"]),
        (["--device", "gpu"], ["--device (run.device): unknown device 'gpu'"]),
        (["--clusters", "four"], ["--clusters", "integer"]),
        (["cluster.k=385"], ["cluster.k = 385", "384 points", "fewer clusters or give more images"]),
        (["cluster.init_points=10", "cluster.k=11"], ["cluster.k = 11"]),
        (["-k", "4", "cluster.k=5"], ["cluster.k is given twice, as 4 and as 5"]),
        (["train.lr=1", "train.lr=2"], ["train.lr is given twice"]),
        (["data.root=elsewhere"], ["data.root is given twice"]),
        (["views.crop=16"], ["views.crop = 16 is smaller than views.size = 32"]),
        (["views.aspect=2", "views.equivariance=rot90"], ["'rot90' exchanges rows and columns", "views.aspect=2"]),
        (["nonsense"], ["'nonsense' is not an option", "section.key=value"]),
        (["data.train_split=trian"], ["no split 'trian'", "did you mean 'train'"]),
        (["run.device=gpu"], ["run.device: unknown device 'gpu'", "cuda"]),
        (["run.device=cuda:7"], ["run.device: 'cuda:7' is not on this machine"]),
        (["model.weights=nowhere.pth", "model.pretrained=true"], ["model.weights: nowhere.pth: no such file"]),
        (["model.weights=nowhere.pth", "model.pretrained=false"], ["model.weights", "model.pretrained"]),
        (["train.epochs=1.5"], ["train.epochs = 1.5"]),
        (["seed=true"], ["seed = True", "integer"]),
        (["cluster.init_batches=1", "cluster.k=257"], ["cluster.k = 257", "256 points", "cluster.init_batches"]),
        (["loss.within=0", "loss.cross=0"], ["loss.within, loss.cross and loss.mse are all off", "nothing would be trained"]),
        (["method=mdc", "loss.mse=true"], ["loss.mse compare two views", "method=mdc has one", "leave them out"]),
        (["method=mdc", "loss.within=0.5"], ["loss.within", "method=mdc has one"]),
        (["method=mdc", "loss.cross=0"], ["loss.cross", "method=mdc has one"]),
        (["method=mdc", "cluster.over_k=9"], ["cluster.over_k = 9: method=mdc has no over-clustering head", "method=picie"]),
        (["cluster.over_k=1"], ["cluster.over_k = 1: a head needs at least 2 clusters"]),
        (["cluster.over_k=385"], ["cluster.over_k = 385", "384 points", "fewer clusters or give more images"]),
        (["evaluate.split=vall"], ["no split 'vall'", "did you mean 'val'"]),
    ],
)
def test_options_that_cannot_be(not_trained: Refused, labelled_folder: Path, arguments: list[str], parts: list[str]) -> None:
    flags = {"-k": "cluster.k", "--clusters": "cluster.k", "--lr": "train.lr", "--device": "run.device"}
    keys = {flags.get(a, a.partition("=")[0]) for a in arguments}
    tiny = [option for option in TINY if option.partition("=")[0] not in keys]
    message = not_trained(labelled_folder, *arguments, *tiny)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["trian"], ["No such command 'trian'", "train"]),
        (["train"], ["DATA is missing"]),
        (["train", "--epoch", "3"], ["No such option: --epoch", "--epochs"]),
        (["train", "x", "--epochs"], ["--epochs", "argument"]),
        (["train", "x", "--temperature", "0.1"], ["No such option: --temperature", "write loss.temperature=VALUE"]),
        (["train", "x", "--class-weights=none"], ["No such option: --class-weights", "write loss.class_weights=VALUE"]),
        (["train", "x", "--split", "val"], ["write evaluate.split=VALUE"]),
        (["evaluate", "x", "--size", "32"], ["No such option: --size; write evaluate.size=VALUE; see picie evaluate"]),
        (["predict", "x", "y", "--every", "3"], ["No such option: --every"]),
        (["train", "x", "--lr", "fast"], ["--lr", "must be a valid number; see"]),
        (["predict", "run", "photo.jpg"], ["Missing option '--out'"]),
        (["predict", "run", "--out", "segments"], ["give images or folders of images", "--from FILE"]),
        (["evaluate"], ["Missing argument 'RUN'"]),
        (["evaluate", "nowhere"], ["nowhere: no such run"]),
        (["list"], ["WHAT is missing"]),
        (["list", "preset"], ["unknown kind 'preset'", "did you mean 'presets'"]),
        (["train", "--resume", "nowhere"], ["--resume nowhere: holds no run"]),
        (["--nonsense"], ["No such option: --nonsense"]),
    ],
)
def test_usage_errors(refused: Refused, arguments: list[str], parts: list[str]) -> None:
    message = refused(*arguments)
    for part in parts:
        assert part.lower() in message.lower()


def _out_of_range(label: np.ndarray, path: Path) -> None:
    label[5, 5] = 9
    Image.fromarray(label).save(path)


def _other_size(label: np.ndarray, path: Path) -> None:
    Image.fromarray(label[:, 4:]).save(path)


def _colors(label: np.ndarray, path: Path) -> None:
    Image.fromarray(np.dstack([label, label, 255 - label])).save(path)


def _missing(_: np.ndarray, path: Path) -> None:
    path.unlink()


def _garbage(_: np.ndarray, path: Path) -> None:
    path.write_bytes(b"x")


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (_out_of_range, "label value 9 is not a class (0..2) and not ignore (255)"),
        (_other_size, "label is 60x48 but its image"),
        (_colors, "is not in colors of classes.toml"),
        (_missing, "no label for image"),
        (_garbage, "cannot be read as a label map"),
    ],
)
def test_a_bad_label_is_found_before_any_work(
    refused: Refused, not_trained: Refused, own_folder: Path, trained: Path, spoil: Callable[..., None], part: str
) -> None:
    path = own_folder / "labels" / "val" / "101.png"
    spoil(np.asarray(Image.open(path)).copy(), path)
    for message in (not_trained(own_folder, *TINY), refused("evaluate", trained, "--data", own_folder)):
        assert part in message
        assert "101" in message


def test_labels_without_a_class_are_found_before_any_work(
    refused: Refused, not_trained: Refused, own_folder: Path, trained: Path
) -> None:
    labels = sorted((own_folder / "labels" / "val").iterdir())
    kept = labels[0].read_bytes()
    for path in labels:
        Image.new("L", Image.open(path).size, 255).save(path)
    for message in (not_trained(own_folder, *TINY), refused("evaluate", trained, "--data", own_folder)):
        assert "every pixel of the split's labels is ignored (255)" in message
    labels[0].write_bytes(kept)  # one labelled picture is enough, the other is passed over
    assert evaluate(trained, own_folder, options=ScoreOptions(progress=False)).n_images == 2


def test_scores_need_labels(refused: Refused, trained: Path, labelled_folder: Path, tmp_path: Path) -> None:
    assert "has no labels" in refused("evaluate", trained, "--data", labelled_folder / "images")
    assert "no split 'test'" in refused("evaluate", trained, "--split", "test")
    assert "no such folder" in refused("evaluate", trained, "--data", tmp_path / "nowhere")
    assert "--json" in refused("evaluate", trained, "--json", tmp_path / "nowhere" / "scores.json")
    assert "is a folder" in refused("evaluate", trained, "--json", tmp_path)


def test_an_output_that_cannot_be(not_trained: Refused, refused: Refused, labelled_folder: Path, trained: Path) -> None:
    assert "exists already" in refused("train", labelled_folder, "--out", trained, *TINY)
    below_a_file = labelled_folder / "classes.toml" / "run"
    assert "Not a directory" in refused("train", labelled_folder, "--out", below_a_file, *TINY)
    assert "Not a directory" in refused("predict", trained, labelled_folder, "--out", below_a_file)


def test_bad_data_leaves_an_empty_folder_empty(refused: Refused, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    out.mkdir()
    (photos / "a.jpg").write_bytes(b"no picture")
    for _ in range(2):  # so that a second try says the same
        assert "no image can be read: " in refused("train", photos, "--out", out, *TINY)
    assert not list(out.iterdir())


@pytest.mark.parametrize(
    "extra", [["--preset", "reference"], ["--out", "elsewhere"], ["--config", "x.toml"], ["--seed", "3"], ["train.lr=1"]]
)
def test_resume_takes_no_other_settings(refused: Refused, own_run: Path, extra: list[str]) -> None:
    before = (own_run / "config.toml").read_bytes()
    message = refused("train", "--resume", own_run, *extra)
    assert "from the run" in message
    assert "leave" in message
    assert (own_run / "config.toml").read_bytes() == before
    assert "leave out DATA" in refused("train", "photos", "--resume", own_run)


def test_predict_refuses_before_writing(refused: Refused, trained: Path, tmp_path: Path, labelled_folder: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    assert "no such file or folder" in refused("predict", trained, labelled_folder, tmp_path / "gone.jpg", "--out", out)
    assert "has no image file" in refused("predict", trained, tmp_path / "empty", "--out", out)
    assert "no image can be predicted: " in refused("predict", trained, tmp_path / "bad.jpg", "--out", out)
    assert "is not on this machine" in refused("predict", trained, labelled_folder, "--out", out, "--device", "cuda:9")
    assert not out.exists()


def test_a_second_picie_leaves_the_first_ones_run_alone(refused: Refused, own_run: Path) -> None:
    before = {path.name: path.read_bytes() for path in own_run.iterdir()}
    with checkpoint.exclusive(own_run):
        message = refused("--quiet", "train", "--resume", own_run, "train.epochs=3")
    assert f"{own_run}: another picie is at work on this run" in message
    assert {path.name: path.read_bytes() for path in own_run.iterdir()} == before


def test_what_was_forgotten_is_said(refused: Refused, trained: Path, labelled_folder: Path, tmp_path: Path) -> None:
    photos = labelled_folder / "images" / "val"
    message = refused("predict", photos, "--out", tmp_path / "out")
    assert message == f"{photos}: is not a run; give the run's folder first, then the images: picie predict RUN {photos} ..."
    assert "give images or folders of images after the run" in refused("predict", trained, "--out", tmp_path / "out")
    assert "WHAT is missing; give one of datasets, backbones" in refused("list")
