"""`picie data curate`: recreate the curated image lists of COCO-Stuff by the published rule."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from picie.data.admin.reporting import Reporter
from picie.data.cocostuff import FOLDERS, PUBLISHED, folder_images, image_folder, label_folder, list_path
from picie.data.cocostuff_classes import FINE, FIRST_STUFF
from picie.data.images import open_label
from picie.data.labels import check_values
from picie.data.layout import DATASET_FOLDER, existing_folder
from picie.data.loading import read_ahead
from picie.errors import InputError
from picie.runtime.output_paths import write_text

log = logging.getLogger(__name__)

MIN_STUFF_SHARE = 0.75
"""Minimum share of an image's pixels that must be stuff."""


def curate(root: Path, reporter: Reporter) -> None:
    """Write the curated lists of train2017 and val2017: sorted ids, one per line.

    Existing lists are not changed.

    Args:
        root: folder of COCO-Stuff.
        reporter: shows the progress.

    Raises:
        InputError: there is no list to write (both exist, no folder has images and labels, or no
            image qualifies), or an image has no valid label. Nothing is written in that case.
    """
    root = existing_folder(root, DATASET_FOLDER)
    existing_lists = [path for split in FOLDERS if (path := list_path(root, split)).exists()]
    for path in existing_lists:
        log.info("%s: exists already, not changed", path)
    selected = {}
    for split, folder in FOLDERS.items():
        if list_path(root, split) in existing_lists:
            continue
        missing = [path for path in (image_folder(root, folder), label_folder(root, folder)) if not path.is_dir()]
        if missing:
            log.info("%s: no such folder; no list for split %s", missing[0], split)
            continue
        ids, total = _mostly_stuff(root, folder, reporter)
        published = f"the published list has {PUBLISHED[split]:,} and was made elsewhere, so the ids will differ"
        log.info("%s: %d of %d images; %s", list_path(root, split), len(ids), total, published)
        if ids:
            selected[split] = ids
    if not selected and existing_lists:
        names = ", ".join(map(str, existing_lists))
        raise InputError(f"{names}: exists already, and there is no other list to write; remove it to recreate it")
    if not selected:
        raise InputError(f"{root}: no image to list in train2017 or val2017; see `picie data check cocostuff27 {root}`")
    for split, ids in selected.items():
        path = list_path(root, split)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(f"{i}\n" for i in ids))


def stuff_share(raw: np.ndarray) -> float:
    """Share of all pixels of a stored label map `raw` (H, W) that are stuff.

    Unlabelled pixels count in the denominator, so an image with one labelled corner is not "all
    stuff".

    >>> stuff_share(np.array([[91, 181, 90, 255]]))
    0.5
    """
    return float(((raw >= FIRST_STUFF) & (raw < len(FINE))).mean())


def _mostly_stuff(root: Path, folder: str, reporter: Reporter) -> tuple[list[str], int]:
    """Sorted ids of the images of `folder` that qualify, and the number of all its images."""
    ids, labels = sorted(folder_images(root, folder)), label_folder(root, folder)
    missing = [i for i in ids if not (labels / f"{i}.png").is_file()]
    if missing:
        raise InputError(f"{labels}: {len(missing):,} of {len(ids):,} images have no label, the first {missing[0]}; add them")

    def share_of(image_id: str) -> float:
        path = labels / f"{image_id}.png"
        raw = open_label(path)
        check_values(raw, len(FINE) - 1, path)
        return stuff_share(raw)

    selected = []
    with reporter.bar(f"curate {folder}", len(ids)) as advance:
        for image_id, share in zip(ids, read_ahead(share_of, ids), strict=True):
            if share >= MIN_STUFF_SHARE:
                selected.append(image_id)
            advance(1)
    return selected, len(ids)
