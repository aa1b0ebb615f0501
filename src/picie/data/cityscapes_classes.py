"""The labels of Cityscapes: 34 ids with names and colours, and the two scored sets of classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from picie.data.base import ClassMap

LAST_ID = 33
IGNORED = 255  # also the value of id -1 (licence plate) as an unsigned byte

_FIRST_CLASS = 7  # lower ids are void: the ego vehicle, borders, unlabelled
_CLASSES = (  # of ids 7..33: name, colour
    ("road", "#804080"),
    ("sidewalk", "#f423e8"),
    ("parking", "#faaaa0"),
    ("rail track", "#e6968c"),
    ("building", "#464646"),
    ("wall", "#66669c"),
    ("fence", "#be9999"),
    ("guard rail", "#b4a5b4"),
    ("bridge", "#966464"),
    ("tunnel", "#96785a"),
    ("pole", "#999999"),
    ("polegroup", "#999999"),
    ("traffic light", "#faaa1e"),
    ("traffic sign", "#dcdc00"),
    ("vegetation", "#6b8e23"),
    ("terrain", "#98fb98"),
    ("sky", "#4682b4"),
    ("person", "#dc143c"),
    ("rider", "#ff0000"),
    ("car", "#00008e"),
    ("truck", "#000046"),
    ("bus", "#003c64"),
    ("caravan", "#00005a"),
    ("trailer", "#00006e"),
    ("train", "#005064"),
    ("motorcycle", "#0000e6"),
    ("bicycle", "#770b20"),
)
_THINGS = frozenset(
    ("person", "rider", "car", "truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle")
)  # the classes that are annotated as instances
# in the order of classes 0..18
_TRAIN_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def all_labels() -> tuple[ClassMap, np.ndarray]:
    """The 27 classes of ids 7..33, and a (256,) uint8 table from stored value to class or 255."""
    return _labels(range(_FIRST_CLASS, LAST_ID + 1))


def train_id_labels() -> tuple[ClassMap, np.ndarray]:
    """The 19 classes of the official benchmark, and a table as in `all_labels`."""
    return _labels(_TRAIN_IDS)


def _labels(ids: Sequence[int]) -> tuple[ClassMap, np.ndarray]:
    lookup = np.full(256, IGNORED, dtype=np.uint8)
    lookup[list(ids)] = np.arange(len(ids))
    names, colors = zip(*(_CLASSES[i - _FIRST_CLASS] for i in ids), strict=True)
    groups = tuple("things" if name in _THINGS else "stuff" for name in names)
    return ClassMap(names, colors, IGNORED, groups), lookup
