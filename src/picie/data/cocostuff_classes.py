"""The labels of COCO-Stuff: 182 fine ids, the unused ones, and the 27 coarse classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from picie.data.base import ClassMap
from picie.display.colors import palette, rgb_to_hex

# fmt: off
FINE = (  # 0-90: things, COCO's ids minus one
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light", "fire hydrant",
    "street sign", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear",
    "zebra", "giraffe", "hat", "backpack", "umbrella", "shoe", "eye glasses", "handbag", "tie", "suitcase", "frisbee", "skis",
    "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket",
    "bottle", "plate", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "mirror",
    "dining table", "window", "desk", "toilet", "door", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "blender", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush", "hair brush",
    # 91-181: stuff
    "banner", "blanket", "branch", "bridge", "building-other", "bush", "cabinet", "cage", "cardboard", "carpet",
    "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds", "counter", "cupboard", "curtain", "desk-stuff", "dirt",
    "door-stuff", "fence", "floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood", "flower", "fog",
    "food-other", "fruit", "furniture-other", "grass", "gravel", "ground-other", "hill", "house", "leaves", "light", "mat",
    "metal", "mirror-stuff", "moss", "mountain", "mud", "napkin", "net", "paper", "pavement", "pillow", "plant-other",
    "plastic", "platform", "playingfield", "railing", "railroad", "river", "road", "rock", "roof", "rug", "salad", "sand",
    "sea", "shelf", "sky-other", "skyscraper", "snow", "solid-other", "stairs", "stone", "straw", "structural-other", "table",
    "tent", "textile-other", "towel", "tree", "vegetable", "wall-brick", "wall-concrete", "wall-other", "wall-panel",
    "wall-stone", "wall-tile", "wall-wood", "water-other", "waterdrops", "window-blind", "window-other", "wood",
)
"""Name of each fine id stored in the label maps; things first, stuff from `FIRST_STUFF` on."""

COARSE = (
    "electronic-things", "appliance-things", "food-things", "furniture-things", "indoor-things", "kitchen-things",
    "accessory-things", "animal-things", "outdoor-things", "person-things", "sports-things", "vehicle-things",
    "ceiling-stuff", "floor-stuff", "food-stuff", "furniture-stuff", "rawmaterial-stuff", "textile-stuff", "wall-stuff",
    "window-stuff", "building-stuff", "ground-stuff", "plant-stuff", "sky-stuff", "solid-stuff", "structural-stuff",
    "water-stuff",
)
"""The coarse classes in their standard order: 12 of things, 15 of stuff."""

FINE_TO_COARSE = (
    9, 11, 11, 11, 11, 11, 11, 11, 11, 8, 8, 8, 8, 8, 8, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 6, 6, 6, 6, 6, 6, 6, 6, 10, 10, 10, 10,
    10, 10, 10, 10, 10, 10, 5, 5, 5, 5, 5, 5, 5, 5, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 0, 0, 0, 0, 0,
    0, 1, 1, 1, 1, 1, 1, 4, 4, 4, 4, 4, 4, 4, 4, 17, 17, 22, 20, 20, 22, 15, 25, 16, 13, 12, 12, 17, 17, 23, 15, 15, 17, 15,
    21, 15, 25, 13, 13, 13, 13, 13, 22, 26, 14, 14, 15, 22, 21, 21, 24, 20, 22, 15, 17, 16, 15, 22, 24, 21, 17, 25, 16, 21,
    17, 22, 16, 21, 21, 25, 21, 26, 21, 24, 20, 17, 14, 21, 26, 15, 23, 20, 21, 24, 15, 24, 22, 25, 15, 20, 17, 17, 22, 14,
    18, 18, 18, 18, 18, 18, 18, 26, 26, 19, 19, 24,
)
"""The coarse class of each fine id."""
# fmt: on

FIRST_STUFF = 91
UNUSED = frozenset((11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90))
"""Fine ids that occur in no label map: things that COCO planned and never annotated."""

UNLABELLED = 255
_COARSE_THINGS = 12


def coarse_labels(group: str = "", fine_to_coarse: Sequence[int] = FINE_TO_COARSE) -> tuple[ClassMap, np.ndarray]:
    """The coarse classes, and the class of each stored value.

    Args:
        group: "things" for its 12 classes, "stuff" for its 15 (the other group is ignored), "" for
            all 27.
        fine_to_coarse: the coarse class of each of the 182 fine ids.

    Returns:
        The classes, and a (256,) uint8 table that maps a stored value to its class or 255.
    """
    groups = tuple("things" if coarse < _COARSE_THINGS else "stuff" for coarse in range(len(COARSE)))
    classes = [coarse for coarse, its_group in enumerate(groups) if group in {"", its_group}]
    lookup = _empty()
    for fine, coarse in enumerate(fine_to_coarse):
        if coarse in classes:
            lookup[fine] = classes.index(coarse)
    return _class_map([COARSE[c] for c in classes], [groups[c] for c in classes]), lookup


def fine_labels() -> tuple[ClassMap, np.ndarray]:
    """The 171 used fine classes, 80 things and 91 stuff, and a table as in `coarse_labels`."""
    used = [fine for fine in range(len(FINE)) if fine not in UNUSED]
    lookup = _empty()
    lookup[used] = np.arange(len(used))
    groups = ["things" if fine < FIRST_STUFF else "stuff" for fine in used]
    return _class_map([FINE[fine] for fine in used], groups), lookup


def _empty() -> np.ndarray:
    return np.full(256, UNLABELLED, dtype=np.uint8)


def _class_map(names: Sequence[str], groups: Sequence[str]) -> ClassMap:
    colors = tuple(rgb_to_hex(color) for color in palette(len(names)))
    return ClassMap(tuple(names), colors, UNLABELLED, tuple(groups))
