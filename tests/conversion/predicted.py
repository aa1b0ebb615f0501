"""Folders of predictions made without a network, for the tests of formats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from picie.display.colors import palette, rgb_to_hex
from picie.display.overlays import index_image
from picie.inference.output_folder import OutputFolder
from picie.inference.prediction_record import MadeBy, Prediction, Record, signature

NAMES = ("sky", "straße", 'a "b" <c> & d', "路: x", "never")
IGNORE = 255


def label_maps() -> dict[str, np.ndarray]:
    """Label maps by the path of their photo: holes, several components, one value, ignored pixels, none, noise."""
    rings = np.zeros((20, 31), np.uint8)
    rings[2:18, 3:25] = 1
    rings[5:12, 6:15] = 2
    rings[7:9, 8:11] = 1
    rings[13:15, 18:20] = 3
    rings[0:3, 28:31] = 3
    partly = rings.T.copy()
    partly[:6] = IGNORE
    partly[20, 10] = IGNORE
    noise = np.random.default_rng(0).integers(0, 4, (9, 14)).astype(np.uint8)
    return {
        "rings.jpg": rings,
        "A b/é/ü&1.png": partly,
        "A b/one.jpg": np.full((6, 5), 2, np.uint8),
        "nothing.jpg": np.full((4, 7), IGNORE, np.uint8),
        "noise.jpg": noise,
    }


def write_predictions(root: Path, maps: Mapping[str, np.ndarray], names: tuple[str, ...] = NAMES) -> Path:
    """Write photos and a folder of predictions of them below `root`, as `picie predict` does; return the folder."""
    out, photos, colors = root / "predicted", root / "photos", palette(len(names))
    made_by = MadeBy(
        model="m",
        classifier="c",
        names=list(names),
        colors=list(map(rgb_to_hex, colors)),
        assignment=list(range(len(names))),
    )
    record = Record(OutputFolder(out), "run", made_by)
    for photo, labels in maps.items():
        source = photos / photo
        target = out / Path(photo).with_suffix(".png")
        for path in (source, target):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", labels.shape[::-1], (90, 120, 60)).save(source)
        index_image(labels, colors).save(target)
        record.images[str(source)] = Prediction(
            labels=target.relative_to(out).as_posix(), overlay=None, size=32, source=signature(source), share={}
        )
    record.save()
    return out
