"""`picie data curate`: the curated lists of COCO-Stuff by the rule that they were made by."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from picie.data.cocostuff import FOLDERS, PUBLISHED, folder_images, image_folder, label_folder, list_path
from picie.data.cocostuff_classes import FINE, FIRST_STUFF
from picie.data.images import open_label
from picie.data.labels import check_values
from picie.data.layout import DATASET_FOLDER, existing_folder
from picie.data.loading import read_ahead
from picie.errors import InputError
from picie.runtime.checkpoint import write_atomically
from picie.runtime.progress import Progress

log = logging.getLogger(__name__)

SHARE = 0.75
"""Least share of an image's pixels that must be stuff."""


def curate(root: Path) -> None:
    """Write the curated lists of train2017 and val2017: sorted ids of the images that are mostly stuff, one a line.

    A list that exists is left as it is.

    Raises:
        InputError: there is no list to make: they exist, or no folder has images and labels, or no image is chosen; or an
            image has no label, or one that is no label map of COCO-Stuff. Nothing is written.
    """
    root = existing_folder(root, DATASET_FOLDER)
    kept = [existing for split in FOLDERS if (existing := list_path(root, split)).exists()]
    for existing in kept:
        log.info("%s: exists already and is left as it is", existing)
    chosen = {}
    for split, folder in FOLDERS.items():
        if list_path(root, split) in kept:
            continue
        missing = [path for path in (image_folder(root, folder), label_folder(root, folder)) if not path.is_dir()]
        if missing:
            log.info("%s: no such folder; no list for split %s", missing[0], split)
            continue
        ids, total = _mostly_stuff(root, folder)
        published = f"the published list has {PUBLISHED[split]:,}, made elsewhere: do not expect the same ids"
        log.info("%s: %d of %d images; %s", list_path(root, split), len(ids), total, published)
        if ids:
            chosen[split] = ids
    if not chosen and kept:
        names = ", ".join(map(str, kept))
        raise InputError(f"{names}: exists already, and there is no other list to make; remove it to have it made anew")
    if not chosen:
        raise InputError(f"{root}: no image to list in train2017 or val2017; see `picie data check cocostuff27 {root}`")
    for split, ids in chosen.items():
        path = list_path(root, split)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = "".join(f"{i}\n" for i in ids).encode()
        write_atomically(path, lambda file, content=content: file.write(content))


def stuff_share(raw: np.ndarray) -> float:
    """Share of all pixels of a stored label map `raw` (H, W) that are stuff.

    Unlabelled pixels count below the line, so that an image with one labelled corner is not "all stuff".

    >>> stuff_share(np.array([[91, 181, 90, 255]]))
    0.5
    """
    return float(((raw >= FIRST_STUFF) & (raw < len(FINE))).mean())


def _mostly_stuff(root: Path, folder: str) -> tuple[list[str], int]:
    """Sorted ids of the images of `folder` that the rule chooses, and the number of its images."""
    ids, labels = sorted(folder_images(root, folder)), label_folder(root, folder)
    missing = [i for i in ids if not (labels / f"{i}.png").is_file()]
    if missing:
        raise InputError(
            f"{labels}: {len(missing):,} of {len(ids):,} images have no label, the first {missing[0]}; complete it"
        )

    def share(image_id: str) -> float:
        path = labels / f"{image_id}.png"
        raw = open_label(path)
        check_values(raw, len(FINE) - 1, path)
        return stuff_share(raw)

    chosen = []
    with Progress() as bars, bars.bar(f"curate {folder}", len(ids)) as advance:
        for image_id, part in zip(ids, read_ahead(share, ids), strict=True):
            if part >= SHARE:
                chosen.append(image_id)
            advance(1)
    return chosen, len(ids)
