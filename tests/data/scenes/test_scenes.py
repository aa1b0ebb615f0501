"""The built-in procedural dataset: reproducible, exact, varied, and not to be solved by colour."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from picie.data.base import Dataset
from picie.data.scenes.dataset import CLASSES, Scenes, scene, write
from picie.errors import InputError

Pictures = list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]


@pytest.fixture(scope="module")
def train() -> Pictures:
    return [scene(0, i) for i in range(60)]


@pytest.fixture(scope="module")
def val() -> Pictures:
    return [scene(0, i, "val") for i in range(20)]


def test_a_scene_is_a_function_of_seed_and_index(train: Pictures) -> None:
    for i in (7, 3, 7):
        image, label = scene(0, i)
        assert np.array_equal(image, train[i][0])
        assert np.array_equal(label, train[i][1])
    assert not np.array_equal(scene(1, 3)[0], train[3][0])


def test_a_scene_is_a_new_array() -> None:
    image, label = scene(0, 0)
    image[:], label[:] = 0, 0
    assert scene(0, 0)[0].any() and scene(0, 0)[1].any()


def test_shapes_types_and_ranges(train: Pictures) -> None:
    for image, label in train:
        assert image.shape == (160, 240, 3) and image.dtype == np.uint8
        assert label.shape == (160, 240) and label.dtype == np.uint8
        assert label.max() < len(CLASSES)
        assert image.std() > 12 and 35 < image.mean() < 220


def test_every_class_has_a_fair_share(train: Pictures) -> None:
    counts = np.stack([np.bincount(label.ravel(), minlength=8) for _, label in train])
    shares = counts.sum(0) / counts.sum()
    assert shares.min() > 0.015 and shares.max() < 0.35, dict(zip(CLASSES.names, shares, strict=True))
    assert ((counts > 0).mean(0) > 0.3).all()
    assert (counts == 0).any(0).sum() >= 4, "scenes should differ in what they show"


def test_no_two_scenes_are_alike_in_or_across_the_splits(train: Pictures, val: Pictures) -> None:
    assert len({image.tobytes() for image, _ in train + val}) == len(train) + len(val)


def test_winter_is_unlike_the_other_splits_and_has_the_same_classes(train: Pictures) -> None:
    winter = [scene(0, i, "winter") for i in range(20)]
    assert not {image.tobytes() for image, _ in winter} & {image.tobytes() for image, _ in train}
    grass, tree = CLASSES.names.index("grass"), CLASSES.names.index("tree")

    def greenness(pictures: Pictures, label: int) -> float:
        pixels = np.concatenate([image[labels == label] for image, labels in pictures]).astype(float)
        return float((pixels[:, 1] - pixels[:, [0, 2]].mean(1)).mean())

    for label in (grass, tree):
        assert greenness(winter, label) < 0.5 * greenness(train, label)
    assert set(np.unique(np.stack([label for _, label in winter]))) == set(range(8))


def _miou(truth: npt.NDArray[np.uint8], guess: npt.NDArray[np.intp]) -> float:
    confusion = np.bincount(truth.astype(np.intp) * 8 + guess, minlength=64).reshape(8, 8)
    hits = np.diag(confusion)
    return float((hits / (confusion.sum(0) + confusion.sum(1) - hits)).mean())


def test_colour_alone_does_not_solve_it(train: Pictures, val: Pictures) -> None:
    pixels, labels = (np.concatenate([p[k][::2, ::2].reshape(-1, *p[k].shape[2:]) for p in train]) for k in (0, 1))
    means = np.stack([pixels[labels == k].mean(0) for k in range(8)])
    pixels, labels = (np.concatenate([p[k][::2, ::2].reshape(-1, *p[k].shape[2:]) for p in val]) for k in (0, 1))
    guess = np.stack([((pixels - m) ** 2).sum(1) for m in means]).argmin(0)
    assert _miou(labels, guess) < 0.45
    assert np.bincount(labels).max() / len(labels) < 0.4


def test_the_dataset_gives_what_scene_gives(train: Pictures, val: Pictures) -> None:
    data = Scenes("train", n=9)
    assert isinstance(data, Dataset) and data.classes is CLASSES
    assert (len(data), len(Scenes()), len(Scenes("val"))) == (9, 240, 60)
    assert data.name(7) == "scene_0007.png"
    assert np.array_equal(np.asarray(data.image(7)), train[7][0]) and data.image(7).mode == "RGB"
    assert np.array_equal(data.label(7), train[7][1])
    assert np.array_equal(Scenes("val", n=3).label(2), val[2][1])
    with pytest.raises(IndexError):
        data.image(9)


@pytest.mark.parametrize("arguments", [{"split": "vall"}, {"seed": -1}, {"n": 0}])
def test_bad_arguments_are_named(arguments: dict[str, object]) -> None:
    with pytest.raises(InputError, match=str(next(iter(arguments.values())))):
        Scenes(**arguments)  # type: ignore[arg-type]


def test_an_unknown_split_names_the_valid_ones() -> None:
    with pytest.raises(InputError, match=r"'val'.*train, val, winter"):
        Scenes("vall")


def test_what_is_written_reads_back_exactly(tmp_path: Path, train: Pictures, val: Pictures) -> None:
    root = tmp_path / "deep" / "scenes"
    write(root, n_train=4, n_val=2)
    write(root, n_train=3, n_val=2)
    for split, pictures, n in (("train", train, 3), ("val", val, 2)):
        names = [f"scene_{i:04d}.png" for i in range(n)]
        for kind in ("images", "labels"):
            assert sorted(p.name for p in (root / kind / split).iterdir()) == names
        for name, (image, label) in zip(names, pictures, strict=False):
            assert np.array_equal(np.asarray(Image.open(root / "images" / split / name)), image)
            with Image.open(root / "labels" / split / name) as written:
                assert written.mode == "P" and np.array_equal(np.asarray(written), label)
                assert bytes((written.getpalette() or [])[:3]).hex() == CLASSES.colors[0][1:]
    toml = tomllib.loads((root / "classes.toml").read_text(encoding="utf-8"))
    assert toml == {"ignore": 255, "names": list(CLASSES.names), "colors": list(CLASSES.colors)}


@pytest.mark.parametrize("path", ["holiday.jpg", "images/train/holiday.png", "classes.toml", "images/train/scene_0000.png"])
def test_a_foreign_folder_is_left_alone(tmp_path: Path, path: str) -> None:
    mine = tmp_path / path
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=mine.name):
        write(tmp_path, n_train=1, n_val=1)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [mine] and mine.read_text(encoding="utf-8") == "mine"


def test_a_file_is_no_root(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="is a file"):
        write(tmp_path / "f")
