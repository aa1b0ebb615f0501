"""The standard label sets: the meaning of stored values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from picie.data.cocostuff_classes import COARSE, FINE, FINE_TO_COARSE, UNUSED
from picie.data.label_statistics import LabelStatistics
from picie.data.labels import LABELS, named_labels, summarise_labels, to_classes
from picie.errors import InputError

SIZES = {
    "cocostuff27": (12, 15),
    "cocostuff15": (0, 15),
    "cocostuff12": (12, 0),
    "cocostuff171": (80, 91),
    "cityscapes27": (10, 17),
    "cityscapes19": (8, 11),
}


@pytest.mark.parametrize("name", LABELS)
def test_each_set_has_its_number_of_things_and_stuff(name: str) -> None:
    classes, lookup = named_labels(name)
    things, stuff = SIZES[name]
    assert (classes.groups.count("things"), classes.groups.count("stuff")) == (things, stuff)
    assert len(classes) == things + stuff
    assert (lookup.shape, lookup.dtype, classes.ignore, lookup[255]) == ((256,), np.uint8, 255, 255)
    assert set(lookup.tolist()) == {*range(len(classes)), 255}  # every class stands for some value


@pytest.mark.parametrize(
    ("name", "value", "meaning"),
    [
        ("cocostuff27", 0, "person-things"),
        ("cocostuff27", 16, "animal-things"),  # cat
        ("cocostuff27", 181, "solid-stuff"),  # wood
        ("cocostuff27", 182, None),
        ("cocostuff15", 0, None),
        ("cocostuff15", 101, "ceiling-stuff"),  # ceiling-other
        ("cocostuff15", 153, "ground-stuff"),  # sand
        ("cocostuff12", 90, "indoor-things"),
        ("cocostuff12", 91, None),
        ("cocostuff171", 10, "fire hydrant"),
        ("cocostuff171", 11, None),  # street sign, never annotated
        ("cocostuff171", 12, "stop sign"),
        ("cocostuff171", 91, "banner"),
        ("cocostuff171", 181, "wood"),
        ("cityscapes27", 6, None),
        ("cityscapes27", 7, "road"),
        ("cityscapes27", 33, "bicycle"),
        ("cityscapes19", 9, None),  # parking
        ("cityscapes19", 26, "car"),
        ("cityscapes19", 29, None),  # caravan
    ],
)
def test_stored_values_map_to_their_class(name: str, value: int, meaning: str | None) -> None:
    classes, lookup = named_labels(name)
    assert (None if lookup[value] == 255 else classes.names[lookup[value]]) == meaning


def test_classes_have_the_standard_order() -> None:
    assert named_labels("cocostuff15")[0].names == COARSE[12:]
    assert named_labels("cocostuff171")[1][[0, 10, 12, 89, 91, 181]].tolist() == [0, 10, 11, 79, 80, 170]
    classes, lookup = named_labels("cityscapes19")
    official = "road sidewalk building wall fence pole light sign vegetation terrain sky person rider car truck bus train"
    assert [name.removeprefix("traffic ") for name in classes.names] == [*official.split(), "motorcycle", "bicycle"]
    assert lookup[[7, 8, 11, 33]].tolist() == [0, 1, 2, 18]
    assert dict(zip(classes.names, classes.colors, strict=True))["car"] == "#00008e"


def test_the_table_of_cocostuff_is_complete() -> None:
    assert len(FINE) == len(set(FINE)) == len(FINE_TO_COARSE) == 182
    assert len(UNUSED) == 11
    for fine, coarse in enumerate(FINE_TO_COARSE):
        assert COARSE[coarse].endswith("-things" if fine < 91 else "-stuff"), FINE[fine]
    assert set(FINE_TO_COARSE) == set(range(27))


def test_an_unknown_set_gives_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown label set 'cocostuf27'; did you mean 'cocostuff27'"):
        named_labels("cocostuf27")


def test_invalid_values_are_refused_with_their_file() -> None:
    lookup = named_labels("cityscapes27")[1]
    raw = np.array([[1, 0, 7], [33, 255, 8]])
    assert to_classes(raw, lookup, 33, "f.png").tolist() == [[255, 255, 0], [26, 255, 1]]
    assert to_classes(raw.astype(np.uint8), lookup, 33, "f.png").dtype == np.uint8
    for wrong in (34, 254, 256, 263, -1):
        with pytest.raises(InputError, match=rf"f\.png: value {wrong} is not a label id \(0\.\.33, 255: none\)"):
            to_classes(np.array([[7, wrong]]), lookup, 33, "f.png")


def seen(*values: int) -> LabelStatistics:
    statistics = LabelStatistics()
    statistics.add(np.array([values]), Path("none.npy"))
    return statistics


def test_ids_of_another_numbering_are_noticed() -> None:
    def warnings(name: str, *values: int) -> list[str]:
        return summarise_labels(name, named_labels(name)[1], seen(*values))[1]

    assert "these look like trainIds" in warnings("cityscapes27", 0, 1, 8, 18, 255)[0]
    assert "these look like trainIds" in warnings("cityscapes19", 0, 255)[0]
    assert warnings("cityscapes27", 0, 7, 26, 255) == []
    assert "value 25 (hat) occurs, which COCO-Stuff never annotated" in warnings("cocostuff171", 0, 25, 90, 255)[0]
    assert warnings("cocostuff27", 0, 24, 181, 255) == []
    summary = summarise_labels("cityscapes27", named_labels("cityscapes27")[1], seen(0, 7, 7, 255))[0]
    assert summary == {"ignored": 50.0, "values": [0, 7, 255], "files": 1}
